"""Slides that are missing, cut short or damaged: each says so, and what to do."""

import gc
import os
import pickle
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from microtome.arrays import Pixels
from microtome.errors import (
    DamagedSlide,
    EmptySlide,
    MicrotomeError,
    NotASlide,
    SlideNotFound,
    TruncatedSlide,
    UnsupportedSlide,
)
from microtome.grid import Window
from microtome.slides import BadTiles, OnBadTile, open_slide
from tests.slides import makers


def with_bytes(path: Path, target: Path, at: int, junk: bytes) -> Path:
    """A copy with some bytes replaced."""
    encoded = bytearray(path.read_bytes())
    encoded[at : at + len(junk)] = junk
    target.write_bytes(encoded)
    return target


def tile_place(path: Path, index: int, page: int = 0) -> tuple[int, int]:
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[page].dataoffsets[index], tiff.pages[page].databytecounts[index]


def test_no_such_file_an_empty_one_and_text_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SlideNotFound, match="no such file"):
        open_slide(str(tmp_path / "none.svs"))
    empty, text = tmp_path / "empty.svs", tmp_path / "notes.svs"
    empty.write_bytes(b"")
    text.write_text("not a slide at all")
    with pytest.raises(EmptySlide, match="0 bytes"):
        open_slide(str(empty))
    with pytest.raises(NotASlide, match="begins with 'not a slide"):
        open_slide(str(text))


@pytest.mark.parametrize("name", ["cmu_slide", "tcga_slide", "dapi_slide"])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9, 0.999])
def test_a_slide_cut_short_anywhere_does_not_open(
    name: str, share: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    encoded = request.getfixturevalue(name).read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(encoded[: int(len(encoded) * share)])
    with pytest.raises((TruncatedSlide, DamagedSlide), match="copy it again"):
        open_slide(str(path))


def test_a_cut_slide_says_where_it_ends_and_where_its_tables_point(cmu_slide: Path, tmp_path: Path) -> None:
    encoded = cmu_slide.read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(encoded[:1_000_000])
    with pytest.raises(TruncatedSlide, match=r"ends at byte 1,000,000, but its tables point to byte 1,"):
        open_slide(str(path))


@pytest.mark.parametrize("make", ["png", "jpeg", "striped_lzw", "uncompressed", "ome_subifds", "vms"])
def test_a_made_slide_cut_short_does_not_open(make: str, tmp_path: Path, tissue: Pixels) -> None:
    path = makers.MAKERS[make](tmp_path, tissue)
    cut = path.with_name("tile.jpg") if make == "vms" else path
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    with pytest.raises(MicrotomeError), open_slide(str(path)) as slide:
        slide.read(0, Window(0, 0, slide.levels[0].height_px, slide.levels[0].width_px))


def test_a_dicom_slide_cut_short_does_not_open(cmu_dicom: Path, tmp_path: Path) -> None:
    volume = max(cmu_dicom.iterdir(), key=lambda path: path.stat().st_size)
    path = tmp_path / "cut.dcm"
    path.write_bytes(volume.read_bytes()[:900_000])
    with pytest.raises(DamagedSlide, match="cut short"):
        open_slide(str(path))


def damaged(path: Path, tmp_path: Path) -> Path:
    """Three tiles spoilt: one of zeros, one cut off inside, one with its end in the middle."""
    target = tmp_path / f"damaged{path.suffix}"
    target.write_bytes(path.read_bytes())
    first, size = tile_place(path, 0)
    with_bytes(target, target, first, bytes(size))
    at, size = tile_place(path, 12)
    with_bytes(target, target, at + size // 2, bytes([0xFF, 0xD9]) * (size // 4))
    at, size = tile_place(path, 25)
    return with_bytes(target, target, at + size // 2, bytes([0xFF, 0xD3]))


@pytest.mark.parametrize("name", ["cmu_slide", "tcga_slide"])
def test_damaged_tiles_are_all_named_after_all_were_tried(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = damaged(request.getfixturevalue(name), tmp_path)
    with open_slide(str(path)) as slide:
        level = slide.levels[0]
        with pytest.raises(BadTiles, match="--on-bad-tile blank") as failed:
            slide.read(0, Window(0, 0, level.height_px, level.width_px))
        assert [tile.index for tile in failed.value.tiles] == [0, 12, 25]
        assert failed.value.of_tiles == slide.tiles
        assert pickle.loads(pickle.dumps(failed.value)).tiles == failed.value.tiles
        second = failed.value.tiles[1]
        with pytest.raises(BadTiles, match="level 0, tile 12"):
            list(slide.read_each(0, [Window(second.y_px, second.x_px, second.y_px + 9, second.x_px + 9)]))
        assert f"3 of {slide.tiles:,} tiles" in str(failed.value)


def test_damaged_tiles_are_taken_as_glass_and_counted_on_demand(cmu_slide: Path, tmp_path: Path) -> None:
    with (
        open_slide(str(damaged(cmu_slide, tmp_path)), on_bad_tile=OnBadTile.BLANK) as slide,
        open_slide(str(cmu_slide)) as sound,
    ):
        window = Window(0, 0, 700, 2220)
        pixels = slide.read(0, window)
        assert [(tile.y_px, tile.x_px) for tile in sorted(slide.bad_tiles)] == [
            (0, 0),
            (240, 480),
            (480, 1200),
        ]
        difference = pixels != sound.read(0, window)
        assert pixels[:, :240, :240].min() == 255
        assert pixels[:, 240:480, 480:720].min() == 255
        for tile in slide.bad_tiles:
            difference[:, tile.y_px : tile.y_px + 240, tile.x_px : tile.x_px + 240] = False
        assert not difference.any()


@pytest.mark.parametrize("make", ["svs_jpeg2000_rgb", "planar", "ome_subifds", "striped_lzw"])
def test_damage_is_noticed_in_other_codecs_too(make: str, tmp_path: Path, tissue: Pixels) -> None:
    path = makers.MAKERS[make](tmp_path, tissue)
    at, size = tile_place(path, 5)
    with_bytes(path, path, at, bytes(size))
    with open_slide(str(path)) as slide, pytest.raises(BadTiles):
        slide.read(0, Window(0, 0, 900, 1100))


def test_a_damaged_dicom_frame_is_noticed(cmu_dicom: Path, tmp_path: Path) -> None:
    volume = max(cmu_dicom.iterdir(), key=lambda path: path.stat().st_size)
    path = with_bytes(volume, tmp_path / "damaged.dcm", 1_000_000, bytes([0xFF, 0xD9]) * 300)
    with open_slide(str(path)) as slide, pytest.raises(BadTiles, match="tiles cannot be decoded"):
        slide.read(0, Window(0, 0, 2967, 2220))


def test_an_unknown_compression_is_named(cmu_slide: Path, tmp_path: Path) -> None:
    with tifffile.TiffFile(cmu_slide) as tiff:
        at = tiff.pages[0].tags["Compression"].valueoffset
    path = with_bytes(cmu_slide, tmp_path / "strange.svs", at, (34_999).to_bytes(2, "little"))
    with pytest.raises(UnsupportedSlide, match="34999"):
        open_slide(str(path))


def test_a_copy_has_the_same_identity_and_another_slide_has_not(
    cmu_slide: Path, tcga_slide: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.svs"
    copy.write_bytes(cmu_slide.read_bytes())
    with (
        open_slide(str(copy)) as one,
        open_slide(str(cmu_slide)) as two,
        open_slide(str(tcga_slide)) as three,
    ):
        assert one.identity == two.identity != three.identity
    other = with_bytes(cmu_slide, tmp_path / "other.svs", cmu_slide.stat().st_size - 9, b"?")
    with open_slide(str(other)) as four:
        assert four.identity != two.identity


def test_a_huge_single_piece_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "piece.tif"
    one = imagecodecs.zlib_encode(bytes(10))
    shape = (40_000, 40_000, 3)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            iter([one]),
            shape=shape,
            dtype=np.uint8,
            photometric="rgb",
            rowsperstrip=40_000,
            compression="deflate",
        )
    with pytest.raises(UnsupportedSlide, match="vips tiffsave"):
        open_slide(str(path))


def test_a_slide_that_nobody_holds_any_more_keeps_no_file_open(cmu_slide: Path) -> None:
    def is_open() -> bool:
        links = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
        return str(cmu_slide.resolve()) in links

    slide = open_slide(str(cmu_slide))
    slide.read(0, Window(0, 0, 10, 10))
    assert is_open()
    del slide
    gc.collect()
    assert not is_open()

"""White filling, which scanners write where they did not scan: decoded once, read as glass."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.grid import Window
from microtome.slides import BadTiles, jpeg, open_slide
from microtome.slides.tiled import TiledSlide
from tests.slides import makers

TILE_PX = 256


def white_tiles(path: Path) -> list[int]:
    """The tiles of level 0 that have the bytes of most others: the filling."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        tiles = []
        for offset, count in places:
            tiff.filehandle.seek(offset)
            tiles.append(tiff.filehandle.read(count))
    most = max(set(tiles), key=tiles.count)
    return [index for index, tile in enumerate(tiles) if tile == most]


def place_of(slide: TiledSlide, index: int) -> Window:
    return slide._store.grids[0].tile(index)


def test_a_window_without_pixels_is_white_and_all_others_are_as_read(tcga_slide: Path) -> None:
    with open_slide(str(tcga_slide)) as slide:
        level, spared = slide.levels[0], 0
        for y0 in range(0, level.height_px, 1024):
            for x0 in range(0, level.width_px, 1024):
                window = Window(y0, x0, min(y0 + 1024, level.height_px), min(x0 + 1024, level.width_px))
                whole = slide.read(0, window)
                pixels = slide.read_unless_white(window)
                assert whole.min() == 255 if pixels is None else np.array_equal(pixels, whole)
                spared += pixels is None
    assert spared > 10


def test_filling_is_decoded_once(tcga_slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = jpeg.decode

    def counted(stream: bytes, shrink: int = 1) -> np.ndarray:
        decoded.append(len(stream))
        return decode(stream, shrink)

    monkeypatch.setattr(jpeg, "decode", counted)
    white = white_tiles(tcga_slide)
    assert len(white) > 400
    with open_slide(str(tcga_slide)) as slide:
        for index in white:
            place = place_of(slide, index)
            assert slide.read_unless_white(place) is None
            assert slide.read(0, place).min() == 255
    assert len(decoded) == 1


def test_what_only_looks_like_filling_is_read_as_it_is(tmp_path: Path) -> None:
    """A tile of white with one dark px, as short as filling."""
    pixels = np.full((2 * TILE_PX, 2 * TILE_PX, 3), 255, np.uint8)
    pixels[10, 10] = 0
    path = tmp_path / "dot.tif"
    tifffile.imwrite(path, pixels, tile=(TILE_PX, TILE_PX), photometric="rgb", compression="deflate")
    with open_slide(str(path)) as slide:
        assert slide.read_unless_white(Window(0, 0, TILE_PX, TILE_PX)) is not None
        assert slide.read_unless_white(Window(TILE_PX, 0, 2 * TILE_PX, 2 * TILE_PX)) is None
        assert slide.read(0, Window(0, 0, 20, 20))[:, 10, 10].tolist() == [0, 0, 0]


def test_openslide_s_tiles_are_told_apart(tmp_path: Path) -> None:
    """White above, tissue-coloured below: OpenSlide gives pixels without their bytes."""
    pixels = np.full((1024, 1024, 3), 255, np.uint8)
    pixels[600:] = (200, 120, 180)
    path = makers.vms(tmp_path, pixels)
    with open_slide(str(path)) as slide:
        assert slide.reader.startswith("OpenSlide")
        assert slide.read(0, Window(0, 0, 100, 100)).min() == 255
        assert slide.read(0, Window(700, 700, 800, 800)).max() < 255


def test_a_damaged_tile_is_no_filling(tcga_slide: Path, tmp_path: Path) -> None:
    white = white_tiles(tcga_slide)[5]
    with tifffile.TiffFile(tcga_slide) as tiff:
        offset, count = tiff.pages[0].dataoffsets[white], tiff.pages[0].databytecounts[white]
    encoded = bytearray(tcga_slide.read_bytes())
    encoded[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path = tmp_path / "damaged.tif"
    path.write_bytes(encoded)
    with open_slide(str(path)) as slide, pytest.raises(BadTiles, match="1 of 1 tiles"):
        slide.read_unless_white(place_of(slide, white))

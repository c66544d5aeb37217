"""Pixels, resolution and levels of each format, against readers made by others and known pixels."""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from microtome.arrays import Pixels
from microtome.errors import NoSlideInFolder, UnsupportedSlide
from microtome.grid import Window
from microtome.slides import Mpp, Slide, open_slide
from microtome.slides.base import OnBadTile
from microtome.slides.tiff_decode import has_halved_chroma
from microtome.slides.vendor import open_vendor
from tests.slides import makers


def interleaved(slide: Slide, level: int = 0) -> Pixels:
    finest = slide.levels[level]
    return slide.read(level, Window(0, 0, finest.height_px, finest.width_px)).transpose(1, 2, 0)


def read(path: Path) -> Pixels:
    with open_slide(str(path)) as slide:
        return interleaved(slide)


@pytest.mark.parametrize("name", ["cmu_slide", "tcga_slide", "dapi_slide"])
def test_every_level_has_the_pixels_that_tifffile_decodes(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    with open_slide(str(path)) as slide, tifffile.TiffFile(path) as tiff:
        levels = tiff.series[0].levels
        assert len(slide.levels) == len(levels)
        for number, level in enumerate(levels):
            assert np.array_equal(interleaved(slide, number), level.asarray())


def test_every_page_is_parsed_once_and_its_tables_are_no_integers_of_python(
    tcga_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[tifffile.TiffPage] = []
    parse = tifffile.TiffPage.__init__
    monkeypatch.setattr(
        tifffile.TiffPage, "__init__", lambda page, *a, **k: (parsed.append(page), parse(page, *a, **k))[1]
    )
    with open_slide(str(tcga_slide)) as slide:
        assert len(parsed) == len(slide.levels) > 1
        assert not any(isinstance(page.dataoffsets, tuple) and page.dataoffsets for page in parsed)
        assert not any(page.tags[324].value for page in parsed)


@pytest.mark.parametrize("name", ["cmu_slide", "dapi_slide"])
def test_pixels_are_those_that_openslide_gives(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    with openslide.OpenSlide(path) as theirs, open_slide(str(path)) as ours:
        level = ours.levels[0]
        assert theirs.dimensions == (level.width_px, level.height_px)
        window = Window(700, 500, 1500, 1700)
        expected = np.asarray(theirs.read_region((500, 700), 0, (1200, 800)))[..., :3]
        difference = np.abs(ours.read(0, window).transpose(1, 2, 0).astype(int) - expected)
        assert difference.max() <= 2
        assert difference.mean() < 0.5


def test_dicom_frames_of_rgb_under_a_ybr_header_have_the_colours_of_the_same_slide_as_svs(
    cmu_slide: Path, cmu_dicom: Path
) -> None:
    assert np.array_equal(read(cmu_dicom), read(cmu_slide))


def test_one_dicom_file_opens_as_its_folder_does(cmu_dicom: Path) -> None:
    volume = max(cmu_dicom.iterdir(), key=lambda path: path.stat().st_size)
    with open_slide(str(volume)) as one, open_slide(str(cmu_dicom)) as folder:
        assert one.mpp == folder.mpp == Mpp(0.499, 0.499)
        assert one.identity == folder.identity
        assert np.array_equal(interleaved(one), interleaved(folder))


def test_windows_of_wide_strips_are_not_all_held_at_once(tmp_path: Path) -> None:
    path, wide = tmp_path / "wide.tif", np.zeros((2560, 24_576, 3), np.uint8)
    wide[:, ::7] = 200
    tifffile.imwrite(path, wide, photometric="rgb", rowsperstrip=16)
    windows = [Window(0, x0, 2560, x0 + 256) for x0 in range(0, 1024, 256)]
    with open_slide(str(path)) as slide:
        tracemalloc.start()
        for window, pixels in zip(windows, slide.read_each(0, windows), strict=True):
            assert np.array_equal(pixels[0], wide[:, window.x0 : window.x1, 0])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 120e6, "190 MB are the strips that each of the windows crosses"


def test_frames_that_a_sparse_dicom_lacks_are_white(cmu_dicom: Path, tmp_path: Path) -> None:
    path = makers.dicom_sparse(tmp_path, cmu_dicom, keep=[0, 11, 12])
    pixels, full = read(path), read(cmu_dicom)
    assert np.array_equal(pixels[:240, :240], full[:240, :240])
    assert np.array_equal(pixels[240:480, 240:720], full[240:480, 240:720])
    assert pixels[:240, 240:].min() == 255
    assert pixels[480:].min() == 255


@pytest.mark.parametrize("make", makers.LOSSLESS.values(), ids=makers.LOSSLESS)
def test_lossless_formats_give_the_pixels_that_were_written(
    make: Callable[[Path, Pixels], Path], tmp_path: Path, tissue: Pixels
) -> None:
    assert np.array_equal(read(make(tmp_path, tissue)), tissue)


@pytest.mark.parametrize("make", makers.LOSSY.values(), ids=makers.LOSSY)
def test_lossy_formats_give_nearly_the_pixels_that_were_written(
    make: Callable[[Path, Pixels], Path], tmp_path: Path, tissue: Pixels
) -> None:
    difference = np.abs(read(make(tmp_path, tissue)).astype(int) - tissue)
    assert difference.mean() < 3
    assert np.abs((read(make(tmp_path, tissue)).astype(int) - tissue).mean(axis=(0, 1))).max() < 1


def test_label_macro_and_thumbnail_are_no_levels(tmp_path: Path, tissue: Pixels) -> None:
    with open_slide(str(makers.svs_jpeg_rgb(tmp_path, tissue))) as slide:
        assert [(level.height_px, level.width_px) for level in slide.levels] == [(900, 1100), (450, 550)]
        assert slide.mpp == Mpp(0.252, 0.252)
        assert slide.format == "Aperio SVS, JPEG 4:4:4 quality 95"
    with open_slide(str(makers.ome_subifds(tmp_path, tissue))) as slide:
        assert [level.width_px for level in slide.levels] == [1100, 550, 275]
        assert slide.mpp == Mpp(pytest.approx(0.506), pytest.approx(0.505))


def test_a_level_may_be_any_factor_coarser(tmp_path: Path, tissue: Pixels) -> None:
    with open_slide(str(makers.factor_8(tmp_path, tissue))) as slide:
        assert [level.downsample for level in slide.levels] == [1.0, 8.0]
        assert slide.mpp == Mpp(0.5, 0.25)


@pytest.mark.parametrize(
    ("name", "mpp"), [("cmu_slide", 0.499), ("tcga_slide", 0.2485), ("dapi_slide", 0.228175)]
)
def test_shared_slides_say_their_resolution(name: str, mpp: float, request: pytest.FixtureRequest) -> None:
    with open_slide(str(request.getfixturevalue(name))) as slide:
        assert slide.mpp == Mpp(pytest.approx(mpp, rel=1e-5), pytest.approx(mpp, rel=1e-5))


@pytest.mark.parametrize("make", [makers.striped_lzw, makers.uncompressed, makers.png])
def test_a_resolution_that_means_nothing_is_none(
    make: Callable[[Path, Pixels], Path], tmp_path: Path, tissue: Pixels
) -> None:
    with open_slide(str(make(tmp_path, tissue))) as slide:
        assert slide.mpp is None


def test_philips_levels_lose_their_padding_and_missing_tiles_are_white(
    tmp_path: Path, tissue: Pixels
) -> None:
    with open_slide(str(makers.philips(tmp_path, tissue))) as slide:
        assert slide.format.startswith("Philips TIFF")
        assert slide.mpp == Mpp(pytest.approx(0.25), pytest.approx(0.2))
        assert [(level.width_px, level.downsample) for level in slide.levels] == [
            (1024, 1),
            (512, 2),
            (256, 4),
        ]
        assert interleaved(slide)[:512, 512:].min() == 255
        assert interleaved(slide)[:512, :512].min() < 200


def test_scn_takes_the_scanned_region_and_not_the_overview(tmp_path: Path, tissue: Pixels) -> None:
    with open_slide(str(makers.scn(tmp_path, tissue))) as slide:
        assert slide.format.startswith("Leica SCN")
        assert [level.width_px for level in slide.levels] == [1100, 550]
        assert slide.mpp == Mpp(pytest.approx(0.25), pytest.approx(0.25))
        assert np.array_equal(interleaved(slide), tissue)


def test_bif_without_overlaps_is_read_by_tiles(tmp_path: Path, tissue: Pixels) -> None:
    with open_slide(str(makers.bif(tmp_path, tissue, overlap_px=0))) as slide:
        assert slide.reader.startswith("tifffile")
        assert slide.mpp == Mpp(0.25, 0.25)
        assert [level.width_px for level in slide.levels] == [1024, 512]


def test_bif_with_overlaps_is_put_together_by_openslide(tmp_path: Path, tissue: Pixels) -> None:
    path = makers.bif(tmp_path, tissue, overlap_px=16)
    with open_slide(str(path)) as slide:
        assert slide.reader.startswith("OpenSlide")
        assert "overlapping tiles" in slide.reader
        assert slide.levels[0].width_px < 1024


def test_vms_is_read_by_openslide_because_only_it_can(tmp_path: Path, tissue: Pixels) -> None:
    with open_slide(str(makers.vms(tmp_path, tissue))) as slide:
        assert slide.reader.startswith("OpenSlide")
        assert "only it reads hamamatsu" in slide.reader
        assert slide.mpp == Mpp(pytest.approx(200 / 896), pytest.approx(250 / 1088))
        assert np.abs(interleaved(slide).astype(int) - tissue[:896, :1088]).mean() < 3


def test_openslide_and_our_own_reader_agree_on_the_levels_of_a_slide(tcga_slide: Path) -> None:
    with open_vendor(str(tcga_slide), "test", OnBadTile.FAIL) as theirs, open_slide(str(tcga_slide)) as ours:
        assert theirs.levels == ours.levels
        assert theirs.mpp == Mpp(pytest.approx(0.2485), pytest.approx(0.2485))
        window = Window(300, 400, 900, 1300)
        for level in (2, 3):
            assert np.array_equal(theirs.read(level, window), ours.read(level, window))


def test_jpeg_2000_with_halved_chroma_is_noticed_by_its_header() -> None:
    whole = imagecodecs.jpeg2k_encode(np.zeros((16, 16, 3), np.uint8), level=0, codecformat="j2k", mct=False)
    assert not has_halved_chroma(whole)
    halved = bytearray(whole)
    halved[42 + 3 + 1] = 2
    assert has_halved_chroma(bytes(halved))


@pytest.mark.parametrize(
    ("pixels", "says"),
    [
        (np.zeros((64, 64), np.uint8), "1 channel"),
        (np.zeros((64, 64, 3), np.uint16), "16-bit"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((4, 64, 64), np.uint8), "pictures of the same size"),
    ],
)
def test_pixels_that_are_not_8_bit_rgb_are_refused_with_a_way_out(
    pixels: "np.ndarray", says: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.tif"
    photometric = "rgb" if pixels.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(path, pixels, photometric=photometric)
    with pytest.raises(UnsupportedSlide, match=says) as refused:
        open_slide(str(path))
    assert "8-bit RGB" in str(refused.value) or "in RGB" in str(refused.value)


def test_a_grey_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    path.write_bytes(imagecodecs.png_encode(np.zeros((9, 9), np.uint8)))
    with pytest.raises(UnsupportedSlide, match="1 channel"):
        open_slide(str(path))


def test_a_transparent_png_lies_on_white(tmp_path: Path) -> None:
    path = tmp_path / "glass.png"
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0, 3] = 255
    path.write_bytes(imagecodecs.png_encode(pixels))
    assert read(path)[0, 0].tolist() == [0, 0, 0]
    assert read(path)[1, 1].tolist() == [255, 255, 255]


def test_content_decides_and_not_the_name(cmu_slide: Path, tmp_path: Path) -> None:
    path = tmp_path / "slide.png"
    shutil.copy(cmu_slide, path)
    with open_slide(str(path)) as slide:
        assert slide.format.startswith("Aperio SVS")


def test_a_folder_of_one_dicom_slide_opens_and_another_folder_says_what_it_holds(
    cmu_slide: Path, tmp_path: Path
) -> None:
    with pytest.raises(NoSlideInFolder, match="without files"):
        open_slide(str(tmp_path))
    shutil.copy(cmu_slide, tmp_path)
    with pytest.raises(NoSlideInFolder, match="of 1 files"):
        open_slide(str(tmp_path))

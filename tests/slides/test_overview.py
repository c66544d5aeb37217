"""Overviews: exact averages over squares of level 0, from whatever level, in bounded memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.arrays import Pixels
from microtome.grid import Window
from microtome.slides import open_slide
from microtome.slides.overview import READERS, overview
from microtome.slides.overview import averages as level0_averages
from microtome.slides.tiled import TiledSlide
from tests.slides import makers


def averages(path: Path, level: int, cell: int) -> np.ndarray:
    """Squares of a level averaged: the slow obvious version."""
    with open_slide(str(path)) as slide:
        finest = slide.levels[level]
        pixels = slide.read(level, Window(0, 0, finest.height_px, finest.width_px)).astype(float)
    rows = np.add.reduceat(pixels, np.arange(0, pixels.shape[1], cell), axis=1)
    sums = np.add.reduceat(rows, np.arange(0, pixels.shape[2], cell), axis=2)
    heights = np.diff([*range(0, pixels.shape[1], cell), pixels.shape[1]])
    widths = np.diff([*range(0, pixels.shape[2], cell), pixels.shape[2]])
    return sums / heights[:, None] / widths


@pytest.mark.parametrize(("max_px", "most"), [(100, 2), (400, 4), (1000, 9)])
def test_each_px_is_the_average_of_its_square(cmu_slide: Path, max_px: int, most: float) -> None:
    """libjpeg averages before it clips: where few px are averaged, one that is clipped counts more."""
    with open_slide(str(cmu_slide)) as slide:
        small, d = overview(slide, max_px)
    expected = averages(cmu_slide, 0, int(d))
    assert small.shape == expected.shape
    assert max_px / 2 <= max(small.shape) <= max_px
    assert np.abs(small - expected).mean() < 0.3
    assert np.abs(small - expected).max() < most


@pytest.mark.parametrize(("finer", "level"), [(1, 4), (4, 4), (8, 3), (16, 2), (64, 0)])
def test_it_comes_from_the_level_that_is_nearest_or_so_much_finer(
    tcga_slide: Path, finer: int, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, read_shrunk = set(), TiledSlide.read_shrunk

    def noted(self: TiledSlide, level: int, window: Window, shrink: int) -> Pixels:
        read.add(level)
        return read_shrunk(self, level, window, shrink)

    monkeypatch.setattr(TiledSlide, "read_shrunk", noted)
    with open_slide(str(tcga_slide)) as slide:
        small = level0_averages(slide, 64, finer)
    assert read == {level}
    assert small.shape == (3, 121, 181)
    # Levels are this near to each other; libjpeg shrinks chroma without having smoothed it.
    assert np.abs(small - averages(tcga_slide, 0, 64)).mean() < 0.8


def test_of_pixels_that_no_codec_shrinks_it_is_exact(tmp_path: Path, tissue: Pixels) -> None:
    path = tmp_path / "half.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(tissue[:900, :1080], **options)
        tiff.write(makers.half(tissue[:900, :1080]), subfiletype=1, **options)
    with open_slide(str(path)) as slide:
        small, d = overview(slide, 150)
        assert d == 8
        assert np.abs(small - averages(path, 1, 4)).max() <= 0.5 + 1e-6
        assert np.abs(level0_averages(slide, 8, finer=8) - averages(path, 0, 8)).max() <= 0.5 + 1e-6


def test_levels_off_the_grid_are_resampled_to_it(tmp_path: Path, tissue: Pixels) -> None:
    """A level three times coarser serves an overview of four."""
    path = tmp_path / "third.tif"
    whole = tissue[:900, :1080]
    third = whole.reshape(300, 3, 360, 3, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(whole, **options)
        tiff.write(third, subfiletype=1, **options)
    with open_slide(str(path)) as slide:
        assert [level.downsample for level in slide.levels] == [1.0, 3.0]
        small, d = overview(slide, 300)
    assert d == 4.0
    assert np.abs(small - averages(path, 0, 4)).mean() < 4


@pytest.mark.parametrize(("compression", "most"), [("deflate", 0.5 + 1e-6), ("jpeg", 9)])
@pytest.mark.parametrize("max_px", [64, 512])
def test_parts_that_threads_read_fit_together(
    compression: str,
    most: float,
    max_px: int,
    tmp_path: Path,
    tissue: Pixels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In squares of 8 px, which libjpeg averages, and px by px, of several blocks; strips end elsewhere."""
    monkeypatch.setattr("microtome.slides.overview.PART_PX", 1)
    monkeypatch.setattr("microtome.slides.overview.BLOCK_PX", 256 * 512)
    path = tmp_path / "strips.tif"
    whole, half = tissue[:1024, :1024], makers.half(tissue[:1024, :1024])
    options = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(whole, rowsperstrip=60, compression="deflate", **options)
        tiff.write(half, subfiletype=1, tile=(64, 64), compression=compression, **options)
    with open_slide(str(path)) as slide:
        small, d = overview(slide, max_px)
    assert d == 1024 / max_px
    # libjpeg averages before it clips, and chroma without having smoothed it.
    assert np.abs(small - averages(path, 1, 512 // max_px)).max() <= most


def test_what_cannot_be_read_is_said_soon(
    tmp_path: Path, tissue: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microtome.slides.overview.PART_PX", 1)
    path = tmp_path / "tiles.tif"
    tifffile.imwrite(path, tissue[:1024, :1024], photometric="rgb", tile=(16, 1024), metadata=None)
    asked = []

    def fail(level: int, window: Window) -> Pixels:
        asked.append(window)
        raise OSError("the store is gone")

    with open_slide(str(path)) as slide:
        monkeypatch.setattr(slide, "read", fail)
        with pytest.raises(OSError, match="the store is gone"):
            overview(slide, 1024)
    assert len(asked) <= 3 * READERS  # of 64


def test_a_slide_that_is_small_is_its_own_overview(tmp_path: Path, tissue: Pixels) -> None:
    with open_slide(str(makers.png(tmp_path, tissue))) as slide:
        small, d = overview(slide, 2000)
    assert d == 1.0
    assert np.array_equal(small.transpose(1, 2, 0), tissue)


@pytest.mark.slow
def test_memory_does_not_grow_with_a_slide_that_has_no_pyramid(tcga_slide: Path, tmp_path: Path) -> None:
    path = makers.giant(tmp_path, tcga_slide, side_px=40_960)
    script = (
        "import sys, resource; from microtome.slides import open_slide; "
        "from microtome.slides.overview import overview; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "small, d = overview(open_slide(sys.argv[1]), 1024); "
        "assert d == 64 and small.shape == (3, 640, 640); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown_kib = subprocess.run(
        [sys.executable, "-c", script, path], check=True, capture_output=True, text=True
    )
    assert int(grown_kib.stdout) < 300 * 1024

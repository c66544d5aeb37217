"""The colours of a slide as a whole: brightfield or not, and the limits of its normalisation."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from microtome.arrays import Ints, Pixels
from microtome.errors import FluorescenceSlide
from microtome.grid import Grid, Window
from microtome.slides.base import Slide
from microtome.slides.lots import look_at
from microtome.slides.overview import overview
from microtome.tissue_mask import TissueMask

BLOCK_PX = 1024
"""Limits are measured on squares of this side, level-0 px."""
MOST_BLOCKS = 64
"""Up to so many, on all of them."""
PIECES = ((256, 512), (512, 256), (BLOCK_PX, 128))
"""Side, px, and number of the pieces of squares that it is measured on where there are more: 34 to 134 MP,
which are equally exact. A piece is no smaller than the slide's tiles, which are decoded whole."""
STEP_ROWS = 2
"""Of their rows, every second one is counted: half of the time, and the percentiles move by 0.02 at most."""
GLANCE_PX = 1024
"""Longer side of the overview that shows whether a slide is brightfield."""

BLACK = 16
"""A pixel none of whose channels is above this is black, by filling or for want of light."""
LIT = 24
"""Through tissue and glass, all three channels pass at least this much light."""
LEAST_LIT = 0.05
"""Share of a brightfield slide's pixels, black ones left out, that are lit. Measured: 0.38 or more
on 274 stained fields (dim ones among them), 1.0 on slides; 0.0 on a DAPI slide."""


@dataclass(frozen=True, slots=True)
class StainLimits:
    """Pixel values, 0..255, that the network sees as 0 and as 1."""

    low: float
    high: float


def find_limits(
    slide: Slide, tissue: TissueMask, low_percentile: float | None, high_percentile: float
) -> StainLimits:
    """Measure the limits once for the whole slide.

    Parameters
    ----------
    tissue
        Where the slide has tissue.
    low_percentile, high_percentile
        0..100, over pixels and channels together. Without a low one, the low limit is 0.

    Returns
    -------
    StainLimits
        (0, 255) for a slide without tissue.

    Notes
    -----
    The pixels are those of level 0, in the squares of a fixed grid (1024 px) that touch tissue:
    all of them up to 64, else pieces of them, spread evenly (`PIECES`); of these, every second row. On two
    slides of 330 and 550 squares the 1 % varies by 0.5 and 1.1 (standard deviation) by which pieces of 256 px
    are taken, by 0.65 and 1.1 with pieces of 512 px. A square brings the glass around its tissue along, as
    the images that models are trained on do. A lower level would not
    do: averaging takes the extremes away that a high percentile is about. Where the full resolution gives
    99.8 % = 255 (a sharpened 20x scan), a level of half the size gives 252, one of an eighth 246.
    Nor would a few small windows on tissue: on a slide whose glass is 243 beside white filling
    they give 244 or 255, as chance will have it.
    """
    counts = _count_values(slide, sampled(tissue, max(slide.tile_size_px)))
    if not counts.any():
        return StainLimits(0.0, 255.0)
    low = 0.0 if low_percentile is None else float(_percentile(counts, low_percentile))
    return StainLimits(low, max(float(_percentile(counts, high_percentile)), low + 1.0))


def check_brightfield(slide: Slide) -> None:
    """Refuse a fluorescence slide: a model of brightfield stains finds nonsense in it.

    Raises
    ------
    FluorescenceSlide
        If hardly a pixel of the slide lets light through in all three channels.
    """
    pixels, _ = overview(slide, GLANCE_PX)
    if is_fluorescence(pixels):
        raise FluorescenceSlide(slide.uri)


def is_fluorescence(pixels: Pixels) -> bool:
    """Whether an overview (c, y, x) is coloured light on black, rather than light through a stain.

    Black filling, white filling and empty glass say nothing against brightfield.
    """
    planes = np.ascontiguousarray(pixels)  # numpy works on them ten times as fast
    seen = planes.max(axis=0) > BLACK
    lit = planes.min(axis=0) >= LIT
    return bool(seen.any()) and int(lit.sum()) < LEAST_LIT * int(seen.sum())


def sampled(tissue: TissueMask, tile_px: int) -> tuple[Window, ...]:
    """Where the limits are measured, level-0 px: squares of `BLOCK_PX` with tissue, or pieces of some.

    `tile_px` is the longer side of the slide's tiles.
    """
    grid = Grid(tissue.height_px, tissue.width_px, BLOCK_PX)
    blocks = [block.window for block in grid if tissue.touches(block.window)]
    if len(blocks) <= MOST_BLOCKS:
        return tuple(blocks)
    side_px, most = next((piece for piece in PIECES if tile_px <= piece[0]), PIECES[-1])
    count = min(most, len(blocks) * (BLOCK_PX // side_px) ** 2)
    pieces = (_piece(blocks[i * len(blocks) // count], side_px, number=i) for i in range(count))
    return tuple(piece for piece in pieces if not piece.is_empty)


def _piece(block: Window, side_px: int, number: int) -> Window:
    """Pieces of successive numbers lie apart, and are all of a block's; empty where the slide ends before."""
    side = BLOCK_PX // side_px
    row, col = divmod(7 * number % side**2, side)
    y0, x0 = block.y0 + row * side_px, block.x0 + col * side_px
    return Window(y0, x0, y0 + side_px, x0 + side_px).intersect(block)


def _count_values(slide: Slide, windows: tuple[Window, ...]) -> Ints:
    """(256,) int64: how often each value occurs, all channels together, black filling left out."""
    return sum(look_at(slide.read_each, windows, _values_of), np.zeros(256, np.int64))


def _values_of(pixels: Pixels) -> Ints:
    """(256,) int64, of a window (c, y, x), as `_count_values`."""
    rgb = np.ascontiguousarray(pixels.transpose(1, 2, 0)[::STEP_ROWS])
    counts = _histogram(rgb)
    if counts[: BLACK + 1].sum() < 3:
        return counts
    black = cv2.inRange(rgb, (0, 0, 0), (BLACK, BLACK, BLACK)).astype(bool)
    return counts - _histogram(np.ascontiguousarray(rgb[black]))


def _histogram(values: npt.NDArray[np.uint8]) -> Ints:
    """(256,) int64. OpenCV counts in float32: exact, as a block has fewer than 2**24 values."""
    counts: Ints = cv2.calcHist([values.reshape(-1, 1)], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    return counts


def _percentile(counts: Ints, percent: float) -> int:
    """The least value that `percent` % of the counted ones do not exceed."""
    running = np.cumsum(counts)
    return int(np.searchsorted(running, percent / 100 * running[-1]))

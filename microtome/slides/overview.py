"""The whole slide, small: averages over squares of level 0 whose side is a power of two.

Memory does not depend on the slide's size: it is read in blocks.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import ceil, floor, lcm
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from microtome.arrays import Doubles, Floats, Pixels
from microtome.grid import Window
from microtome.slides.base import Level, Slide
from microtome.slides.lots import READERS

BLOCK_PX = 24 << 20
BLOCK_WIDTH_PX = 32 << 10
PART_PX = 1 << 20
"""Parts are at least so large."""
SHRINKS = (1, 2, 4, 8)


@runtime_checkable
class Shrinkable(Protocol):
    """A slide that reads averages over squares cheaper than all pixels, for some levels."""

    def can_shrink(self, level: int) -> bool: ...
    def read_shrunk(self, level: int, window: Window, shrink: int) -> Pixels: ...


def overview(slide: Slide, max_px: int) -> tuple[Pixels, float]:
    """The whole slide in at most `max_px` on its longer side.

    Parameters
    ----------
    slide
        Open for reading.
    max_px
        At least half as much is returned, unless the slide itself is smaller.

    Returns
    -------
    Pixels
        (3, ceil(height / d), ceil(width / d)). Pixel (i, j) is the average of level 0 over
        [i * d, (i + 1) * d) x [j * d, (j + 1) * d), as far as the slide reaches, taken from the
        coarsest level that is fine enough.
    float
        d, level-0 px per px of it: a power of two, the same in y and x.
    """
    d = overview_downsample(slide, max_px)
    return averages(slide, d), float(d)


def overview_downsample(slide: Slide, max_px: int) -> int:
    """The least power of two by which the slide fits into `max_px`."""
    longer_px = max(slide.levels[0].height_px, slide.levels[0].width_px)
    return 1 << max(0, (ceil(longer_px / max_px) - 1).bit_length())


def averages(slide: Slide, d: int, finer: int = 1) -> Pixels:
    """Level 0 averaged over squares of `d` px, a power of two: see `overview`.

    Taken from the coarsest level at least `finer` times as fine: a level whose chroma is halved has no
    colours as fine as its pixels.
    """
    finest = slide.levels[0]
    number = max(n for n, level in enumerate(slide.levels) if level.downsample * finer <= d)
    level = slide.levels[number]
    rows, cols = ceil(finest.height_px / d), ceil(finest.width_px / d)
    cell_px = d / level.downsample
    # Steps are powers of two, so that few tiles are read for two blocks of at most `BLOCK_PX` of
    # the level; cells that reach beyond the level are in blocks of their own.
    width = _power_of_two_below(min(BLOCK_WIDTH_PX, 2 * cols * cell_px) / cell_px)
    height = _power_of_two_below(BLOCK_PX / (width * cell_px**2))
    picture = np.empty((rows, cols, 3), np.uint8)
    for y0, y1 in _steps(rows, floor(level.height_px / cell_px), height):
        for x0, x1 in _steps(cols, floor(level.width_px / cell_px), width):
            _average(slide, number, Window(y0, x0, y1, x1), cell_px, picture[y0:y1, x0:x1])
    return picture.transpose(2, 0, 1)


def _steps(cells: int, whole: int, step: int) -> list[tuple[int, int]]:
    edges = sorted({*range(0, min(whole, cells), step), min(whole, cells), cells})
    return list(pairwise(edges))


def _power_of_two_below(value: float) -> int:
    return 1 << max(0, floor(value).bit_length() - 1)


def _average(slide: Slide, number: int, block: Window, cell_px: float, out: Pixels) -> None:
    """Put a block of the overview into `out`, (y, x, 3)."""
    window = _source(block, cell_px, slide.levels[number])
    shrink = _shrink(slide, number, window, cell_px)
    cell = cell_px / shrink
    size = ceil(window.height / shrink), ceil(window.width / shrink)
    is_all = cell == 1.0 and size == (block.height, block.width)
    pixels = out if is_all else np.empty((*size, 3), np.uint8)
    _read(slide, number, window, shrink, pixels)
    if is_all:
        return
    if cell == 1.0:
        out[:] = pixels[: block.height, : block.width]
        return
    if cell.is_integer() and size == (block.height * int(cell), block.width * int(cell)):
        out[:] = cv2.resize(pixels, (block.width, block.height), interpolation=cv2.INTER_AREA)
        return
    rows = _edges(block.y0, block.y1, cell, window.y0 // shrink, size[0])
    cols = _edges(block.x0, block.x1, cell, window.x0 // shrink, size[1])
    for row in range(block.height):
        band = _row_average(pixels, rows[row], rows[row + 1])
        out[row] = np.rint(_column_averages(band, cols))


def _source(block: Window, cell_px: float, level: Level) -> Window:
    """The block in px of the level, at least one px of it."""
    y0, x0 = floor(block.y0 * cell_px), floor(block.x0 * cell_px)
    y1, x1 = ceil(block.y1 * cell_px), ceil(block.x1 * cell_px)
    y0, x0 = min(y0, level.height_px - 1), min(x0, level.width_px - 1)
    return Window(y0, x0, max(y0 + 1, min(y1, level.height_px)), max(x0 + 1, min(x1, level.width_px)))


def _shrink(slide: Slide, number: int, window: Window, cell_px: float) -> int:
    """By how much the slide itself shrinks the window's pixels."""
    if not isinstance(slide, Shrinkable) or not slide.can_shrink(number):
        return 1
    edges = cell_px, window.y0, window.x0, window.y1, window.x1
    return max(shrink for shrink in SHRINKS if all(edge % shrink == 0 for edge in edges))


def _read(slide: Slide, number: int, window: Window, shrink: int, out: Pixels) -> None:
    """Read a window into (y, x, 3), by threads."""
    # Between tiles, as far as all levels have those of level 0: none is decoded twice.
    tiles_px = lcm(slide.tile_size_px[0], shrink)
    step = tiles_px * ceil(PART_PX / (tiles_px * window.width))
    inner = range((window.y0 // step + 1) * step, window.y1, step)

    def read_rows(y0: int, y1: int) -> None:
        part = Window(y0, window.x0, y1, window.x1)
        if shrink > 1 and isinstance(slide, Shrinkable):
            pixels = slide.read_shrunk(number, part, shrink)
        else:
            pixels = slide.read(number, part)
        first = (y0 - window.y0) // shrink
        out[first : first + pixels.shape[1]] = pixels.transpose(1, 2, 0)

    with ThreadPoolExecutor(READERS, thread_name_prefix="overview") as readers:
        for _ in readers.map(read_rows, [window.y0, *inner], [*inner, window.y1]):
            pass


def _edges(first: int, last: int, cell: float, start_px: int, size_px: int) -> Doubles:
    """Where the cells first..last begin, and where the last one ends, within the pixels read."""
    edges: Doubles = np.minimum(np.arange(first, last + 1) * cell - start_px, size_px)
    return edges


def _row_average(pixels: Pixels, top: float, bottom: float) -> Doubles:
    """(x, 3): the average of the rows between two edges, which may cut rows."""
    size = pixels.shape[0]
    y0 = min(floor(top), size - 1)
    y1 = max(y0 + 1, min(ceil(bottom), size))
    rows = np.arange(y0, y1)
    shares = np.minimum(rows + 1, bottom) - np.maximum(rows, top)
    shares = shares if shares.sum() > 0 else np.ones_like(shares)
    weights = (shares / shares.sum()).astype(np.float32)
    average: Floats = weights @ pixels[y0:y1].reshape(y1 - y0, -1).astype(np.float32)
    return average.reshape(-1, 3).astype(np.float64)


def _column_averages(band: Doubles, edges: Doubles) -> Doubles:
    """(cells, 3): averages between neighbouring edges, by the integral of the band."""
    integral = np.concatenate([np.zeros((1, 3)), np.cumsum(band, axis=0)])
    whole = np.minimum(np.floor(edges).astype(np.int64), len(band))
    part = (edges - whole)[:, None]
    at = integral[whole] + part * band[np.minimum(whole, len(band) - 1)]
    widths = np.diff(edges)[:, None]
    last = band[np.minimum(whole[:-1], len(band) - 1)]
    averages: Doubles = np.where(widths > 0, np.diff(at, axis=0) / np.where(widths > 0, widths, 1), last)
    return averages

"""The cheapest cover of a shard's tissue by tiles, by straight cuts; in cells of `CELL_PX` network px."""

import numba
import numpy as np
import numpy.typing as npt

from microtome.arrays import Ints, Mask
from microtome.tiling import CELL_PX

TILE_COST_PX = 20_000
"""What one more tile costs beside its pixels, in network px."""

ENCODER_PERCENT = 45
"""Of a tile's work, what is done for all of its halo; the rest is trimmed (`trimming.py`), to a sixth of the
halo on the average. Of a U-Net of three levels at grid 2, as StarDist's models are."""
TRIMMED_PART = 6

_NEVER = 1 << 62


def cover(occupied: Mask, longest: int, halo_px: int) -> npt.NDArray[np.int64]:
    """(n, 4) rectangles (row0, col0, row1, col1) of cells: the cheapest cover by straight cuts.

    Exact among all ways to cut the window in two by a straight line again and again and to trim
    each piece to what is occupied in it. `halo_px` is that of both sides together.
    """
    rows, cols = occupied.shape
    counts = np.zeros((rows + 1, cols + 1), np.int64)
    counts[1:, 1:] = occupied.cumsum(0).cumsum(1)
    best, cut = _best_cuts(counts, tile_costs(occupied.shape, longest, halo_px))
    found = []
    left = [(0, 0, rows, cols)]
    while left:
        row0, col0, row1, col1 = left.pop()
        if best[row0, row1, col0, col1] == 0:
            continue
        at = int(cut[row0, row1, col0, col1])
        if at == 0:
            found.append((row0, col0, row1, col1))
        elif at > 0:
            left += [(row0, col0, row0 + at, col1), (row0 + at, col0, row1, col1)]
        else:
            left += [(row0, col0, row1, col0 - at), (row0, col0 - at, row1, col1)]
    return np.array(found, np.int64).reshape(-1, 4)


def tile_costs(shape: tuple[int, int], longest: int, halo_px: int) -> Ints:
    """(rows + 1, cols + 1): network px that a tile costs whose core has so many cells."""
    height_px, width_px = (np.arange(cells + 1, dtype=np.int64) * CELL_PX for cells in shape)

    def area_px(margin_px: int) -> Ints:
        return np.outer(height_px + margin_px, width_px + margin_px)

    trimmed = (100 - ENCODER_PERCENT) * area_px(halo_px // TRIMMED_PART)
    costs: Ints = (ENCODER_PERCENT * area_px(halo_px) + trimmed) // 100 + TILE_COST_PX
    costs[longest + 1 :] = costs[:, longest + 1 :] = _NEVER
    return costs


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _best_cuts(counts: Ints, costs: Ints) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Cost of every rectangle of cells, [row0, row1, col0, col1], and where to cut it first.

    A cut is the number of rows (positive) or columns (negative) of the first piece; 0 is one tile.
    `counts[row, col]` are the occupied cells above and to the left; `costs` as of `tile_costs`.
    """
    rows, cols = counts.shape[0] - 1, counts.shape[1] - 1
    best = np.zeros((rows + 1, rows + 1, cols + 1, cols + 1), np.int64)
    cut = np.zeros((rows + 1, rows + 1, cols + 1, cols + 1), np.int32)
    for height in range(1, rows + 1):
        for width in range(1, cols + 1):
            whole = costs[height, width]
            for row0 in range(rows - height + 1):
                row1 = row0 + height
                for col0 in range(cols - width + 1):
                    col1 = col0 + width
                    held = _held(counts, row0, row1, col0, col1)
                    if held == 0:
                        continue
                    # Two searches that can be spared: of what a tile fills, and of what has an empty edge.
                    if held == height * width and whole < _NEVER:
                        best[row0, row1, col0, col1] = whole
                        continue
                    where = _empty_edge(counts, row0, row1, col0, col1)
                    if where:
                        least = _cost_of_both(best, row0, row1, col0, col1, where)
                    else:
                        least, where = _cheapest(best, whole, row0, row1, col0, col1)
                    best[row0, row1, col0, col1] = least
                    cut[row0, row1, col0, col1] = where
    return best, cut


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _held(counts: Ints, row0: int, row1: int, col0: int, col1: int) -> int:
    """Occupied cells of a rectangle."""
    return counts[row1, col1] - counts[row0, col1] - counts[row1, col0] + counts[row0, col0]  # type: ignore[no-any-return]


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _empty_edge(counts: Ints, row0: int, row1: int, col0: int, col1: int) -> int:
    """The cut that takes off a row or a column without tissue at an edge of the rectangle; 0 if none has."""
    if _held(counts, row0, row0 + 1, col0, col1) == 0:
        return 1
    if _held(counts, row1 - 1, row1, col0, col1) == 0:
        return row1 - row0 - 1
    if _held(counts, row0, row1, col0, col0 + 1) == 0:
        return -1
    if _held(counts, row0, row1, col1 - 1, col1) == 0:
        return col0 + 1 - col1
    return 0


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _cheapest(best: Ints, whole: int, row0: int, row1: int, col0: int, col1: int) -> tuple[int, int]:
    """The least cost of a rectangle as one tile or as two pieces, and the cut."""
    least, where = whole, 0
    for at in range(col0 - col1 + 1, row1 - row0):
        if at:
            cost = _cost_of_both(best, row0, row1, col0, col1, at)
            if cost < least:
                least, where = cost, at
    return least, where


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _cost_of_both(best: Ints, row0: int, row1: int, col0: int, col1: int, at: int) -> int:
    """Of the two pieces of a rectangle."""
    if at > 0:
        return best[row0, row0 + at, col0, col1] + best[row0 + at, row1, col0, col1]  # type: ignore[no-any-return]
    return best[row0, row1, col0, col0 - at] + best[row0, row1, col0 - at, col1]  # type: ignore[no-any-return]

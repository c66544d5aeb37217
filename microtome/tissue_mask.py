"""The record of where tissue is: a mask of square cells over level 0, and its compact text for a plan.

How the mask is found or read is `microtome.tissue`'s job.
"""

import base64
import zlib
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from microtome.arrays import Doubles, Ints, Mask
from microtome.grid import Window
from microtome.slides.base import Slide

MAX_CELLS = 8_000_000
"""A mask has no more cells than this (1 MB as bits), whatever the size of the slide."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Square cells of level 0 that hold tissue."""

    bits: npt.NDArray[np.uint8]
    """(rows, ceil(cols / 8)) uint8: each row of cells from its own byte on, the first in the highest bit."""
    cell_px: int
    """Side of a cell, level-0 px; a power of two."""
    height_px: int
    width_px: int
    """Size of level 0; the last cells may reach beyond it."""

    @classmethod
    def of(cls, mask: Mask, cell_px: int, height_px: int, width_px: int) -> Self:
        """From a (rows, cols) bool: its cell (0, 0) covers [0, cell_px) x [0, cell_px) of level 0."""
        if cell_px < 1 or cell_px & (cell_px - 1):
            raise ValueError(f"cell_px is {cell_px}, not a power of two")
        shape = -(-height_px // cell_px), -(-width_px // cell_px)
        if mask.shape != shape:
            raise ValueError(f"mask is {mask.shape}, but the slide has {shape} cells")
        return cls(np.packbits(mask, axis=1), cell_px, height_px, width_px)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return len(self.bits), -(-self.width_px // self.cell_px)

    @property
    def mask(self) -> Mask:
        """(rows, cols) bool, unpacked: eight times as large as what is kept."""
        rows, cols = self.shape
        return self._unpacked(slice(0, rows), slice(0, cols))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TissueMask)
            and (self.cell_px, self.height_px, self.width_px)
            == (other.cell_px, other.height_px, other.width_px)
            and np.array_equal(self.bits, other.bits)
        )

    def __hash__(self) -> int:
        return hash((self.cell_px, self.height_px, self.width_px, self.bits.tobytes()))

    def __repr__(self) -> str:
        rows, cols = self.shape
        share = self.share_of(self._whole)
        return f"TissueMask({share:.1%} of {rows} x {cols} cells of {self.cell_px} px)"

    @property
    def is_empty(self) -> bool:
        return not self.bits.any()

    @property
    def _whole(self) -> Window:
        return Window(0, 0, self.height_px, self.width_px)

    def _unpacked(self, rows: slice, cols: slice) -> Mask:
        """Some cells, (rows, cols) bool."""
        first = cols.start // 8
        cells = np.unpackbits(self.bits[rows, first : -(-cols.stop // 8)], axis=1).view(bool)
        return cells[:, cols.start - 8 * first : cols.stop - 8 * first]

    def _cells(self, window: Window) -> tuple[slice, slice]:
        inside = window.intersect(self._whole)
        if inside.is_empty:
            return slice(0, 0), slice(0, 0)
        cell = self.cell_px
        return slice(inside.y0 // cell, -(-inside.y1 // cell)), slice(
            inside.x0 // cell, -(-inside.x1 // cell)
        )

    def touches(self, window: Window) -> bool:
        """Whether any cell with tissue reaches into the window (level-0 px)."""
        return bool(self._unpacked(*self._cells(window)).any())

    def touched(self, window: Window, side_px: int) -> Mask:
        """Of the squares that a window is cut into from its first corner: those that tissue reaches into.

        Parameters
        ----------
        window
            Level-0 px.
        side_px
            Of a square, level-0 px; the last ones end with the window.

        Returns
        -------
        Mask
            (ceil(height / side_px), ceil(width / side_px)).
        """
        rows, cols = self._cells(window)
        held = np.zeros((rows.stop - rows.start + 1, cols.stop - cols.start + 1), np.int64)
        held[1:, 1:] = self._unpacked(rows, cols).cumsum(0).cumsum(1)
        top, bottom = self._crossed(window.y0, window.y1, side_px, self.height_px, rows)
        left, right = self._crossed(window.x0, window.x1, side_px, self.width_px, cols)
        inside = held[np.ix_(bottom, right)] - held[np.ix_(top, right)]
        return np.asarray(inside - held[np.ix_(bottom, left)] + held[np.ix_(top, left)] > 0)

    def _crossed(
        self, start_px: int, stop_px: int, side_px: int, size_px: int, cells: slice
    ) -> tuple[Ints, Ints]:
        """First and last (exclusive) of `cells` that each stretch of `side_px` reaches into."""
        edges = np.append(np.arange(start_px, stop_px, side_px, dtype=np.int64), stop_px).clip(0, size_px)
        first = edges[:-1] // self.cell_px
        last = np.where(edges[1:] > edges[:-1], -(-edges[1:] // self.cell_px), first)
        most = cells.stop - cells.start
        return np.clip(first - cells.start, 0, most), np.clip(last - cells.start, 0, most)

    def share_of(self, window: Window) -> float:
        """Tissue's share of the window's part on the slide, 0..1; exact, cells cut at the window's edge."""
        inside = window.intersect(self._whole)
        if inside.is_empty:
            return 0.0
        return self._area_px(inside) / inside.area_px

    def area_px(self) -> int:
        """Area of the tissue on the slide, level-0 px."""
        return self._area_px(self._whole)

    def _area_px(self, inside: Window) -> int:
        rows, cols = self._cells(inside)
        overlap_y = _overlaps(rows, self.cell_px, inside.y0, inside.y1)
        overlap_x = _overlaps(cols, self.cell_px, inside.x0, inside.x1)
        return int(overlap_y @ (self._unpacked(rows, cols) @ overlap_x))

    def holds(self, points_px: Doubles) -> Mask:
        """(n,) bool: which of the (n, 2) points, (y, x) in level-0 px, lie on tissue."""
        y, x = points_px[:, 0], points_px[:, 1]
        inside: Mask = (y >= 0) & (x >= 0) & (y < self.height_px) & (x < self.width_px)
        cells = (points_px[inside] // self.cell_px).astype(np.int64)
        row, col = cells[:, 0], cells[:, 1]
        inside[inside] = self.bits[row, col // 8] & (128 >> col % 8) != 0
        return inside

    def windows(self) -> tuple[Window, ...]:
        """The bounding window of every connected piece of tissue (level-0 px), largest first."""
        _, _, stats, _ = cv2.connectedComponentsWithStats(self.mask.astype(np.uint8), connectivity=8)
        found = []
        for x, y, width, height, _ in stats[1:].tolist():
            y0, x0, y1, x1 = (self.cell_px * edge for edge in (y, x, y + height, x + width))
            found.append(Window(y0, x0, y1, x1).intersect(self._whole))
        return tuple(sorted(found, key=lambda window: (-window.area_px, window.y0, window.x0)))

    def pack(self) -> str:
        """`HEIGHTxWIDTH:` (level-0 px) and base64 of the zlib-compressed bits, rows first."""
        bits = base64.b64encode(zlib.compress(np.packbits(self.mask).tobytes(), 9)).decode("ascii")
        return f"{self.height_px}x{self.width_px}:{bits}"

    @classmethod
    def unpack(cls, text: str, cell_px: int) -> Self:
        """The mask that `pack` wrote."""
        size, bits = text.split(":", 1)
        height_px, width_px = (int(number) for number in size.split("x"))
        rows, cols = -(-height_px // cell_px), -(-width_px // cell_px)
        packed = np.frombuffer(zlib.decompress(base64.b64decode(bits)), np.uint8)
        mask = np.unpackbits(packed, count=rows * cols).reshape(rows, cols).view(bool)
        return cls.of(mask, cell_px, height_px, width_px)


def fit_cell(height_px: int, width_px: int, least_px: int) -> int:
    """The smallest power of two, at least `least_px`, that gives no more than `MAX_CELLS` cells."""
    cell_px = least_px
    while -(-height_px // cell_px) * -(-width_px // cell_px) > MAX_CELLS:
        cell_px *= 2
    return cell_px


def _overlaps(cells: slice, cell_px: int, start_px: int, stop_px: int) -> Ints:
    """How many px of each cell lie in start_px..stop_px."""
    edges = np.arange(cells.start, cells.stop + 1, dtype=np.int64) * cell_px
    sizes: Ints = np.diff(np.clip(edges, start_px, stop_px))
    return sizes


def all_tissue(slide: Slide) -> TissueMask:
    """The whole slide taken as tissue."""
    level = slide.levels[0]
    cell_px = fit_cell(level.height_px, level.width_px, 64)
    shape = -(-level.height_px // cell_px), -(-level.width_px // cell_px)
    return TissueMask.of(np.ones(shape, bool), cell_px, level.height_px, level.width_px)

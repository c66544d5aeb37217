"""The record of where tissue is: a mask of square cells over level 0, and its compact text for a plan.

How the mask is found or read is `microtome.tissue`'s job.
"""

import base64
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import cv2
import numpy as np

from microtome.arrays import Doubles, Ints, Mask
from microtome.grid import Window
from microtome.slides.base import Slide

MAX_CELLS = 8_000_000
"""A mask has no more cells than this (1 MB as bits), whatever the size of the slide."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Square cells of level 0 that hold tissue."""

    mask: Mask
    """(rows, cols) bool: cell (0, 0) covers [0, cell_px) x [0, cell_px) of level 0."""
    cell_px: int
    """Side of a cell, level-0 px; a power of two."""
    height_px: int
    width_px: int
    """Size of level 0; the last cells may reach beyond it."""

    def __post_init__(self) -> None:
        if self.cell_px < 1 or self.cell_px & (self.cell_px - 1):
            raise ValueError(f"cell_px is {self.cell_px}, not a power of two")
        shape = -(-self.height_px // self.cell_px), -(-self.width_px // self.cell_px)
        if self.mask.shape != shape:
            raise ValueError(f"mask is {self.mask.shape}, but the slide has {shape} cells")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TissueMask)
            and (self.cell_px, self.height_px, self.width_px)
            == (other.cell_px, other.height_px, other.width_px)
            and np.array_equal(self.mask, other.mask)
        )

    def __hash__(self) -> int:
        return hash((self.cell_px, self.height_px, self.width_px, int(self.mask.sum())))

    def __repr__(self) -> str:
        rows, cols = self.mask.shape
        share = self.share_of(Window(0, 0, self.height_px, self.width_px))
        return f"TissueMask({share:.1%} of {rows} x {cols} cells of {self.cell_px} px)"

    @property
    def is_empty(self) -> bool:
        return not self.mask.any()

    @cached_property
    def _sizes(self) -> tuple[Ints, Ints]:
        """Height of each row and width of each column inside the slide, level-0 px."""
        rows, cols = self.mask.shape
        heights = np.full(rows, self.cell_px, np.int64)
        widths = np.full(cols, self.cell_px, np.int64)
        heights[-1:] -= rows * self.cell_px - self.height_px
        widths[-1:] -= cols * self.cell_px - self.width_px
        return heights, widths

    def _cells(self, window: Window) -> tuple[slice, slice]:
        inside = window.intersect(Window(0, 0, self.height_px, self.width_px))
        if inside.is_empty:
            return slice(0, 0), slice(0, 0)
        cell = self.cell_px
        return slice(inside.y0 // cell, -(-inside.y1 // cell)), slice(
            inside.x0 // cell, -(-inside.x1 // cell)
        )

    def touches(self, window: Window) -> bool:
        """Whether any cell with tissue reaches into the window (level-0 px)."""
        return bool(self.mask[self._cells(window)].any())

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
        held[1:, 1:] = self.mask[rows, cols].cumsum(0).cumsum(1)
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
        inside = window.intersect(Window(0, 0, self.height_px, self.width_px))
        if inside.is_empty:
            return 0.0
        rows, cols = self._cells(window)
        overlap_y = _overlaps(rows, self.cell_px, inside.y0, inside.y1)
        overlap_x = _overlaps(cols, self.cell_px, inside.x0, inside.x1)
        return int(overlap_y @ (self.mask[rows, cols] @ overlap_x)) / inside.area_px

    def area_px(self) -> int:
        """Area of the tissue on the slide, level-0 px."""
        heights, widths = self._sizes
        return int(heights @ (self.mask @ widths))

    def holds(self, points_px: Doubles) -> Mask:
        """(n,) bool: which of the (n, 2) points, (y, x) in level-0 px, lie on tissue."""
        y, x = points_px[:, 0], points_px[:, 1]
        inside: Mask = (y >= 0) & (x >= 0) & (y < self.height_px) & (x < self.width_px)
        cells = (points_px[inside] // self.cell_px).astype(np.int64)
        inside[inside] = self.mask[cells[:, 0], cells[:, 1]]
        return inside

    def windows(self) -> tuple[Window, ...]:
        """The bounding window of every connected piece of tissue (level-0 px), largest first."""
        _, _, stats, _ = cv2.connectedComponentsWithStats(self.mask.astype(np.uint8), connectivity=8)
        slide = Window(0, 0, self.height_px, self.width_px)
        found = []
        for x, y, width, height, _ in stats[1:].tolist():
            y0, x0, y1, x1 = (self.cell_px * edge for edge in (y, x, y + height, x + width))
            found.append(Window(y0, x0, y1, x1).intersect(slide))
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
        mask = np.unpackbits(packed, count=rows * cols).reshape(rows, cols).astype(bool)
        return cls(mask, cell_px, height_px, width_px)


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
    return TissueMask(np.ones(shape, bool), cell_px, level.height_px, level.width_px)

"""Geometry of a slide: windows, shards, neighbours, scales. Integers only, no I/O.

Coordinates are (y, x) pixels of the level they name; windows are half-open. Pixel (0, 0)
covers [0, 1) x [0, 1), so a pixel's centre is at +0.5: every outline, centre and table of
this project uses these corner-based coordinates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

SMALLEST_PX = 512
"""The longer side of the last level is at most this."""


class Sides(NamedTuple):
    """Of which sides of a window something holds."""

    top: bool
    left: bool
    bottom: bool
    right: bool


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open rectangle of pixels."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def area_px(self) -> int:
        return self.height * self.width

    @property
    def is_empty(self) -> bool:
        return self.height <= 0 or self.width <= 0

    def holds(self, y_px: float, x_px: float) -> bool:
        """Whether the point is inside; on a shared edge, one window holds it."""
        return self.y0 <= y_px < self.y1 and self.x0 <= x_px < self.x1

    def intersect(self, other: Self) -> Self:
        """The part in both; empty (see `is_empty`) where they do not meet."""
        return type(self)(
            max(self.y0, other.y0),
            max(self.x0, other.x0),
            min(self.y1, other.y1),
            min(self.x1, other.x1),
        )

    def grow(self, margin_px: int) -> Self:
        """Larger by `margin_px` on each side; may leave the slide."""
        return type(self)(self.y0 - margin_px, self.x0 - margin_px, self.y1 + margin_px, self.x1 + margin_px)

    def shrink(self, margin_px: int, sides: Sides) -> Self:
        """Smaller by `margin_px` on some of its sides."""
        top, left, bottom, right = (margin_px * side for side in sides)
        return type(self)(self.y0 + top, self.x0 + left, self.y1 - bottom, self.x1 - right)

    def shift(self, dy_px: int, dx_px: int) -> Self:
        return type(self)(self.y0 + dy_px, self.x0 + dx_px, self.y1 + dy_px, self.x1 + dx_px)

    def within(self, outer: Self) -> tuple[slice, slice]:
        """Slices that cut this window out of an array that holds `outer`."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """Network pixels per level-0 pixel, as a power of two: `up / down`, one of them 1.

    A power of two keeps every edge of a shard on whole pixels on both sides, so a window
    resampled alone has the same pixels as one cut from the whole slide resampled.
    """

    up: int
    down: int

    def to_network(self, window: Window) -> Window:
        """The window in network px, rounded outwards."""
        return Window(
            window.y0 * self.up // self.down,
            window.x0 * self.up // self.down,
            -(-window.y1 * self.up // self.down),
            -(-window.x1 * self.up // self.down),
        )

    def to_level0(self, window: Window) -> Window:
        """The window in level-0 px, rounded outwards."""
        return Scale(self.down, self.up).to_network(window)

    @property
    def factor(self) -> float:
        return self.up / self.down


@dataclass(frozen=True, slots=True)
class Shard:
    """A square of level 0: one key of the store, one Dask task."""

    index: int
    row: int
    col: int
    window: Window

    @property
    def key(self) -> str:
        return f"{self.row}-{self.col}"


@dataclass(frozen=True)
class Grid:
    """A level cut into squares of `shard_px`, row by row from the top left."""

    height_px: int
    width_px: int
    shard_px: int

    @property
    def rows(self) -> int:
        return -(-self.height_px // self.shard_px)

    @property
    def cols(self) -> int:
        return -(-self.width_px // self.shard_px)

    def __len__(self) -> int:
        return self.rows * self.cols

    def __getitem__(self, index: int) -> Shard:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.at(*divmod(index, self.cols))

    def __iter__(self) -> Iterator[Shard]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def window(self) -> Window:
        return Window(0, 0, self.height_px, self.width_px)

    def at(self, row: int, col: int) -> Shard:
        """The shard of that row and column, cut at the edge of the slide."""
        y0, x0 = row * self.shard_px, col * self.shard_px
        window = Window(y0, x0, y0 + self.shard_px, x0 + self.shard_px).intersect(self.window)
        return Shard(row * self.cols + col, row, col, window)

    def around(self, shard: Shard, reach: int = 1) -> tuple[Shard, ...]:
        """The shard and its neighbours up to `reach` rows and columns away, in index order."""
        return tuple(
            self.at(row, col)
            for row in range(max(0, shard.row - reach), min(self.rows, shard.row + reach + 1))
            for col in range(max(0, shard.col - reach), min(self.cols, shard.col + reach + 1))
        )


def levels_of(height_px: int, width_px: int) -> int:
    """Levels of a pyramid, level 0 included: halved until the longer side is <= 512 px."""
    levels, longer_px = 1, max(height_px, width_px)
    while longer_px > SMALLEST_PX:
        levels, longer_px = levels + 1, -(-longer_px // 2)
    return levels

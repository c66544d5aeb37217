"""What every reader of slides offers: levels, resolution, windows of pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from microtome.arrays import Pixels
from microtome.errors import MicrotomeError
from microtome.grid import Window


class OnBadTile(StrEnum):
    """What `Slide.read` does with a tile that cannot be decoded."""

    FAIL = "fail"
    BLANK = "blank"


@dataclass(frozen=True, slots=True)
class Mpp:
    """Size of a level-0 pixel, um/px."""

    y: float
    x: float


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a slide; level 0 is the finest."""

    height_px: int
    width_px: int
    downsample: float
    """Level-0 px per px of this level."""


@dataclass(frozen=True, slots=True, order=True)
class BadTile:
    """A tile of the file that cannot be decoded, by its place in its level."""

    level: int
    index: int
    y_px: int
    x_px: int


class BadTiles(MicrotomeError):
    """Raised by `Slide.read` under `OnBadTile.FAIL`, after all tiles of the window were tried."""

    def __init__(self, uri: str, tiles: tuple[BadTile, ...], of_tiles: int) -> None:
        super().__init__(uri, tiles, of_tiles)
        self.uri, self.tiles, self.of_tiles = uri, tiles, of_tiles

    def __str__(self) -> str:
        first = min(self.tiles)
        return (
            f"{self.uri}: {len(self.tiles):,} of {self.of_tiles:,} tiles cannot be decoded "
            f"(first: level {first.level}, tile {first.index:,} at y={first.y_px:,} x={first.x_px:,}); "
            "the scanner's copy is damaged. Copy it again, or take the damaged tiles as glass: "
            "--on-bad-tile blank"
        )


class Slide(Protocol):
    """A slide that is open for reading. Threads may read at once."""

    @property
    def uri(self) -> str: ...
    @property
    def format(self) -> str:
        """In words for people, e.g. `Aperio SVS, JPEG 4:2:0 quality 70`."""
        ...

    @property
    def reader(self) -> str:
        """The library that reads it, and why that one: `tifffile: tiled TIFF of known codec`."""
        ...

    @property
    def levels(self) -> tuple[Level, ...]: ...
    @property
    def mpp(self) -> Mpp | None:
        """None where the file does not say; never guessed."""
        ...

    @property
    def tiles(self) -> int:
        """How many tiles (or strips) level 0 has in the file."""
        ...

    @property
    def identity(self) -> str:
        """Hex digest that names these bytes: equal for a copy, another for another slide."""
        ...

    @property
    def bad_tiles(self) -> frozenset[BadTile]:
        """Tiles that were taken as glass so far (`OnBadTile.BLANK`)."""
        ...

    def bad_tiles_in(self, window: Window) -> frozenset[BadTile]:
        """Those of level 0 that cross the window."""
        ...

    def read(self, level: int, window: Window) -> Pixels:
        """Pixels of a window of a level, (c, y, x) uint8; outside of the level is white.

        Raises
        ------
        BadTiles
            If tiles cannot be decoded and the slide was opened with `OnBadTile.FAIL`.
        """
        ...

    def read_each(self, level: int, windows: Sequence[Window]) -> Iterator[Pixels]:
        """As `read` of each window, in their order; what all need of the file is asked for at once.

        So a slide in a bucket is read by few requests; by more where that would be too much for memory.
        """
        ...

    @property
    def tile_size_px(self) -> tuple[int, int]:
        """Height and width of a tile of level 0 in the file; of a strip, or what is read at once."""
        ...

    def read_unless_white(self, window: Window) -> Pixels | None:
        """A window of level 0 as by `read`; None where the file holds nothing but white tiles there.

        Filling is the same tile again and again: it is decoded once.
        """
        ...

    def read_with_jpeg(self, window: Window) -> tuple[Pixels | None, dict[tuple[int, int], bytes]]:
        """As by `read_unless_white`, and the window's tiles as by `copy_jpeg`; the file is read once.

        Tiles that cannot be decoded are among neither (`OnBadTile.BLANK`).
        """
        ...

    def copy_jpeg(self, window: Window) -> dict[tuple[int, int], bytes]:
        """The tiles of level 0 that cross a window, by row and column of the file's grid of tiles.

        Each is a JPEG stream that decodes alone to the pixels that `read` gives, its entropy-coded
        data as in the file. Nothing is decoded. Tiles that the file does not hold are left out; all
        of them where tiles are no JPEG.

        Raises
        ------
        UndecodableTile
            If a tile is damaged before its first scan.
        """
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...

"""Windows of a slide whose levels are grids of separately encoded tiles (or strips).

Fetches the tiles that cross a window, decodes each into its place, and accounts for those
that cannot be decoded. What a tile is and where its bytes lie is the `TileStore`'s business.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, Self

import numpy as np

from microtome.arrays import Pixels
from microtome.grid import Window
from microtome.slides.base import BadTile, BadTiles, Level, Mpp, OnBadTile

WHITE = 255
LARGE_TILE_PX = 1 << 20
CACHE_BYTES = 128 << 20
AT_ONCE_PX = 24 << 20
"""Of tiles that several windows need: 75 MB of those that are not compressed."""
WHITE_PX_A_BYTE = 20
"""A tile of nothing but white has at least so many px a byte; other glass, with its noise, mostly fewer."""
WHITE_KINDS = 64
"""Filling comes in few kinds: whole tiles, and some at the edges."""

type Encoded = tuple[bytes, ...]
"""The stored parts of a tile: one, or one a colour plane. None at all: the tile is not there.

Equal ones, of one level, are equal tiles."""


class UndecodableTile(Exception):
    """The bytes of a tile are damaged. Turned into `BadTiles`, or into glass, by `TiledSlide`."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """How a level is cut into tiles, row by row from the top left."""

    height_px: int
    width_px: int
    tile_height_px: int
    tile_width_px: int

    @property
    def rows(self) -> int:
        return -(-self.height_px // self.tile_height_px)

    @property
    def cols(self) -> int:
        return -(-self.width_px // self.tile_width_px)

    @property
    def window(self) -> Window:
        return Window(0, 0, self.height_px, self.width_px)

    def tile(self, index: int) -> Window:
        """The tile's place, cut at the edge of the level."""
        row, col = divmod(index, self.cols)
        y0, x0 = row * self.tile_height_px, col * self.tile_width_px
        whole = Window(y0, x0, y0 + self.tile_height_px, x0 + self.tile_width_px)
        return whole.intersect(self.window)

    def crossing(self, window: Window) -> list[int]:
        """The tiles that have a part in the window, in order."""
        rows = range(window.y0 // self.tile_height_px, -(-window.y1 // self.tile_height_px))
        cols = range(window.x0 // self.tile_width_px, -(-window.x1 // self.tile_width_px))
        return [row * self.cols + col for row in rows for col in cols]


class TileStore(Protocol):
    """Where encoded tiles come from, and how they are decoded. Threads may use it at once."""

    @property
    def grids(self) -> tuple[TileGrid, ...]: ...
    def fetch(self, level: int, indices: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        """Each tile with its bytes, in few reads and bounded memory."""
        ...

    def decode(self, level: int, index: int, encoded: Encoded, shrink: int) -> Pixels:
        """The tile as interleaved (y, x, c) uint8, at least as large as its part of the level.

        `shrink` (1, 2, 4 or 8) asks for a smaller picture of it, averaged over squares of so
        many px; only stores whose `can_shrink` says so are asked for more than 1.

        Raises
        ------
        UndecodableTile
            If the bytes are damaged.
        """
        ...

    def as_jpeg(self, level: int, encoded: Encoded) -> bytes | None:
        """A stored tile as a JPEG stream that decodes alone, to the same pixels as `decode` gives.

        None where the level's tiles are no JPEG.

        Raises
        ------
        UndecodableTile
            If the bytes are damaged before the first scan.
        """
        ...

    def can_shrink(self, level: int) -> bool: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideFacts:
    """What a slide says of itself. See `Slide` for the meaning of each."""

    uri: str
    format: str
    reader: str
    levels: tuple[Level, ...]
    mpp: Mpp | None
    identity: str


class TiledSlide:
    """A `Slide` over a `TileStore`."""

    def __init__(self, facts: SlideFacts, store: TileStore, on_bad_tile: OnBadTile) -> None:
        self._facts, self._store, self._on_bad_tile = facts, store, on_bad_tile
        self._bad: set[BadTile] = set()
        self._lock = threading.Lock()
        self._large: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._white: set[tuple[int, int, Encoded]] = set()

    @property
    def uri(self) -> str:
        return self._facts.uri

    @property
    def format(self) -> str:
        return self._facts.format

    @property
    def reader(self) -> str:
        return self._facts.reader

    @property
    def levels(self) -> tuple[Level, ...]:
        return self._facts.levels

    @property
    def mpp(self) -> Mpp | None:
        return self._facts.mpp

    @property
    def identity(self) -> str:
        return self._facts.identity

    @property
    def tiles(self) -> int:
        return self._store.grids[0].rows * self._store.grids[0].cols

    @property
    def bad_tiles(self) -> frozenset[BadTile]:
        with self._lock:
            return frozenset(self._bad)

    def bad_tiles_in(self, window: Window) -> frozenset[BadTile]:
        """See `Slide.bad_tiles_in`."""
        there = set(self._crossing(0, window)) if self.bad_tiles else set()
        return frozenset(tile for tile in self.bad_tiles if tile.level == 0 and tile.index in there)

    def read(self, level: int, window: Window) -> Pixels:
        """See `Slide.read`."""
        return self.read_shrunk(level, window, 1)

    def read_each(self, level: int, windows: Sequence[Window]) -> Iterator[Pixels]:
        """See `Slide.read_each`."""
        crossing = [self._crossing(level, window) for window in windows]
        wanted = sorted(set(chain.from_iterable(crossing)))
        grid = self._store.grids[level]
        if len(wanted) * grid.tile_height_px * grid.tile_width_px > AT_ONCE_PX:
            if len(windows) == 1:
                yield self.read(level, windows[0])
                return
            half = len(windows) // 2
            yield from self.read_each(level, windows[:half])
            yield from self.read_each(level, windows[half:])
            return
        tiles = dict(self._store.fetch(level, wanted)) if wanted else {}
        for window, indices in zip(windows, crossing, strict=True):
            there = ((index, tiles[index]) for index in indices)
            yield _pixels(self._compose(level, window, there, 1)[0], window)

    def can_shrink(self, level: int) -> bool:
        """Whether `read_shrunk` is cheaper here than reading all pixels."""
        return self._store.can_shrink(level)

    def read_shrunk(self, level: int, window: Window, shrink: int) -> Pixels:
        """As `read`, with squares of `shrink` px (1, 2, 4, 8) averaged into one.

        The window must start on a multiple of `shrink`, and so must every tile (`can_shrink`).
        """
        return _pixels(self._read(level, window, shrink), _shrunk(window, shrink))

    def read_unless_white(self, window: Window) -> Pixels | None:
        """See `Slide.read_unless_white`."""
        return self._read(0, window, 1)

    def _read(self, level: int, window: Window, shrink: int) -> Pixels | None:
        indices = self._crossing(level, window)
        tiles = self._store.fetch(level, indices) if indices else ()
        return self._compose(level, window, tiles, shrink)[0]

    @property
    def tile_size_px(self) -> tuple[int, int]:
        return self._store.grids[0].tile_height_px, self._store.grids[0].tile_width_px

    def read_with_jpeg(self, window: Window) -> tuple[Pixels | None, dict[tuple[int, int], bytes]]:
        """See `Slide.read_with_jpeg`."""
        tiles = list(self._store.fetch(0, self._crossing(0, window)))
        pixels, bad = self._compose(0, window, tiles, 1)
        glass = {tile.index for tile in bad}
        return pixels, self._as_jpeg((index, tile) for index, tile in tiles if index not in glass)

    def copy_jpeg(self, window: Window) -> dict[tuple[int, int], bytes]:
        """See `Slide.copy_jpeg`."""
        return self._as_jpeg(self._store.fetch(0, self._crossing(0, window)))

    def _crossing(self, level: int, window: Window) -> list[int]:
        grid = self._store.grids[level]
        inside = window.intersect(grid.window)
        return [] if inside.is_empty else grid.crossing(inside)

    def _as_jpeg(self, tiles: Iterable[tuple[int, Encoded]]) -> dict[tuple[int, int], bytes]:
        cols = self._store.grids[0].cols
        return {
            divmod(index, cols): stream
            for index, encoded in tiles
            if encoded and (stream := self._store.as_jpeg(0, encoded)) is not None
        }

    def _compose(
        self, level: int, window: Window, tiles: Iterable[tuple[int, Encoded]], shrink: int
    ) -> tuple[Pixels | None, list[BadTile]]:
        """The window put together of its tiles, and those that cannot be decoded, which are white.

        No pixels where the file holds nothing but white there.

        Raises
        ------
        BadTiles
            If there are some that cannot be decoded (`OnBadTile.FAIL`), once all were tried.
        """
        grid, bad = self._store.grids[level], []
        target = _shrunk(window, shrink)
        out: Pixels | None = None
        white: list[tuple[slice, slice]] = []
        tried = 0
        for index, encoded in tiles:
            tried += 1
            place = grid.tile(index)
            part = _shrunk(place, shrink).intersect(target)
            try:
                tile = self._decode(level, index, encoded, shrink)
            except UndecodableTile:
                bad.append(BadTile(level, index, place.y0, place.x0))
                tile = None
            if tile is None:
                white.append(part.within(target))
                continue
            if out is None:
                sticks_out = window.intersect(grid.window) != window
                out = _white(target) if sticks_out else np.empty((target.height, target.width, 3), np.uint8)
            out[part.within(target)] = tile[part.within(_shrunk(place, shrink))]
        self._account(bad, tried)
        if out is None:
            return None, bad
        for there in white:
            out[there] = WHITE
        return out.transpose(2, 0, 1), bad

    def _decode(self, level: int, index: int, encoded: Encoded, shrink: int) -> Pixels | None:
        """The tile's pixels, None of white or of nothing. Large tiles are kept for the next read."""
        if not encoded:
            return None
        grid = self._store.grids[level]
        may_be_white = sum(map(len, encoded)) * WHITE_PX_A_BYTE <= grid.tile_height_px * grid.tile_width_px
        if may_be_white and (level, shrink, encoded) in self._white:
            return None
        key, place = (level, index, shrink), _shrunk(grid.tile(index), shrink)
        with self._lock:
            if key in self._large:
                self._large.move_to_end(key)
                return self._large[key]
        tile = self._store.decode(level, index, encoded, shrink)
        if tile.shape[0] < place.height or tile.shape[1] < place.width:
            raise UndecodableTile(f"{tile.shape} decoded, {place} expected")
        if may_be_white and (tile == WHITE).all():
            # One of another size than the grid's may be at its place here, but not everywhere.
            if tile.shape[:2] == (grid.tile_height_px // shrink, grid.tile_width_px // shrink):
                self._remember_white(level, shrink, encoded)
            return None
        if place.area_px >= LARGE_TILE_PX:
            with self._lock:
                self._large[key] = tile
                while len(self._large) > 1 and sum(t.nbytes for t in self._large.values()) > CACHE_BYTES:
                    self._large.popitem(last=False)
        return tile

    def _remember_white(self, level: int, shrink: int, encoded: Encoded) -> None:
        with self._lock:
            if len(self._white) < WHITE_KINDS:
                self._white.add((level, shrink, encoded))

    def _account(self, bad: list[BadTile], of_tiles: int) -> None:
        if not bad:
            return
        if self._on_bad_tile is OnBadTile.FAIL:
            raise BadTiles(self.uri, tuple(bad), of_tiles)
        with self._lock:
            self._bad.update(bad)

    def close(self) -> None:
        with self._lock:
            self._large.clear()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        finest = self.levels[0]
        return f"<Slide {self.uri}: {self.format}, {finest.width_px:,} x {finest.height_px:,} px>"


def _shrunk(window: Window, shrink: int) -> Window:
    return Window(window.y0 // shrink, window.x0 // shrink, -(-window.y1 // shrink), -(-window.x1 // shrink))


def _pixels(found: Pixels | None, window: Window) -> Pixels:
    """White (c, y, x) where nothing else was found."""
    return _white(window).transpose(2, 0, 1) if found is None else found


def _white(window: Window) -> Pixels:
    """Interleaved."""
    return np.full((window.height, window.width, 3), WHITE, np.uint8)

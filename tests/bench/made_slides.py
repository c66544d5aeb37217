"""Slides of any size in a small file: a BigTIFF whose tile tables point again and again at real tiles.

The pieces are squares of 1,024 px of a real slide, chosen by their share of tissue and by how many
nuclei they have; the rest is glass. The three finest levels point at the real slide's own JPEG
tiles; the coarse ones, from a sixteenth on, are composed of its small pictures and encoded.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
import tifffile

from microtome.arrays import Ints, Pixels

TILE_PX = 256
PIECE_PX = 1024
POINTED = (1, 2, 4)
"""Downsamples of the levels that point at real tiles: a piece is at least one tile of them."""
COMPOSED = (16, 64)
CENTIMETRE_PX = (20_000_000, 497)
"""Resolution as TIFF has it: 0.2485 um/px."""
SHORT, LONG, RATIONAL, LONG8 = 3, 4, 5, 16
"""Types of TIFF's values."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A square of the real slide: its JPEG tiles by downsample, row by row, and its small picture."""

    tiles: dict[int, tuple[bytes, ...]]
    small: Pixels
    """(64, 64, 3): a sixteenth."""
    y0: int
    x0: int


@dataclass(frozen=True, slots=True)
class MadeSlide:
    path: Path
    side_px: int
    tissue_px: int
    """Of the pieces that are not glass."""


def pieces_of(slide: Path, counts: Ints | None = None, per_mp: tuple[int, int] = (0, 10_000)) -> list[Piece]:
    """The pieces of a slide that are nearly all tissue.

    Parameters
    ----------
    counts
        (rows, cols) nuclei of each piece; of all pieces those are taken whose density in 1/MP is
        within `per_mp`.
    """
    pieces = []
    with tifffile.TiffFile(slide) as tiff:
        pages = tiff.series[0].levels
        small = cv2.resize(pages[2].asarray(), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        rows, cols = (size // PIECE_PX for size in pages[0].shape[:2])
        for row, col in product(range(rows), range(cols)):
            cell = small[row * 64 : (row + 1) * 64, col * 64 : (col + 1) * 64]
            stained = np.ptp(cell.astype(np.int16), axis=-1) > 12
            density = counts[row, col] / (PIECE_PX**2 / 1e6) if counts is not None else 1
            if stained.mean() > 0.9 and per_mp[0] <= density <= per_mp[1]:
                tiles = {d: _tiles(tiff, level, row, col) for level, d in enumerate(POINTED)}
                pieces.append(Piece(tiles, np.ascontiguousarray(cell), row * PIECE_PX, col * PIECE_PX))
    return pieces


def _tiles(tiff: tifffile.TiffFile, level: int, row: int, col: int) -> tuple[bytes, ...]:
    page = tiff.series[0].levels[level].pages[0].aspage()
    across, side = -(-page.imagewidth // TILE_PX), PIECE_PX // POINTED[level] // TILE_PX
    found = []
    for y, x in product(range(side), range(side)):
        index = (row * side + y) * across + col * side + x
        tiff.filehandle.seek(page.dataoffsets[index])
        found.append(tiff.filehandle.read(page.databytecounts[index]))
    return tuple(found)


def make_slide(
    path: Path, pieces: Sequence[Piece], *, side_px: int, tissue_share: float = 0.2, seed: int = 0
) -> MadeSlide:
    """A square slide of tissue in islands of some millimetres, on glass; the same for the same seed.

    Parameters
    ----------
    side_px
        Rounded to whole pieces.
    """
    across = round(side_px / PIECE_PX)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(1, 1 + len(pieces), (across, across)) * _islands(rng, across, tissue_share)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        levels = [_point(file, pieces, chosen, downsample) for downsample in POINTED]
        levels += [_compose(file, pieces, chosen, downsample) for downsample in COMPOSED]
        _write_directories(file, across * PIECE_PX, levels)
    return MadeSlide(path, across * PIECE_PX, int(np.count_nonzero(chosen)) * PIECE_PX**2)


def _islands(rng: np.random.Generator, across: int, share: float) -> Ints:
    """1 where there is tissue: the highest parts of smooth noise."""
    heights = cv2.GaussianBlur(rng.standard_normal((across, across)), (0, 0), max(1.0, across / 16))
    order = np.argsort(-heights, axis=None)[: round(share * across**2)]
    islands = np.zeros(across**2, np.int64)
    islands[order] = 1
    return islands.reshape(across, across)


@dataclass(frozen=True, slots=True)
class _Level:
    downsample: int
    offsets: Ints
    counts: Ints


def _point(file: BinaryIO, pieces: Sequence[Piece], chosen: Ints, downsample: int) -> _Level:
    """Every piece's tiles written once; the tables name them as often as they occur."""
    side = PIECE_PX // downsample // TILE_PX
    glass = _encode(np.full((TILE_PX, TILE_PX, 3), 255, np.uint8))
    places = np.empty((1 + len(pieces), side, side, 2), np.int64)
    places[0] = _append(file, glass)
    for number, piece in enumerate(pieces, 1):
        places[number] = np.reshape(
            [_append(file, jpeg) for jpeg in piece.tiles[downsample]], (side, side, 2)
        )
    table = places[chosen].transpose(0, 2, 1, 3, 4).reshape(-1, 2)
    return _Level(downsample, table[:, 0], table[:, 1])


def _compose(file: BinaryIO, pieces: Sequence[Piece], chosen: Ints, downsample: int) -> _Level:
    """A coarse level, tile by tile."""
    px = PIECE_PX // downsample
    shrunk = [cv2.resize(piece.small, (px, px), interpolation=cv2.INTER_AREA) for piece in pieces]
    small = np.stack([np.full((px, px, 3), 255, np.uint8), *shrunk])
    per_tile, places = TILE_PX // px, []
    tiles = -(-len(chosen) // per_tile)
    for row, col in product(range(tiles), range(tiles)):
        cells = chosen[row * per_tile :, col * per_tile :][:per_tile, :per_tile]
        tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
        height, width = cells.shape[0] * px, cells.shape[1] * px
        tile[:height, :width] = small[cells].transpose(0, 2, 1, 3, 4).reshape(height, width, 3)
        places.append(_append(file, _encode(tile)))
    table = np.array(places)
    return _Level(downsample, table[:, 0], table[:, 1])


def _encode(tile: Pixels) -> bytes:
    return simplejpeg.encode_jpeg(tile, quality=90, colorspace="RGB", colorsubsampling="420")


def _append(file: BinaryIO, jpeg: bytes) -> tuple[int, int]:
    offset = file.tell()
    file.write(jpeg)
    return offset, len(jpeg)


def _write_directories(file: BinaryIO, side_px: int, levels: Sequence[_Level]) -> None:
    """One directory a level, each linked from the one before."""
    link = 8
    for number, level in enumerate(levels):
        size = side_px // level.downsample
        tags: dict[int, tuple[int, Sequence[int] | Ints]] = {
            254: (LONG, [int(number > 0)]),
            256: (LONG, [size]),
            257: (LONG, [size]),
            258: (SHORT, [8, 8, 8]),
            259: (SHORT, [7]),
            262: (SHORT, [6]),
            277: (SHORT, [3]),
            282: (RATIONAL, CENTIMETRE_PX),
            283: (RATIONAL, CENTIMETRE_PX),
            284: (SHORT, [1]),
            296: (SHORT, [3]),
            322: (SHORT, [TILE_PX]),
            323: (SHORT, [TILE_PX]),
            324: (LONG8, level.offsets),
            325: (LONG, level.counts),
            530: (SHORT, [2, 2]),
        }
        entries = b""
        for tag, (kind, values) in tags.items():
            entries += _entry(file, tag, kind, np.asarray(values))
        here = file.tell()
        file.write(struct.pack("<Q", len(tags)) + entries + struct.pack("<Q", 0))
        end = file.tell()
        file.seek(link)
        file.write(struct.pack("<Q", here))
        file.seek(end)
        link = end - 8


def _entry(file: BinaryIO, tag: int, kind: int, values: Ints) -> bytes:
    """A tag's 20 bytes; values that do not fit in go into the file before."""
    dtype = {SHORT: "<u2", LONG: "<u4", RATIONAL: "<u4", LONG8: "<u8"}[kind]
    packed = values.astype(dtype).tobytes()
    count = len(values) // 2 if kind == RATIONAL else len(values)
    if len(packed) > 8:
        offset = file.tell()
        file.write(packed)
        packed = struct.pack("<Q", offset)
    return struct.pack("<HHQ", tag, kind, count) + packed.ljust(8, b"\0")

"""The TIFF family: Aperio SVS, NDPI, Philips, SCN, BIF, QPTIFF, OME-TIFF, plain TIFF.

tifffile reads the structure; tiles are fetched and decoded here, by ranges and strictly.
"""

import io
import logging
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import tifffile

from microtome.arrays import Ints, Pixels
from microtome.errors import DamagedSlide, TruncatedSlide, UnsupportedSlide
from microtome.slides.base import OnBadTile
from microtome.slides.jpeg_header import describe
from microtome.slides.source import Source, SourceFile, identity
from microtome.slides.tiff_decode import (
    JPEG_2000,
    compression_name,
    decoder,
    has_halved_chroma,
    is_jpeg,
    standalone,
)
from microtome.slides.tiff_mpp import find_mpp
from microtome.slides.tiff_pages import TiffLevel, find_levels, to_levels
from microtome.slides.tiff_whole import needed_bytes
from microtome.slides.tiled import Encoded, SlideFacts, TiledSlide, TileGrid, UndecodableTile

# What matters of its complaints becomes an error here; programs that set up logging still see all.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

BATCH_BYTES = 32 << 20
XMP = 700
OVERLAP = re.compile(rb"Overlap[XY]=[\"']-?0*[1-9]")
KINDS = {
    "svs": "Aperio SVS",
    "ndpi": "Hamamatsu NDPI",
    "philips": "Philips TIFF",
    "scn": "Leica SCN",
    "bif": "Ventana BIF",
    "qpi": "PerkinElmer QPTIFF",
    "ome": "OME-TIFF",
}


class OnlyOpenSlide(UnsupportedSlide):
    """Tiles are stored as only OpenSlide reads them: overlapping, or with halved chroma planes."""


def open_tiff(uri: str, source: Source, on_bad_tile: OnBadTile) -> TiledSlide:
    """A slide over an open source, which it then owns.

    Raises
    ------
    TruncatedSlide, NotASlide, UnsupportedSlide
        If it cannot be read; see each.
    OnlyOpenSlide
        If OpenSlide has to read it.
    """
    with (
        _parsing(uri),
        io.BufferedReader(SourceFile(source)) as file,
        tifffile.TiffFile(file, name=PurePath(uri).name) as tiff,
    ):
        _refuse_truncated(uri, tiff, file, source)
        _refuse_overlaps(uri, tiff)
        levels = find_levels(uri, tiff)
        for level in levels:
            _refuse_missing_bytes(uri, level, source)
        store = TiffStore(uri, levels, source)
        _refuse_halved_chroma(uri, levels[0], store)
        mpp, kind = find_mpp(tiff, levels[0].page), _kind(tiff)
    facts = SlideFacts(
        uri=uri,
        format=f"{kind}, {_compression(levels[0], store)}",
        reader="tifffile: TIFF with tiles or strips of a known codec",
        levels=to_levels(store.grids),
        mpp=mpp,
        identity=identity(source),
    )
    return TiledSlide(facts, store, on_bad_tile)


class TiffStore:
    """Tiles of a TIFF's levels. See `TileStore`."""

    def __init__(self, uri: str, levels: tuple[TiffLevel, ...], source: Source) -> None:
        self._levels, self._source = levels, source
        self._decoders = tuple(decoder(uri, level) for level in levels)
        self._grids = tuple(level.grid for level in levels)

    @property
    def grids(self) -> tuple[TileGrid, ...]:
        return self._grids

    def fetch(self, level: int, indices: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        """See `TileStore.fetch`."""
        offsets, counts = self._levels[level].offsets, self._levels[level].counts
        for batch in _batches(np.asarray(indices), counts):
            places = [(int(o), int(c)) for o, c in zip(offsets[batch].flat, counts[batch].flat, strict=True)]
            parts = iter(self._source.read([place for place in places if place[1]]))
            for index in batch.tolist():
                stored = [count > 0 for count in counts[index].tolist()]
                encoded = tuple(next(parts) for there in stored if there)
                yield index, encoded if all(stored) else ()

    def decode(self, level: int, index: int, encoded: Encoded, shrink: int) -> Pixels:
        """See `TileStore.decode`."""
        return self._decoders[level](index, encoded, shrink)

    def as_jpeg(self, level: int, encoded: Encoded) -> bytes | None:
        """See `TileStore.as_jpeg`."""
        stored = self._levels[level]
        return standalone(stored.page, encoded[0]) if is_jpeg(stored) else None

    def can_shrink(self, level: int) -> bool:
        """Whether libjpeg can average squares of 8 px while it decodes, tile by tile."""
        grid = self._levels[level].grid
        return is_jpeg(self._levels[level]) and grid.tile_height_px % 8 == grid.tile_width_px % 8 == 0

    def close(self) -> None:
        self._source.close()


def _batches(indices: Ints, counts: npt.NDArray[np.uint32]) -> list[Ints]:
    """Tiles in order, in lots of about `BATCH_BYTES`."""
    lots = np.cumsum(counts[indices].sum(axis=1)) // BATCH_BYTES
    return np.split(indices, np.flatnonzero(np.diff(lots)) + 1)


@contextmanager
def _parsing(uri: str) -> Iterator[None]:
    try:
        yield
    # What tifffile raises of a header that makes no sense; it has no error of its own for all of them.
    except (tifffile.TiffFileError, struct.error, IndexError, KeyError, ValueError, TypeError) as error:
        raise DamagedSlide(uri, f"a TIFF whose header is damaged ({error})") from error


def _kind(tiff: tifffile.TiffFile) -> str:
    kind = tiff.series[0].kind
    return KINDS.get(kind, "TIFF")


def _first_tile(level: TiffLevel, store: TiffStore) -> bytes:
    """The first tile of the finest level that the file holds; empty if it holds none."""
    stored = np.flatnonzero(level.counts.min(axis=1))
    if not len(stored):
        return b""
    _, encoded = next(store.fetch(0, [int(stored[0])]))
    return encoded[0]


def _compression(level: TiffLevel, store: TiffStore) -> str:
    """`JPEG 4:2:0 quality 70`, as far as the file says it."""
    words = [compression_name(level.page)]
    if is_jpeg(level) and (tile := _first_tile(level, store)):
        try:
            words.append(describe(standalone(level.page, tile)))
        except UndecodableTile:
            words.append("(first tile damaged)")
    _, _, quality = level.page.description.partition("Q=")
    if digits := quality[: len(quality) - len(quality.lstrip("0123456789"))]:
        words.append(f"quality {digits}")
    return " ".join(word for word in words if word)


def _refuse_truncated(uri: str, tiff: tifffile.TiffFile, file: BinaryIO, source: Source) -> None:
    needed = needed_bytes(file, ndpi=tiff.is_ndpi)
    if needed > source.size_bytes:
        raise TruncatedSlide(uri, source.size_bytes, needed)


def _refuse_missing_bytes(uri: str, level: TiffLevel, source: Source) -> None:
    needed = int(np.where(level.counts > 0, level.offsets + level.counts, 0).max())
    if needed > source.size_bytes:
        raise TruncatedSlide(uri, source.size_bytes, needed)


def _refuse_overlaps(uri: str, tiff: tifffile.TiffFile) -> None:
    """Ventana's scanner leaves overlaps between tiles, which have to be put together."""
    pages = [page.aspage() for page in tiff.pages] if tiff.is_bif else []
    if any(OVERLAP.search(bytes(page.tags.valueof(XMP, b""))) for page in pages):
        way_out = "copy it to a local disk, so that OpenSlide can read it"
        raise OnlyOpenSlide(uri, "has overlapping tiles", way_out)


def _refuse_halved_chroma(uri: str, level: TiffLevel, store: TiffStore) -> None:
    """Older Aperio scanners wrote JPEG 2000 with fewer samples of colour than of brightness."""
    if int(level.page.compression) in JPEG_2000 and has_halved_chroma(_first_tile(level, store)):
        way_out = "copy it to a local disk, so that OpenSlide can read it"
        raise OnlyOpenSlide(uri, "has JPEG 2000 tiles with subsampled chroma", way_out)

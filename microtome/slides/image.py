"""Single fields as one-level slides: PNG, JPEG, BMP, WebP, JPEG 2000."""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from microtome.arrays import Pixels
from microtome.errors import DamagedSlide, UnsupportedSlide
from microtome.slides import jpeg
from microtome.slides.base import Level, OnBadTile
from microtome.slides.source import Source, identity
from microtome.slides.tiff_pages import MAX_TILE_PX, TO_RGB, TO_TILES
from microtome.slides.tiled import Encoded, SlideFacts, TiledSlide, TileGrid, UndecodableTile

MAGICS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
}


def image_kind(head: bytes) -> str | None:
    """The kind of image that begins like this, or None."""
    return next((kind for magic, kind in MAGICS.items() if head.startswith(magic)), None)


def open_image(uri: str, source: Source, kind: str, on_bad_tile: OnBadTile) -> TiledSlide:
    """A slide of one level and one tile. It is decoded once, when opened.

    Raises
    ------
    DamagedSlide
        If it cannot be decoded.
    UnsupportedSlide
        If its pixels are not 8-bit RGB, or there are too many for one piece.
    """
    (encoded,) = source.read([(0, source.size_bytes)])
    try:
        pixels = _decode(encoded, kind)
    except UndecodableTile as error:
        raise DamagedSlide(uri, f"a {kind} image that is damaged or cut short ({error})") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        has = f"has {channels} channel(s) of {pixels.dtype}, but 8-bit RGB is needed"
        raise UnsupportedSlide(uri, has, TO_RGB)
    height_px, width_px = pixels.shape[:2]
    if height_px * width_px > MAX_TILE_PX:
        raise UnsupportedSlide(uri, f"is one {kind} of {width_px:,} x {height_px:,} px", TO_TILES)
    facts = SlideFacts(
        uri=uri,
        format=kind,
        reader=f"{'libjpeg-turbo' if kind == 'JPEG' else 'OpenCV'}: a single {kind} image",
        levels=(Level(height_px, width_px, 1.0),),
        mpp=None,
        identity=identity(source),
    )
    return TiledSlide(facts, ImageStore(pixels, source), on_bad_tile)


class ImageStore:
    """One tile, decoded. See `TileStore`."""

    def __init__(self, pixels: Pixels, source: Source) -> None:
        self._pixels = pixels
        source.close()

    @property
    def grids(self) -> tuple[TileGrid, ...]:
        height_px, width_px = self._pixels.shape[:2]
        return (TileGrid(height_px, width_px, height_px, width_px),)

    def fetch(self, level: int, indices: Sequence[int]) -> Iterator[tuple[int, Encoded]]:
        """See `TileStore.fetch`."""
        return ((index, (b"decoded",)) for index in indices)

    def decode(self, level: int, index: int, encoded: Encoded, shrink: int) -> Pixels:
        """See `TileStore.decode`."""
        return self._pixels

    def as_jpeg(self, level: int, encoded: Encoded) -> bytes | None:
        """See `TileStore.as_jpeg`. One picture is no grid of tiles."""
        return None

    def can_shrink(self, level: int) -> bool:
        return False

    def close(self) -> None:
        """Nothing is held open."""


def _decode(encoded: bytes, kind: str) -> npt.NDArray[Any]:
    if kind == "JPEG":
        return jpeg.decode(encoded)
    try:
        image: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UndecodableTile(str(error)) from error
    if image is None:
        raise UndecodableTile("its pixels cannot be decoded")
    if image.ndim == 3 and image.shape[2] == 4 and image.dtype == np.uint8:
        return jpeg.blend_over_white(np.ascontiguousarray(image[..., [2, 1, 0, 3]]))
    return np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else image

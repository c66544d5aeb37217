"""From the stored bytes of a TIFF tile to RGB: one decoder a level, chosen when the slide is opened.

JPEG goes through libjpeg-turbo, strictly; everything else through tifffile and imagecodecs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from microtome.arrays import Pixels
from microtome.errors import UnsupportedSlide
from microtome.slides import jpeg
from microtome.slides.tiff_pages import TO_TILES, TiffLevel
from microtome.slides.tiled import Encoded, UndecodableTile

JPEG = {7, 33007}
APERIO_YCBCR = 33003
JPEG_2000 = {33003, 33005, 34712}
# The first marker segment of a codestream, and where its list of components begins.
SIZ, SIZ_COUNT_AT, SIZ_COMPONENTS_AT = b"\xff\x4f\xff\x51", 40, 42
# Rows: R, G, B; columns: Y, Cb - 128, Cr - 128 (ITU-R BT.601, full range, as in JFIF).
YCBCR_TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)

type Decode = Callable[[int, Encoded, int], Pixels]
"""Of a tile's index, its bytes and a shrink factor. See `TileStore.decode`."""


def decoder(uri: str, level: TiffLevel) -> Decode:
    """How the tiles of a level are decoded.

    Raises
    ------
    UnsupportedSlide
        If nothing here knows their compression.
    """
    if level.raw_rows:
        return _raw_rows(level)
    if is_jpeg(level):
        return lambda index, encoded, shrink: jpeg.decode(standalone(level.page, encoded[0]), shrink)
    if level.page.compression != 1:
        _refuse_unknown(uri, level.page)
    return _by_tifffile(level.page)


def is_jpeg(level: TiffLevel) -> bool:
    """Whether a tile is one ordinary JPEG of all three colours."""
    page = level.page
    return page.compression in JPEG and level.offsets.shape[1] == 1 and page.samplesperpixel == 3


def standalone(page: tifffile.TiffPage, tile: bytes) -> bytes:
    """A tile of a JPEG page as a stream that decodes alone; its entropy-coded data stay as they are."""
    if page.jpegheader:
        return jpeg.from_restart_segment(page.jpegheader, tile)
    colour = jpeg.AS_RGB if page.photometric == 2 else jpeg.AS_YCBCR
    return jpeg.complete(tile, page.jpegtables or b"", colour)


def has_halved_chroma(codestream: bytes) -> bool:
    """Whether a JPEG 2000 component has fewer samples than the tile has pixels."""
    if not codestream.startswith(SIZ):
        return False
    count = int.from_bytes(codestream[SIZ_COUNT_AT:SIZ_COMPONENTS_AT])
    components = codestream[SIZ_COMPONENTS_AT : SIZ_COMPONENTS_AT + 3 * count]
    return any(steps != 1 for at in (1, 2) for steps in components[at::3])


def compression_name(page: tifffile.TiffPage) -> str:
    names = {7: "JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 1: "uncompressed"}
    code = int(page.compression)
    return names.get(code, str(getattr(page.compression, "name", f"compression {code}")).replace("_", " "))


def _refuse_unknown(uri: str, page: tifffile.TiffPage) -> None:
    try:
        tifffile.TIFF.DECOMPRESSORS[int(page.compression)]
        page.decode(None, 0)
    except (KeyError, ValueError, NotImplementedError, ImportError) as error:
        has = f"has tiles of compression {compression_name(page)} ({int(page.compression)}), unknown here"
        raise UnsupportedSlide(uri, has, TO_TILES) from error


def _raw_rows(level: TiffLevel) -> Decode:
    width_px, samples = level.grid.width_px, level.page.samplesperpixel

    def decode(index: int, encoded: Encoded, shrink: int) -> Pixels:
        row_bytes = width_px * samples
        whole = len(encoded[0]) // row_bytes * row_bytes
        return _to_rgb(np.frombuffer(encoded[0][:whole], np.uint8).reshape(-1, width_px, samples))

    return decode


def _by_tifffile(page: tifffile.TiffPage) -> Decode:
    convert = _ycbcr_to_rgb if page.compression == APERIO_YCBCR else _to_rgb
    tables: dict[str, Any] = {"jpegtables": page.jpegtables} if page.jpegtables else {}

    def decode(index: int, encoded: Encoded, shrink: int) -> Pixels:
        planes = []
        for part in encoded:
            try:
                planes.append(_plane(page.decode(part, index, **tables)[0]))
            # imagecodecs raises RuntimeError of each codec, tifffile ValueError.
            except (ValueError, RuntimeError) as error:
                raise UndecodableTile(str(error)) from error
        return convert(np.ascontiguousarray(np.concatenate(planes, axis=-1)))

    return decode


def _plane(decoded: npt.NDArray[Any] | None) -> Pixels:
    """(y, x, samples) of tifffile's (depth, y, x, samples)."""
    if decoded is None:
        raise ValueError("no pixels")
    plane: Pixels = decoded[0]
    return plane


def _to_rgb(tile: Pixels) -> Pixels:
    return tile if tile.shape[-1] == 3 else jpeg.blend_over_white(tile)


def _ycbcr_to_rgb(tile: Pixels) -> Pixels:
    centred = tile.astype(np.float32) - np.array([0, 128, 128], np.float32)
    rgb: Pixels = np.clip(np.rint(centred @ YCBCR_TO_RGB.T), 0, 255).astype(np.uint8)
    return rgb

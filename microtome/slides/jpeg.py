"""JPEG tiles as slides store them: shared tables, unlabelled colour, restart segments; strict.

libjpeg fills damaged data with grey and goes on; here every warning of it is a damaged tile.
"""

import numpy as np
import simplejpeg

from microtome.arrays import Pixels
from microtome.slides.jpeg_header import SOS, find
from microtome.slides.tiled import UndecodableTile

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
# Adobe's marker, whose last byte says whether three components are RGB (0) or YCbCr (1).
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
AS_RGB, AS_YCBCR = ADOBE + b"\x00", ADOBE + b"\x01"


def complete(stream: bytes, tables: bytes = b"", colour: bytes = b"") -> bytes:
    """A stream that decodes alone: with the tables it lacks, and its colour space said.

    Parameters
    ----------
    stream
        From SOI to EOI, perhaps abbreviated.
    tables
        The TIFF tag JPEGTables, or nothing.
    colour
        `AS_RGB`, `AS_YCBCR`, or nothing where the stream says it itself.
    """
    if not stream.startswith(SOI):
        raise UndecodableTile("no JPEG starts here")
    scan = find(stream, {SOS})
    shared = tables.removeprefix(SOI).removesuffix(EOI)
    return b"".join((SOI, shared, stream[2:scan], colour, stream[scan:]))


def from_restart_segment(header: bytes, segment: bytes) -> bytes:
    """A stream of the header and the entropy-coded data between two restart markers."""
    if len(segment) >= 2 and segment[-2] == 0xFF and 0xD0 <= segment[-1] <= 0xD7:
        segment = segment[:-2]
    return b"".join((header, segment, b"" if segment.endswith(EOI) else EOI))


def decode(stream: bytes, shrink: int = 1) -> Pixels:
    """Interleaved (y, x, c) RGB of a complete stream; `shrink` 2, 4 or 8 decodes averages only.

    Raises
    ------
    UndecodableTile
        If libjpeg has anything to complain of.
    """
    try:
        if shrink == 1:
            tile: Pixels = simplejpeg.decode_jpeg(stream, "RGB")
            return tile
        height, width, _, _ = simplejpeg.decode_jpeg_header(stream)
        small: Pixels = simplejpeg.decode_jpeg(
            stream,
            "RGB",
            min_height=-(-height // shrink),
            min_width=-(-width // shrink),
            min_factor=shrink,
        )
    except ValueError as error:
        raise UndecodableTile(str(error)) from error
    return small


def says_colour(stream: bytes) -> bool:
    """Whether the stream has a JFIF or an Adobe marker."""
    scan = find(stream, {SOS})
    return b"JFIF\0" in stream[:scan] or b"\xff\xee\x00\x0eAdobe" in stream[:scan]


def blend_over_white(rgba: Pixels) -> Pixels:
    """(y, x, 4) with straight alpha to (y, x, 3) over white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    blended = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return blended.astype(np.uint8)

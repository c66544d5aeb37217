"""Slides as a broken transfer leaves them."""

from pathlib import Path

import tifffile


def damaged_copy(slide: Path, copy: Path, tile: int) -> Path:
    """The TIFF with most of the bytes of one tile of level 0 overwritten."""
    content = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as file:
        offset, count = file.pages[0].dataoffsets[tile], file.pages[0].databytecounts[tile]
    content[offset + count // 3 : offset + count] = b"\xff" * (count - count // 3)
    copy.write_bytes(content)
    return copy

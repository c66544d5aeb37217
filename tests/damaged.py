"""Slides as a broken transfer leaves them."""

from pathlib import Path

import tifffile


def damaged_copy(slide: Path, copy: Path, tile: int, level: int = 0) -> Path:
    """The TIFF with most of the bytes of one tile of a level overwritten."""
    content = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as file:
        page = file.series[0].levels[level].keyframe
        offset, count = page.dataoffsets[tile], page.databytecounts[tile]
    content[offset + count // 3 : offset + count] = b"\xff" * (count - count // 3)
    copy.write_bytes(content)
    return copy

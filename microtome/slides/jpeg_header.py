"""What a JPEG stream says of itself before its data: size, colours, subsampling, quality."""

from dataclasses import dataclass

import numpy as np

from microtome.arrays import Ints
from microtome.slides.tiled import UndecodableTile

SOS, DQT = 0xDA, 0xDB
SOF = {0xC0, 0xC1, 0xC2}
"""Frames of Huffman-coded DCT, which every decoder reads."""
SUBSAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (1, 2): "4:4:0", (4, 1): "4:1:1"}
LUMA = np.array(
    [
        [16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40],
        [26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51],
        [56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87],
        [95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99],
    ]
).ravel()
"""Quantisation of brightness at quality 50, in zigzag order (ITU-T T.81, table K.1)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the frame header says."""

    height_px: int
    width_px: int
    components: int
    subsampling: str
    """`4:2:0`; empty for one component, or a ratio without a name."""
    table: int
    """Number of the first component's quantisation table."""


def find(stream: bytes, markers: set[int], at: int = 2) -> int:
    """Where the first segment of one of these kinds starts, from `at` on.

    Raises
    ------
    UndecodableTile
        If there is none.
    """
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in markers:
            return at
        at += 2 + int.from_bytes(stream[at + 2 : at + 4])
    raise UndecodableTile(f"no marker of {sorted(markers)} before byte {at}")


def frame_of(stream: bytes) -> Frame:
    """The frame of a stream.

    Raises
    ------
    UndecodableTile
        If it has none of Huffman-coded DCT, or is cut short there.
    """
    at = find(stream, SOF)
    count = stream[at + 9] if at + 9 < len(stream) else 0
    if not count or at + 10 + 3 * count > len(stream):
        raise UndecodableTile("the frame header is cut short")
    ratio = (0, 0)
    if count == 3:
        luma, chroma = stream[at + 11], stream[at + 14]
        ratio = (luma >> 4) // max(1, chroma >> 4), (luma & 15) // max(1, chroma & 15)
    return Frame(
        height_px=int.from_bytes(stream[at + 5 : at + 7]),
        width_px=int.from_bytes(stream[at + 7 : at + 9]),
        components=count,
        subsampling=SUBSAMPLING.get(ratio, ""),
        table=stream[at + 12],
    )


def describe(stream: bytes) -> str:
    """The chroma subsampling in words for people, `4:2:0`; empty where the stream does not say."""
    try:
        return frame_of(stream).subsampling
    except UndecodableTile:
        return ""


def quality_of(stream: bytes) -> int:
    """The quality, 1..100, whose table of brightness is the nearest to the stream's.

    libjpeg's scale; exact where the stream was made with it.

    Raises
    ------
    UndecodableTile
        If the stream holds no quantisation table.
    """
    table = _table(stream, frame_of(stream).table)
    qualities = np.arange(1, 101)
    scale = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    scaled = np.clip((LUMA * scale[:, None] + 50) // 100, 1, 255)
    return int(qualities[np.abs(scaled - table).sum(axis=1).argmin()])


def _table(stream: bytes, number: int) -> Ints:
    """The 64 steps of a quantisation table, in zigzag order."""
    at = 2
    while True:
        at = find(stream, {DQT}, at)
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        entry = at + 4
        while entry < end:
            width = 1 + (stream[entry] >> 4)
            steps = stream[entry + 1 : entry + 1 + 64 * width]
            if stream[entry] & 15 == number and width <= 2 and len(steps) == 64 * width:
                return np.frombuffer(steps, {1: "u1", 2: ">u2"}[width]).astype(np.int64)
            entry += 1 + 64 * width
        at = end

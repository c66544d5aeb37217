"""How far into the file a TIFF's directories reach: whether it was cut short."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

VALUE_BYTES = {3: 2, 4: 4, 5: 8} | {8: 2, 9: 4, 10: 8} | {11: 4, 12: 8, 13: 4} | {16: 8, 17: 8, 18: 8}
SUB_IFDS, BIG = 330, 43


@dataclass(frozen=True, slots=True)
class Layout:
    """How directories are written: struct codes, with the byte order."""

    order: str
    first_at: int
    count: str
    entry: str
    word: str
    """Of an offset, and of a value kept in the directory itself."""
    next: str
    """Of the offset of the following directory."""
    upper: str
    """Of the upper half of each value, in a list after the directory; empty where there is none."""


def needed_bytes(file: BinaryIO, *, ndpi: bool) -> int:
    """One past the last byte that the header, the directories and their values take.

    Stops at the first directory that lies outside of the file. Tiles are not looked at.

    Parameters
    ----------
    ndpi
        Hamamatsu's own layout: a classic TIFF whose offsets have upper halves elsewhere.
    """
    size, needed = file.seek(0, 2), 0
    layout = _layout(file, ndpi)
    to_do, seen = list(_numbers(file, layout, layout.next, layout.first_at, 1)), set[int]()
    while to_do:
        ifd = to_do.pop()
        if ifd == 0 or ifd in seen:
            continue
        seen.add(ifd)
        if ifd + struct.calcsize(f"<{layout.count}") > size:
            return max(needed, ifd + struct.calcsize(f"<{layout.count}"))
        end, more = _directory(file, ifd, layout, size)
        needed = max(needed, end)
        to_do += more
    return needed


def _layout(file: BinaryIO, ndpi: bool) -> Layout:
    order = {b"II": "<", b"MM": ">"}[_read(file, 0, 2)]
    (version,) = struct.unpack(f"{order}H", _read(file, 2, 2))
    if version == BIG:
        return Layout(order, 8, "Q", "HHQQ", "Q", "Q", "")
    return Layout(order, 4, "H", "HHII", "I", "Q" if ndpi else "I", "I" if ndpi else "")


def _directory(file: BinaryIO, ifd: int, layout: Layout, size: int) -> tuple[int, list[int]]:
    """Where a directory and its values end, and the directories it points to."""
    (entries,) = _numbers(file, layout, layout.count, ifd, 1)
    start = ifd + struct.calcsize(f"<{layout.count}")
    after = start + entries * struct.calcsize(f"<{layout.entry}")
    uppers_at = after + struct.calcsize(f"<{layout.next}")
    end: int = uppers_at + entries * struct.calcsize(f"<{layout.upper}")
    if end > size:
        return end, []
    more, needed = _numbers(file, layout, layout.next, after, 1), end
    uppers = _numbers(file, layout, layout.upper, uppers_at, entries) if layout.upper else [0] * entries
    table = struct.iter_unpack(f"{layout.order}{layout.entry}", _read(file, start, after - start))
    for (tag, kind, number, value), upper in zip(table, uppers, strict=True):
        value_bytes = VALUE_BYTES.get(kind, 1) * number
        outside = value_bytes > struct.calcsize(f"<{layout.word}")
        place = value + (upper << 32)
        if outside:
            needed = max(needed, place + value_bytes)
        if tag == SUB_IFDS and number and needed <= size:
            more += _numbers(file, layout, layout.word, place, number) if outside else [value]
    return needed, more


def _numbers(file: BinaryIO, layout: Layout, code: str, at: int, count: int) -> list[int]:
    stored = _read(file, at, count * struct.calcsize(f"<{code}"))
    return list(struct.unpack(f"{layout.order}{count}{code}", stored))


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count).ljust(count, b"\0")

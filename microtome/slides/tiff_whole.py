"""How far into the file a TIFF's directories reach: whether it was cut short."""

import struct
from typing import BinaryIO

VALUE_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
SUB_IFDS = 330
BIG = 43


def needed_bytes(file: BinaryIO) -> int:
    """One past the last byte that the header, the directories and their values take.

    Stops at the first directory that lies outside of the file. Tiles are not looked at.
    """
    size, needed = file.seek(0, 2), 0
    order = {b"II": "<", b"MM": ">"}[_read(file, 0, 2)]
    (version,) = struct.unpack(f"{order}H", _read(file, 2, 2))
    at, word = (8, "Q") if version == BIG else (4, "I")
    first: int
    (first,) = struct.unpack(f"{order}{word}", _read(file, at, struct.calcsize(word)))
    to_do, seen = [first], set[int]()
    while to_do:
        ifd = to_do.pop()
        if ifd == 0 or ifd in seen:
            continue
        seen.add(ifd)
        if ifd + 2 > size:
            return max(needed, ifd + 2)
        end, more = _directory(file, ifd, order, version == BIG, size)
        needed = max(needed, end)
        to_do += more
    return needed


def _directory(file: BinaryIO, ifd: int, order: str, big: bool, size: int) -> tuple[int, list[int]]:
    """Where a directory and its values end, and the directories it points to."""
    count_code, entry_code, word = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    count_bytes, inline = struct.calcsize(f"<{count_code}"), struct.calcsize(f"<{word}")
    (entries,) = struct.unpack(f"{order}{count_code}", _read(file, ifd, count_bytes))
    entry_bytes = struct.calcsize(f"<{entry_code}")
    end: int = ifd + count_bytes + entries * entry_bytes + inline
    if end > size:
        return end, []
    table = _read(file, ifd + count_bytes, entries * entry_bytes + inline)
    (following,) = struct.unpack(f"{order}{word}", table[-inline:])
    more, needed = [following], end
    for tag, kind, number, value in struct.iter_unpack(f"{order}{entry_code}", table[:-inline]):
        value_bytes = VALUE_BYTES.get(kind, 1) * number
        if value_bytes > inline:
            needed = max(needed, value + value_bytes)
        if tag == SUB_IFDS and number and needed <= size:
            more += _sub_directories(file, order, word, number, value, value_bytes > inline)
    return needed, more


def _sub_directories(
    file: BinaryIO, order: str, word: str, number: int, value: int, outside: bool
) -> list[int]:
    if not outside:
        return [value]
    return list(
        struct.unpack(f"{order}{number}{word}", _read(file, value, number * struct.calcsize(f"<{word}")))
    )


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count).ljust(count, b"\0")

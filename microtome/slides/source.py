"""Bytes of a slide's file by ranges: local files by pread, those in buckets by S3's own ranges.

Knows nothing of formats. Threads may read at once.
"""

import hashlib
import io
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Buffer, Sequence
from typing import Protocol

from microtome.s3 import S3Bucket, bucket_of

IDENTITY_BYTES = 1 << 20
LOCAL_GAP_BYTES = 16 << 10
REMOTE_GAP_BYTES = 256 << 10
BLOCK_BYTES = 256 << 10

type Range = tuple[int, int]
"""First byte and number of bytes."""


class Source(Protocol):
    """A file that is open for reading by ranges."""

    @property
    def size_bytes(self) -> int: ...
    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range, in their order; shorter where the file ends."""
        ...

    def close(self) -> None: ...


def open_source(uri: str) -> Source:
    """A local path, or `s3://bucket/key`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be reached.
    """
    return RemoteSource(uri) if is_remote(uri) else LocalSource(uri)


def is_remote(uri: str) -> bool:
    return "://" in uri


def is_folder(uri: str) -> bool:
    """Whether this is a folder of this machine, or a prefix of keys."""
    if not is_remote(uri):
        return os.path.isdir(uri)
    bucket, key = _bucket_of(uri)
    return bucket.has_below(key)


def identity(source: Source) -> str:
    """Hex sha256 over the size, the first and the last MiB."""
    size = source.size_bytes
    digest = hashlib.sha256(str(size).encode())
    first = min(IDENTITY_BYTES, size)
    for part in source.read([(0, first), (size - first, first)]):
        digest.update(part)
    return digest.hexdigest()


def coalesce(ranges: Sequence[Range], gap_bytes: int) -> list[tuple[Range, list[int]]]:
    """Ranges joined where less than `gap_bytes` lies between them, each with its members' places."""
    joined: list[tuple[Range, list[int]]] = []
    for place in sorted(range(len(ranges)), key=lambda place: ranges[place]):
        start, count = ranges[place]
        if joined and start - sum(joined[-1][0]) <= gap_bytes:
            (first, length), places = joined[-1]
            joined[-1] = ((first, max(length, start + count - first)), [*places, place])
        else:
            joined.append(((start, count), [place]))
    return joined


class LocalSource:
    """A file of this machine."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._close = weakref.finalize(self, os.close, self._file)  # at the latest when nobody holds it
        self._size_bytes = os.fstat(self._file).st_size

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        parts = [b""] * len(ranges)
        for (first, length), places in coalesce(ranges, LOCAL_GAP_BYTES):
            run = self._pread(first, length)
            for place in places:
                start, count = ranges[place]
                parts[place] = run[start - first : start - first + count]
        return parts

    def _pread(self, first: int, length: int) -> bytes:
        run = os.pread(self._file, length, first)
        while len(run) < length and (more := os.pread(self._file, length - len(run), first + len(run))):
            run += more
        return run

    def close(self) -> None:
        self._close()
        self._file = -1


class RemoteSource:
    """An object of a bucket, s3://bucket/key.

    Settings (AWS_ENDPOINT_URL, AWS_REGION, credentials) come from the environment.
    """

    def __init__(self, uri: str) -> None:
        self._bucket, self._key = _bucket_of(uri)
        self._size_bytes = self._bucket.head(self._key).size_bytes
        self.read_bytes = 0
        """Bytes asked for so far."""

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        # A store refuses to be asked for what lies behind the end.
        within = [(min(first, self._size_bytes), length) for first, length in ranges]
        joined = [run for run in coalesce(within, REMOTE_GAP_BYTES) if run[0][0] < self._size_bytes]
        starts = [first for (first, _), _ in joined]
        ends = [min(first + length, self._size_bytes) for (first, length), _ in joined]
        runs = self._bucket.get_ranges(self._key, starts, ends)
        self.read_bytes += sum(map(len, runs))
        parts = [b""] * len(ranges)
        for ((first, _), places), run in zip(joined, runs, strict=True):
            for place in places:
                start, count = ranges[place]
                parts[place] = run[start - first : start - first + count]
        return parts

    def close(self) -> None:
        """Nothing is held open."""


def _bucket_of(uri: str) -> tuple[S3Bucket, str]:
    if not uri.startswith("s3://"):
        raise OSError(f"slides are read from local disks and from s3://…, not from {uri.split('://')[0]}://…")
    return bucket_of(uri)


class SourceFile(io.RawIOBase):
    """A seekable file over a source, with its last blocks in memory."""

    def __init__(self, source: Source, blocks: int = 64, block_bytes: int = BLOCK_BYTES) -> None:
        self._source, self._at, self._capacity, self._block_bytes = source, 0, blocks, block_bytes
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        """The blocks are freed; the source stays open."""
        self._blocks.clear()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        block, skip = divmod(self._at, self._block_bytes)
        part = self._block(block)[skip : skip + len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _block(self, index: int) -> bytes:
        with self._lock:
            if index not in self._blocks:
                self._blocks[index] = self._source.read([(index * self._block_bytes, self._block_bytes)])[0]
                if len(self._blocks) > self._capacity:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(index)
            return self._blocks[index]

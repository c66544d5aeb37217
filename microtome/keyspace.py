"""Bytes under keys, each written whole or not at all: a local folder, or a prefix of an S3 bucket.

Knows nothing of results. Several processes may use one at once.
"""

import errno
import io
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from microtome.errors import CannotWrite, NoSpaceLeft
from microtome.s3 import S3Bucket, bucket_of, guarded

TEMPORARY = ".writing"
"""Suffix of a file that is not whole yet; `listing` leaves such files out."""
ABANDONED_S = 3600.0
"""A temporary file of another host that is this old has no writer any more."""
REQUESTS = 16
"""Keys that are read or written at once in a bucket, to hide its latency."""
READ_BYTES = 8 << 20
"""Asked for at once of a key that is read as a file."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})


class Keyspace(Protocol):
    """What a store needs of the place that it keeps its keys in."""

    def put(self, key: str, data: bytes) -> None:
        """Write or replace a key.

        Raises
        ------
        NoSpaceLeft
            If the disk or the quota is full; the key is as it was.
        CannotWrite
            If writing there is not allowed.
        """
        ...

    def put_each(self, data: Mapping[str, bytes]) -> None:
        """As `put` of every key. Where one fails, others may have been written."""
        ...

    def writing(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A file that becomes the key when the block ends, and nothing if it raises. As `put`."""
        ...

    def get(self, key: str) -> bytes:
        """The bytes of a key; FileNotFoundError where it is not there."""
        ...

    def get_each(self, keys: Sequence[str]) -> dict[str, bytes]:
        """As `get` of every key; by key, in their order."""
        ...

    def get_existing(self, keys: Sequence[str]) -> dict[str, bytes]:
        """As `get_each`, of those that are there."""
        ...

    def reading(self, key: str) -> BinaryIO:
        """The key as a file that can be sought."""
        ...

    def exists(self, key: str) -> bool: ...
    def delete(self, prefix: str) -> None:
        """Remove the key of that name and every key below it; none is no error."""
        ...

    def listing(self, prefix: str) -> dict[str, int]:
        """Size in bytes of every key below the prefix, in key order; empty if there are none."""
        ...

    def sweep(self) -> None:
        """Remove what writers that died have left half-written."""
        ...


class Folder:
    """A local folder; made when the first key is put."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, key: str, data: bytes) -> None:
        with self.writing(key) as file:
            file.write(data)

    def put_each(self, data: Mapping[str, bytes]) -> None:
        for key, text in data.items():
            self.put(key, text)

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        path = self.root / key
        temporary = path.with_name(f"{path.name}.{_host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
            os.replace(temporary, path)
        except OSError as error:
            if error.errno in FULL:
                raise NoSpaceLeft(str(self.root)) from error
            # What the block reads meanwhile is a file of another place, and not refused to us.
            if error.errno in REFUSED and str(error.filename or path).startswith(str(self.root)):
                raise CannotWrite(str(self.root), str(error.strerror)) from error
            error.add_note(f"while writing {path}")
            raise
        finally:
            # Gone already when all went well; an unreadable folder has raised above.
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def get(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def get_each(self, keys: Sequence[str]) -> dict[str, bytes]:
        return {key: self.get(key) for key in keys}

    def get_existing(self, keys: Sequence[str]) -> dict[str, bytes]:
        return _existing(keys, map(partial(_get_or_none, self), keys))

    def reading(self, key: str) -> BinaryIO:
        return (self.root / key).open("rb")

    def exists(self, key: str) -> bool:
        return (self.root / key).is_file()

    def delete(self, prefix: str) -> None:
        path = self.root / prefix
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def listing(self, prefix: str) -> dict[str, int]:
        root = self.root / prefix
        found = {
            path.relative_to(self.root).as_posix(): size
            for path, size in _files(root)
            if not path.name.endswith(TEMPORARY)
        }
        return dict(sorted(found.items()))

    def sweep(self) -> None:
        for path, _ in _files(self.root):
            if path.name.endswith(TEMPORARY) and _is_abandoned(path):
                path.unlink(missing_ok=True)


class Bucket:
    """A prefix of an S3 bucket; settings come from the environment (`AWS_*`)."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")

    @cached_property
    def _place(self) -> tuple[S3Bucket, str]:
        return bucket_of(self._uri)

    @property
    def _bucket(self) -> S3Bucket:
        return self._place[0]

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """Kept: to start some for a shard's few keys would take as long as to ask for these."""
        return ThreadPoolExecutor(REQUESTS, thread_name_prefix="bucket")

    def _at_once[R](self, request: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> list[R]:
        """What each call gives: a request takes longer than its answer. Raises once all have ended."""
        if len(calls) == 1:
            return [request(*calls[0])]
        asked = [self._threads.submit(request, *call) for call in calls]
        wait(asked)
        return [answer.result() for answer in asked]

    def put(self, key: str, data: bytes) -> None:
        with self._allowed():
            self._bucket.put(self._path(key), data)

    def put_each(self, data: Mapping[str, bytes]) -> None:
        self._at_once(self.put, list(data.items()))

    def get(self, key: str) -> bytes:
        return self._bucket.get(self._path(key))

    def get_each(self, keys: Sequence[str]) -> dict[str, bytes]:
        return dict(zip(keys, self._at_once(self.get, [(key,) for key in keys]), strict=True))

    def get_existing(self, keys: Sequence[str]) -> dict[str, bytes]:
        return _existing(keys, self._at_once(_get_or_none, [(self, key) for key in keys]))

    def writing(self, key: str) -> AbstractContextManager[BinaryIO]:
        return guarded(self._bucket.writing(self._path(key)), self._allowed)

    def reading(self, key: str) -> BinaryIO:
        from microtome.slides.source import RemoteSource, SourceFile  # with all readers of slides

        source = RemoteSource(f"s3://{self._bucket.name}/{self._path(key)}")
        return io.BufferedReader(SourceFile(source, blocks=4, block_bytes=READ_BYTES))

    def exists(self, key: str) -> bool:
        try:
            self._bucket.head(self._path(key))
        except FileNotFoundError:
            return False
        return True

    def delete(self, prefix: str) -> None:
        doomed = [self._path(key) for key in self.listing(prefix)]
        if prefix:
            doomed.append(self._path(prefix))
        if doomed:
            self._bucket.delete(doomed)

    def listing(self, prefix: str) -> dict[str, int]:
        try:
            found = self._bucket.below(self._path(prefix))
        except FileNotFoundError:  # no such bucket: `put` will say so
            return {}
        start = len(self._path("")) + 1 if self._path("") else 0
        return {about.key[start:]: about.size_bytes for about in found}

    def sweep(self) -> None:
        """Nothing: an object appears when it is whole."""

    def _path(self, key: str) -> str:
        return "/".join(part for part in (self._place[1], key) if part)

    @contextmanager
    def _allowed(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, PermissionError) as error:
            raise CannotWrite(self._uri, str(error)) from error


def _get_or_none(keyspace: Keyspace, key: str) -> bytes | None:
    try:
        return keyspace.get(key)
    except FileNotFoundError:
        return None


def _existing(keys: Sequence[str], texts: Iterable[bytes | None]) -> dict[str, bytes]:
    return {key: text for key, text in zip(keys, texts, strict=True) if text is not None}


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    """Every file below a folder and its size; files that vanish meanwhile are left out."""
    try:
        entries = list(os.scandir(root))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
            continue
        try:
            yield Path(entry.path), entry.stat().st_size
        except FileNotFoundError:
            continue


def _is_abandoned(temporary: Path) -> bool:
    """Whether the writer is a dead process of this host, or of another host and long silent."""
    host, pid = temporary.name.removesuffix(TEMPORARY).rsplit(".", 3)[1:3]
    if host == _host():
        return not _is_alive(int(pid))
    try:
        return time.time() - temporary.stat().st_mtime > ABANDONED_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return socket.gethostname().replace(".", "-")

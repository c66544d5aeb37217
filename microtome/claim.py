"""One run at a time per result: a claim that ends with the process that holds it.

Runs of one result wait for each other; the second then finds it done. On disk the claim is a lock
of the kernel's, on S3 an object made only if it is not there (`If-None-Match`) and renewed
(`If-Match`); a claim that is no longer renewed is taken over.
"""

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from microtome.errors import CannotWrite, ClaimLost
from microtome.s3 import bucket_of, reaching

CLAIM = ".claim"
"""Suffix of the file or key beside the result."""
TRIES = 100
"""How often a folder that vanishes is made again."""
WAIT_S = 1.0
RENEW_S = 10.0
SILENT_S = 45.0
"""A claim that was not renewed for so long has lost its holder."""


class Claim:
    """The right to write one result."""

    def __init__(self) -> None:
        self._lost = threading.Event()

    def check(self, uri: str) -> None:
        """Go on only while the claim is ours.

        Raises
        ------
        ClaimLost
            If another run has taken it over, e.g. because the store was away for long.
        """
        if self._lost.is_set():
            raise ClaimLost(uri)

    def lose(self) -> None:
        """Another has it."""
        self._lost.set()


def _silently() -> None:
    pass


@contextmanager
def claimed(uri: str, on_wait: Callable[[], None] = _silently) -> Iterator[Claim]:
    """The claim of a result (a local folder or s3://…).

    Waits while another run holds it; then `on_wait` is called once.

    Raises
    ------
    CannotWrite, ResultUnreachable
        If nothing can be written there, or the store cannot be asked.
    """
    in_bucket = uri.startswith("s3://")
    with _claimed_in_bucket(uri, on_wait) if in_bucket else _claimed_on_disk(uri, on_wait) as claim:
        yield claim


@contextmanager
def _claimed_on_disk(uri: str, on_wait: Callable[[], None]) -> Iterator[Claim]:
    path = Path(uri).expanduser().absolute()
    path = path.with_name(path.name + CLAIM)
    new = [folder for folder in path.parents if not folder.exists()]
    file = _lock(path, on_wait)
    try:
        yield Claim()
    finally:
        path.unlink(missing_ok=True)  # while it is locked: who waits for it sees that it went
        os.close(file)
        with suppress(OSError):  # a run that wrote nothing leaves no folders
            for folder in new:
                folder.rmdir()


def _lock(path: Path, on_wait: Callable[[], None]) -> int:
    """A locked file that lies at the path: its descriptor."""
    has_told = False
    while True:
        file = _open(path)
        while not _try_lock(file, path):
            if not has_told:
                on_wait()
                has_told = True
            time.sleep(WAIT_S)
        # Its holder may have removed it while we waited; then another file is the claim.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)


def _open(path: Path) -> int:
    """The file at the path, made if need be, and the folders above it."""
    try:
        for _ in range(TRIES):
            # Another run may just have removed a folder that it left empty.
            with suppress(FileNotFoundError):
                path.parent.mkdir(parents=True, exist_ok=True)
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CannotWrite(str(path.parent), str(error.strerror)) from error
    raise CannotWrite(str(path.parent), "no folder can be made there")


def _try_lock(file: int, path: Path) -> bool:
    # Polled: a thread that sleeps in flock() could not be interrupted.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        os.close(file)
        raise CannotWrite(str(path.parent), f"its file system has no locks: {error.strerror}") from error
    return True


@contextmanager
def _claimed_in_bucket(uri: str, on_wait: Callable[[], None]) -> Iterator[Claim]:
    with reaching(uri):
        lease = _Lease(uri.rstrip("/") + CLAIM)
        lease.take(on_wait)
    claim, ended = Claim(), threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, claim, ended), daemon=True)
    renewing.start()
    try:
        yield claim
    finally:
        ended.set()
        renewing.join()
        with suppress(OSError):  # the store is away: the claim ends by itself
            lease.give_up()


def _renew(lease: "_Lease", claim: Claim, ended: threading.Event) -> None:
    renewed_s = time.monotonic()
    try:
        while not ended.wait(RENEW_S):
            try:
                if not lease.replace(lease.etag):
                    return
                renewed_s = time.monotonic()
            except (OSError, CannotWrite):  # the store is away, or refuses: ours until others may take it
                if time.monotonic() - renewed_s >= SILENT_S:
                    return
    finally:
        # However it ends, nobody renews it any more.
        claim.lose()


class _Lease:
    """An object that one process at a time may replace."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        # Impatient: what is not renewed in time is not ours any more.
        self._bucket, self._key = bucket_of(uri, is_patient=False)
        self._holder = uuid.uuid4().hex
        self.etag = ""

    def take(self, on_wait: Callable[[], None]) -> None:
        """Make it, or wait until it is gone or has not changed for `SILENT_S`."""
        if self.replace(None):
            return
        on_wait()
        seen, since_s = "", time.monotonic()
        while True:
            with suppress(OSError):  # the store is away for a while: who holds the claim bears that too
                if self.replace(None):
                    return
                etag = self._etag_there()
                if etag != seen:
                    seen, since_s = etag, time.monotonic()
                # Our own clock, and only how long it did not change: the hosts' clocks may differ.
                elif etag and time.monotonic() - since_s >= SILENT_S and self.replace(etag):
                    return
            time.sleep(WAIT_S)

    def replace(self, etag: str | None) -> bool:
        """Write it if it still has this ETag, or if it is not there (None): whether it is ours now."""
        body = f"{self._holder} {uuid.uuid4().hex}".encode()  # another body each time: another ETag
        try:
            new = self._bucket.put_if(self._key, body, etag) or self._etag_if_ours()
        except (FileNotFoundError, PermissionError) as error:
            raise CannotWrite(self._uri, str(error)) from error
        self.etag = new or self.etag
        return new is not None

    def _etag_if_ours(self) -> str | None:
        """A write whose answer was lost looks like somebody else's: what it left tells."""
        with suppress(FileNotFoundError):
            etag = self._bucket.head(self._key).etag
            if self._bucket.get(self._key).startswith(self._holder.encode()):
                return etag
        return None

    def _etag_there(self) -> str:
        try:
            return self._bucket.head(self._key).etag
        except FileNotFoundError:
            return ""

    def give_up(self) -> None:
        """Remove it if it is ours."""
        bucket, key = bucket_of(self._uri)
        with suppress(FileNotFoundError):
            if bucket.head(key).etag == self.etag:
                bucket.delete([key])

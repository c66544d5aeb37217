"""The one way to an S3 store: settings and credentials come from the environment (`AWS_*`).

By obstore: a request takes a tenth of the CPU time that botocore takes for it, and it is imported in 0.02 s.
Its errors become Python's own here: FileNotFoundError, PermissionError, OSError, each with S3's own words.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from microtome.errors import MicrotomeError, ResultUnreachable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Credential, S3Store

PART_BYTES = 16 << 20
"""Objects of more than four of these are sent in parts of this size."""
CONNECT_S = 5


@dataclass(frozen=True, slots=True)
class Patience:
    """With a store that is away."""

    silent_s: float
    """It counts as away once it has said nothing for so long in the middle of a request."""
    retry_s: float
    """For how long a request is begun again."""


PATIENT, IMPATIENT = Patience(silent_s=12, retry_s=30), Patience(silent_s=5, retry_s=1)


@dataclass(frozen=True, slots=True)
class S3Object:
    """What a store says of an object."""

    key: str
    size_bytes: int
    etag: str
    """Without quotes; empty where the store gives none."""
    modified: datetime


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    name, _, key = uri.removeprefix("s3://").partition("/")
    return name, key.rstrip("/")


def bucket_of(uri: str, *, is_patient: bool = True) -> tuple["S3Bucket", str]:
    """The bucket of an `s3://…` address, and the key in it; asked for again, the same connections.

    `is_patient`: whether a store that is away is waited for as `PATIENT` says, or as `IMPATIENT`.

    Raises
    ------
    OSError
        If the settings make no sense.
    """
    name, key = split(uri)
    ours = tuple(sorted((name, text) for name, text in os.environ.items() if name.startswith("AWS_")))
    return _bucket(name, PATIENT if is_patient else IMPATIENT, ours), key


def s3_store(uri: str) -> "S3Store":
    """An `s3://…` folder of keys for libraries that read through obstore themselves."""
    name, prefix = split(uri)
    return _connect(name, PATIENT, os.environ, prefix)


@lru_cache(maxsize=64)
def _bucket(name: str, patience: Patience, environ: tuple[tuple[str, str], ...]) -> "S3Bucket":
    return S3Bucket(name, _connect(name, patience, dict(environ)))


class S3Bucket:
    """Objects of one bucket by key. Threads may use it at once; every call asks the store.

    Every method raises OSError if the store cannot be asked, PermissionError if it refuses, and
    FileNotFoundError if there is no such object or bucket.
    """

    def __init__(self, name: str, store: "S3Store") -> None:
        self.name, self._store = name, store

    def get(self, key: str) -> bytes:
        import obstore

        with _asking():
            return obstore.get(self._store, key).bytes().to_bytes()

    def get_ranges(self, key: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
        """The bytes of each range, asked for at once; `ends` are exclusive and within the object.

        A request a range, unless they touch.
        """
        import obstore

        with _asking():
            found = obstore.get_ranges(self._store, key, starts=starts, ends=ends, coalesce=0)
            return [part.to_bytes() for part in found]

    def put(self, key: str, data: bytes) -> None:
        """Write or replace an object, whole or not at all."""
        import obstore

        with _asking():
            in_parts = len(data) > 4 * PART_BYTES
            obstore.put(self._store, key, data, use_multipart=in_parts, chunk_size=PART_BYTES)

    def put_if(self, key: str, data: bytes, etag: str | None) -> str | None:
        """Write it if it still has this ETag, or if it is not there (None).

        Returns
        -------
        str or None
            Its new ETag; None if another was first.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with _asking():
            try:
                mode: Any = "create" if etag is None else {"e_tag": f'"{etag}"'}
                return _bare(obstore.put(self._store, key, data, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return None

    def writing(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A file that becomes the object when the block ends, and nothing if the block raises.

        A part that is under way then may stay in the store, as an upload that was not completed.
        """
        import obstore

        file: Any = obstore.open_writer(self._store, key, buffer_size=PART_BYTES)
        return guarded(file, _asking)

    def head(self, key: str) -> S3Object:
        import obstore

        with _asking():
            return _object(obstore.head(self._store, key))

    def below(self, prefix: str) -> list[S3Object]:
        """Every object below a folder of keys, at any depth, by key; none are no error.

        Without those of no bytes that consoles make to show a folder: others lie below them.
        """
        found = sorted(self._listed(prefix), key=lambda about: about.key)
        folders = {part for about in found for part in _folders_of(about.key)}
        return [about for about in found if about.size_bytes or about.key not in folders]

    def has_below(self, prefix: str) -> bool:
        """Whether any object lies below a folder of keys."""
        return any(True for _ in self._listed(prefix))

    def _listed(self, prefix: str) -> Iterator[S3Object]:
        import obstore

        with _asking():
            for some in obstore.list(self._store, prefix or None):
                # S3 lists `prefix/` itself too, where somebody has made such a key.
                yield from (_object(about) for about in some if about["path"] != prefix)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; of those that are not there, none is an error."""
        import obstore

        with _asking():
            obstore.delete(self._store, list(keys))


@contextmanager
def guarded(
    opened: AbstractContextManager[BinaryIO], guard: Callable[[], AbstractContextManager[None]]
) -> Iterator[BinaryIO]:
    """A file that is opened, written and closed within `guard`; what its block does besides is not."""
    with guard():
        file = opened.__enter__()
    try:
        yield cast(BinaryIO, _Guarded(file, guard))
    except BaseException:
        opened.__exit__(*sys.exc_info())
        raise
    with guard():
        opened.__exit__(None, None, None)


class _Guarded:
    """What writers of tables ask of a file, each call within the guard."""

    closed = False

    def __init__(self, file: BinaryIO, guard: Callable[[], AbstractContextManager[None]]) -> None:
        self._file, self._guard = file, guard

    def write(self, data: bytes) -> int:
        with self._guard():
            return self._file.write(data)

    def flush(self) -> None:
        with self._guard():
            self._file.flush()


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """For what is asked of a result first. Later on, a store that is away is a fault that may pass.

    Raises
    ------
    ResultUnreachable
        If the store does not answer, or not to us.
    """
    try:
        if uri.startswith("s3://"):
            bucket, key = bucket_of(uri, is_patient=False)  # a wrong address is told soon
            with suppress(FileNotFoundError):
                bucket.head(key)
        yield
    except (MicrotomeError, FileNotFoundError):
        raise
    except OSError as error:
        if not uri.startswith("s3://"):
            raise
        raise ResultUnreachable(uri, str(error)) from error


@contextmanager
def _asking() -> Iterator[None]:
    """obstore's errors as Python's own."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(_reason(error)) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(_reason(error)) from error
    except BaseError as error:
        kind = FileNotFoundError if "<Code>NoSuchBucket</Code>" in str(error) else OSError
        raise kind(_reason(error)) from error


def _reason(error: Exception) -> str:
    """S3's own words, or the innermost ones of a connection that failed: obstore's text fills a page."""
    text = str(error)
    if said := re.search(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?", text, re.DOTALL):
        return ": ".join(word for word in said.groups() if word)
    first = text.split("\n", 1)[0].removeprefix("Generic S3 error: ")
    inner = re.findall(r'(?:message|error): "(.*?)"|(InvalidCertificate)\(', text)
    return f"{first} ({''.join(inner[-1])})" if inner else first


def _object(about: Mapping[str, Any]) -> S3Object:
    return S3Object(about["path"], about["size"], _bare(about["e_tag"]), about["last_modified"])


def _folders_of(key: str) -> Iterator[str]:
    """`a/b` and `a` of `a/b/c`."""
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')


def _connect(
    name: str, patience: Patience, environ: Mapping[str, str], prefix: str | None = None
) -> "S3Store":
    from obstore.store import S3Store

    settings, credentials = _profile(environ)
    named = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if named:
        settings["endpoint"] = named
    if not settings.get("endpoint", "https://").startswith(("http://", "https://")):
        raise OSError(f"AWS_ENDPOINT_URL is {settings['endpoint']}; it has to begin with https:// or http://")
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=patience.silent_s),
        "timeout": timedelta(hours=1),
        "allow_http": settings.get("endpoint", "").startswith("http://"),
    }
    if "AWS_CA_BUNDLE" in environ:
        client["root_certificate"] = _certificate(environ["AWS_CA_BUNDLE"])
    retries: RetryConfig = {
        "max_retries": 1000,  # the time ends them
        "retry_timeout": timedelta(seconds=patience.retry_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=3),
            "base": 3,
        },
    }
    return S3Store(
        name,
        prefix=prefix,
        client_options=client,
        retry_config=retries,
        credential_provider=credentials,
        config=settings,
    )


def _certificate(path: str) -> str:
    try:
        return Path(path).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        # Not as a FileNotFoundError, which would be taken for an object that is not there.
        raise OSError(f"AWS_CA_BUNDLE names {path}, which cannot be read: {error}") from error


def _profile(environ: Mapping[str, str]) -> tuple[Any, Any]:  # Any: dicts and callables of obstore's
    """Settings and credentials of a profile in ~/.aws, where the environment names no key; else nothing.

    obstore itself knows the environment, and the roles of pods and machines.
    """
    home = Path.home() / ".aws"
    files = (
        environ.get("AWS_SHARED_CREDENTIALS_FILE", str(home / "credentials")),
        environ.get("AWS_CONFIG_FILE", str(home / "config")),
    )
    has_key = "AWS_ACCESS_KEY_ID" in environ and "AWS_PROFILE" not in environ
    if has_key or not any(Path(file).expanduser().is_file() for file in files):
        return {}, None
    import botocore.session  # half a second, which others need not wait for
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session()
    try:
        of_profile, found = session.get_scoped_config(), session.get_credentials()
    except BotoCoreError as error:
        raise OSError(f"the settings in {home} or of AWS_PROFILE: {error}") from error
    settings = {"endpoint": of_profile.get("endpoint_url"), "region": of_profile.get("region")}
    if {"AWS_REGION", "AWS_DEFAULT_REGION"} & set(environ):
        del settings["region"]  # the environment goes first
    settings = {name: text for name, text in settings.items() if text}
    if found is None:
        return settings, None

    def credentials() -> "S3Credential":
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),
        }

    return settings, credentials

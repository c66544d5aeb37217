"""The one way to an S3 store: settings and credentials come from the environment (`AWS_*`).

By obstore: a request takes a tenth of the CPU time that botocore takes for it, and it is imported in 0.02 s.
Its errors become Python's own here: FileNotFoundError, PermissionError, OSError, each with S3's own words.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from microtome.errors import MicrotomeError, ResultUnreachable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Credential, S3Store

PART_BYTES = 16 << 20
"""Larger objects are sent in parts of this size."""
CONNECT_S, SILENT_S = 5, 60
"""A store that does not take a connection, or says nothing, for so long is tried again."""
PATIENT_S, IMPATIENT_S = 30, 1
"""For how long a request is tried again."""


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

    `is_patient` waits 30 s for a store that is away, else one.
    """
    name, key = split(uri)
    ours = tuple(sorted((name, text) for name, text in os.environ.items() if name.startswith("AWS_")))
    return _bucket(name, is_patient, ours), key


def s3_store(uri: str) -> "S3Store":
    """An `s3://…` folder of keys for libraries that read through obstore themselves."""
    name, prefix = split(uri)
    return _connect(name, is_patient=True, environ=os.environ, prefix=prefix)


@lru_cache(maxsize=64)
def _bucket(name: str, is_patient: bool, environ: tuple[tuple[str, str], ...]) -> "S3Bucket":
    return S3Bucket(name, _connect(name, is_patient, dict(environ)))


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
        """The bytes of each range, asked for at once; `ends` are exclusive and within the object."""
        import obstore

        with _asking():
            found = obstore.get_ranges(self._store, key, starts=starts, ends=ends)
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

    @contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A file that becomes the object when the block ends, and nothing if the block raises."""
        import obstore

        with _asking(), obstore.open_writer(self._store, key, buffer_size=PART_BYTES) as file:
            yield cast(BinaryIO, file)

    def head(self, key: str) -> S3Object:
        import obstore

        with _asking():
            return _object(obstore.head(self._store, key))

    def below(self, prefix: str) -> Iterator[S3Object]:
        """Every object below a folder of keys, at any depth, by key; none are no error."""
        import obstore

        with _asking():
            found = [about for some in obstore.list(self._store, prefix or None) for about in some]
        return iter(sorted(map(_object, found), key=lambda about: about.key))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; of those that are not there, none is an error."""
        import obstore

        with _asking():
            obstore.delete(self._store, list(keys))


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


def _bare(etag: str | None) -> str:
    return (etag or "").strip('"')


def _connect(name: str, is_patient: bool, environ: Mapping[str, str], prefix: str | None = None) -> "S3Store":
    from obstore.store import S3Store

    settings, credentials = _profile(environ)
    named = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if named:
        settings["endpoint"] = named
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=SILENT_S),
        "timeout": timedelta(hours=1),
        "allow_http": settings.get("endpoint", "").startswith("http://"),
    }
    if "AWS_CA_BUNDLE" in environ:
        client["root_certificate"] = Path(environ["AWS_CA_BUNDLE"]).read_text()
    retries: RetryConfig = {
        "max_retries": 1000,  # the time ends them
        "retry_timeout": timedelta(seconds=PATIENT_S if is_patient else IMPATIENT_S),
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
    if has_key or not any(map(os.path.isfile, files)):
        return {}, None
    import botocore.session  # half a second, which others need not wait for

    session = botocore.session.Session()
    region, endpoint = session.get_config_variable("region"), session.get_scoped_config().get("endpoint_url")
    settings = {name: text for name, text in (("region", region), ("endpoint", endpoint)) if text}
    found = session.get_credentials()
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

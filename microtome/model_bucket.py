"""Models in a bucket: a local copy of each version, made once a machine and shared by its processes."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from microtome.errors import ModelNotFound, ModelUnreachable
from microtome.s3 import S3Bucket, S3Object, bucket_of

CARD_FILE = "model.json"


def fetch_model(uri: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder with the model of an `s3://…` address, as it is there now.

    Store and credentials are those of the environment (AWS_*); copies lie in `MICROTOME_CACHE`,
    by default `~/.cache/microtome`. A model that was replaced in the bucket is another copy.

    Raises
    ------
    ModelNotFound
        If there is no `model.json` below the address.
    ModelUnreachable
        If the store cannot be asked.
    """
    try:
        bucket, root = bucket_of(uri)
        while True:
            parts = _parts(bucket, root, uri)
            folder = _cache(environ) / "models" / _version(uri, parts)
            if folder.is_dir():
                return folder
            with _copied(bucket, parts, folder.parent) as new:
                if parts == _parts(bucket, root, uri):  # else somebody has replaced it meanwhile
                    with suppress(OSError):  # another process was first
                        new.rename(folder)
    except FileNotFoundError as error:
        raise ModelNotFound(uri) from error
    except OSError as error:
        raise ModelUnreachable(uri, str(error)) from error


def _parts(bucket: S3Bucket, root: str, uri: str) -> list[S3Object]:
    """The files of the model, as they are there now."""
    start = f"{root}/" if root else ""
    parts = [part for part in bucket.below(root) if "/" not in part.key.removeprefix(start)]
    if f"{start}{CARD_FILE}" not in {part.key for part in parts}:
        raise ModelNotFound(uri)
    return parts


@contextmanager
def _copied(bucket: S3Bucket, parts: Sequence[S3Object], beside: Path) -> Iterator[Path]:
    """A new folder with the files, which goes unless the block renames it."""
    beside.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=beside))
    try:
        for part in parts:
            (new / part.key.rsplit("/", 1)[-1]).write_bytes(bucket.get(part.key))
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _version(uri: str, parts: Sequence[S3Object]) -> str:
    """Of the model's files: another ETag makes another version."""
    lines = [f"{part.key} {part.size_bytes} {part.etag}" for part in parts]
    return hashlib.sha256("\n".join([uri, *lines]).encode()).hexdigest()[:32]


def _cache(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("MICROTOME_CACHE") or Path.home() / ".cache" / "microtome")

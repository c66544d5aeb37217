"""Models in a bucket: a local copy of each version, made once a machine and shared by its processes."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
        start = f"{root}/" if root else ""
        parts = [part for part in bucket.below(root) if "/" not in part.key.removeprefix(start)]
        if f"{start}{CARD_FILE}" not in {part.key for part in parts}:
            raise ModelNotFound(uri)
        folder = _cache(environ) / "models" / _version(uri, parts)
        if not folder.is_dir():
            _copy(bucket, parts, folder)
    except FileNotFoundError as error:
        raise ModelNotFound(uri) from error
    except OSError as error:
        raise ModelUnreachable(uri, str(error)) from error
    return folder


def _copy(bucket: S3Bucket, parts: Sequence[S3Object], folder: Path) -> None:
    """Whole or not at all: other processes may want it at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        for part in parts:
            (new / part.key.rsplit("/", 1)[-1]).write_bytes(bucket.get(part.key))
        with suppress(OSError):  # another process was first
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _version(uri: str, parts: Sequence[S3Object]) -> str:
    """Of the model's files: another ETag makes another version."""
    lines = [f"{part.key} {part.size_bytes} {part.etag}" for part in parts]
    return hashlib.sha256("\n".join([uri, *lines]).encode()).hexdigest()[:32]


def _cache(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("MICROTOME_CACHE") or Path.home() / ".cache" / "microtome")

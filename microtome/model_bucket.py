"""Models in a bucket: a local copy of each version, made once a machine and shared by its processes."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from microtome.errors import ModelNotFound, ModelUnreachable
from microtome.s3 import s3_files

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
    root = uri.removeprefix("s3://").strip("/")
    files = s3_files()
    try:
        found: dict[str, dict[str, Any]] = files.find(root + "/", maxdepth=1, detail=True)
        if f"{root}/{CARD_FILE}" not in found:
            raise ModelNotFound(uri)
        folder = _cache(environ) / "models" / _version(uri, found)
        if not folder.is_dir():
            _copy(files, found, folder)
    except ModelNotFound:
        raise
    except Exception as error:  # of botocore, aiohttp, s3fs: no class in common
        raise ModelUnreachable(uri, f"{type(error).__name__}: {error}") from error
    return folder


def _copy(files: Any, found: Mapping[str, Any], folder: Path) -> None:
    """Whole or not at all: other processes may want it at the same time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        for path in found:
            files.get_file(path, str(new / path.rsplit("/", 1)[-1]))
        with suppress(OSError):  # another process was first
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _version(uri: str, found: Mapping[str, Any]) -> str:
    """Of the model's files: another ETag makes another version."""
    parts = [f"{path} {found[path]['size']} {found[path].get('ETag')}" for path in sorted(found)]
    return hashlib.sha256("\n".join([uri, *parts]).encode()).hexdigest()[:32]


def _cache(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("MICROTOME_CACHE") or Path.home() / ".cache" / "microtome")

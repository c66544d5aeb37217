"""The result of a run on disk or S3: its keys, and the manifest of what was written.

A key is there whole or not at all. What is done is read from the manifest, never guessed from
the keys that exist; and what the manifest says is believed only of keys that have their size.
"""

import io
import json
from collections.abc import Buffer, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash
from pydantic import TypeAdapter, ValidationError

from microtome.errors import OptionError
from microtome.grid import Window
from microtome.keyspace import REQUESTS, Bucket, Folder, Keyspace
from microtome.ngff import ArraySpec, array_document
from microtome.records import KeyRecord, ShardReport
from microtome.s3 import reaching, s3_store

if TYPE_CHECKING:
    from zarr import Array
    from zarr.abc.store import Store

RESULT_SUFFIX = ".ome.zarr"
PUBLISHED = "publish"
"""The stage whose mark says that a result is finished."""
MANIFEST = "manifest"
PLAN = "plan.json"
"""The key by which a folder is known as ours: the first to be written, the last to go."""
PARTS = "parts"
"""Folder of what shards leave for each other; gone when a result is finished."""
LISTED_DEPTH = 2
"""Parts of a key that name the folder which is listed to find its size: `0/c`, `labels/nuclei`."""

_REPORT: TypeAdapter[ShardReport] = TypeAdapter(ShardReport)
_REPORTS: TypeAdapter[tuple[ShardReport, ...]] = TypeAdapter(tuple[ShardReport, ...])


class ResultStore:
    """Keys and manifest of one result. Cheap to make and to send to a worker.

    Parameters
    ----------
    uri
        A local folder or `s3://bucket/prefix`; S3 takes its settings from the environment
        (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...).
    """

    def __init__(self, uri: str) -> None:
        self.is_local = not uri.startswith("s3://")
        path = Path(uri.removeprefix("file://")).expanduser().absolute()
        self.uri = str(path) if self.is_local else uri.rstrip("/")

    def __repr__(self) -> str:
        return f"ResultStore({self.uri!r})"

    def __reduce__(self) -> tuple[type["ResultStore"], tuple[str]]:
        return ResultStore, (self.uri,)

    @cached_property
    def _keys(self) -> Keyspace:
        return Folder(Path(self.uri)) if self.is_local else Bucket(self.uri)

    def put(self, key: str, data: bytes) -> KeyRecord:
        """Write a key whole, or leave it as it was.

        Raises
        ------
        NoSpaceLeft, CannotWrite
            If the disk is full, or writing there is not allowed.
        """
        self._keys.put(key, data)
        return KeyRecord(key=key, bytes=len(data), digest=digest(data))

    def put_each(self, data: Mapping[str, bytes]) -> list[KeyRecord]:
        """As `put` of several keys, in a bucket at once. Where one fails, others may have been written."""
        self._keys.put_each(data)
        return [KeyRecord(key=key, bytes=len(text), digest=digest(text)) for key, text in data.items()]

    @contextmanager
    def writing(self, key: str) -> Iterator["Sink"]:
        """A file that becomes the key when the block ends, and nothing if the block raises.

        For keys too large for memory; `Sink.record` is the key's record afterwards.
        """
        with self._keys.writing(key) as file:
            sink = Sink(key, file)
            yield sink

    def get(self, key: str) -> bytes:
        """The bytes of a key.

        Raises
        ------
        FileNotFoundError
            If there is no such key.
        """
        return self._keys.get(key)

    def get_each(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The bytes of several small keys, by key, in their order; as `get`."""
        return self._keys.get_each(keys)

    def get_existing(self, keys: Sequence[str]) -> dict[str, bytes]:
        """As `get_each`, of those keys that are there."""
        return self._keys.get_existing(keys)

    def reading(self, key: str) -> BinaryIO:
        """A key as a file that can be sought."""
        return self._keys.reading(key)

    def read_array(self, spec: ArraySpec, window: Window) -> Any:
        """A window of an array, read by zarr-python, for whoever checks what `shards` wrote.

        Its metadata need not be written yet.

        Parameters
        ----------
        spec
            The array.
        window
            Within the array, px of its level.

        Returns
        -------
        Pixels or Labels
            (c, y, x) uint8 or (y, x) uint32, as `spec` says; what was not written is `spec.fill`.
        """
        rows, cols = slice(window.y0, window.y1), slice(window.x0, window.x1)
        return open_array(self.zarr, spec)[..., rows, cols]

    @cached_property
    def zarr(self) -> "Store":
        from zarr.storage import LocalStore, ObjectStore  # half a second, of use to few

        if self.is_local:
            return LocalStore(self.uri, read_only=True)
        return ObjectStore(s3_store(self.uri), read_only=True)

    def exists(self, key: str) -> bool:
        return self._keys.exists(key)

    def delete(self, prefix: str) -> None:
        """Remove a key, or every key below a folder."""
        self._keys.delete(prefix)

    def remove(self) -> None:
        """Remove the whole result. Cut short, it leaves an unfinished one, which a run goes on with."""
        self.delete(_closing(PUBLISHED))
        for part in sorted({key.split("/")[0] for key in self.keys()} - {PLAN}):
            self.delete(part)
        self.delete("")

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every key below a folder, by key, in key order."""
        return self._keys.listing(prefix)

    def keys(self, prefix: str = "") -> tuple[str, ...]:
        """Every key below a folder, sorted."""
        return tuple(self.sizes(prefix))

    def size(self, prefix: str = "") -> int:
        """Bytes of all keys below a folder."""
        return sum(self.sizes(prefix).values())

    def clean(self) -> None:
        """Remove what writers that died have left half-written."""
        self._keys.sweep()

    def put_report(self, report: ShardReport) -> None:
        """Record a shard; its keys must be written already."""
        self.put(f"{MANIFEST}/{report.stage}/{report.shard}.json", _REPORT.dump_json(report))

    def recorded(self, stage: str) -> dict[int, ShardReport]:
        """Every report of a stage by shard, whether its keys are still there or not.

        Records that a crash has cut short are left out.
        """
        keys = self.keys(f"{MANIFEST}/{stage}")
        with ThreadPoolExecutor(REQUESTS) as pool:
            single = [report for found in pool.map(self._read_reports, keys) for report in found]
        closed = self._read_reports(_closing(stage)) if self.is_closed(stage) else ()
        # A shard done again after the stage was closed stands in its own record.
        return {report.shard: report for report in (*closed, *single)}

    def reports(self, stage: str) -> dict[int, ShardReport]:
        """The shards of a stage that are done, by index, in order.

        Done is what has a report all of whose keys are there with the size that was recorded: a
        crash of the machine may leave files empty that were written before it. So a closed stage
        may come back with fewer shards than it had.
        """
        recorded = self.recorded(stage)
        sizes = self._listed(key.key for report in recorded.values() for key in report.keys)
        return {
            shard: recorded[shard]
            for shard in sorted(recorded)
            if all(sizes.get(key.key) == key.bytes for key in recorded[shard].keys)
        }

    def lasting(self) -> dict[str, KeyRecord]:
        """The record of every key that a finished result has, by key."""
        records = (
            key for stage in self.stages() for report in self.recorded(stage).values() for key in report.keys
        )
        return {record.key: record for record in records if not record.key.startswith(f"{PARTS}/")}

    def close_stage(self, stage: str, reports: Sequence[ShardReport]) -> None:
        """Put all reports of a complete stage into one file, in place of one a shard."""
        ordered = tuple(sorted(reports, key=lambda report: report.shard))
        self.put(_closing(stage), _REPORTS.dump_json(ordered))
        self.delete(f"{MANIFEST}/{stage}")

    def reopen_stage(self, stage: str, reports: Iterable[ShardReport]) -> None:
        """Of a stage that was complete, only these shards are; none more where it was not."""
        if self.is_closed(stage):
            for report in reports:
                self.put_report(report)
            self.delete(_closing(stage))

    def is_closed(self, stage: str) -> bool:
        """Whether `close_stage` was reached."""
        return self.exists(_closing(stage))

    def stages(self) -> tuple[str, ...]:
        """Names of all stages that the manifest knows, closed or not, sorted."""
        names = {key.split("/")[1].removesuffix(".json") for key in self.keys(MANIFEST)}
        return tuple(sorted(names))

    def _read_reports(self, key: str) -> tuple[ShardReport, ...]:
        """The reports of a record; none where it is not whole: the shards are done again."""
        try:
            text = self.get(key)
            return _REPORTS.validate_json(text) if text.startswith(b"[") else (_REPORT.validate_json(text),)
        except (ValidationError, FileNotFoundError):  # another process may have closed the stage
            return ()

    def _listed(self, keys: Iterable[str]) -> dict[str, int]:
        """Sizes of (at least) the given keys: a listing a folder, not a request a key."""
        folders = {"/".join(key.split("/")[:-1][:LISTED_DEPTH]) for key in keys}
        with ThreadPoolExecutor(REQUESTS) as pool:
            listings = pool.map(self.sizes, sorted(folders))
            return {key: size for listing in listings for key, size in listing.items()}


def result_uri(slide_uri: str, folder: str) -> str:
    """`FOLDER/NAME.ome.zarr` for a slide called `NAME.svs`.

    Raises
    ------
    OptionError
        If the folder is empty, which would be the root of the disk, a bucket without a name, or a file.
    """
    if not folder or folder.rstrip("/") == "s3:":
        raise OptionError("-o", repr(folder), "a folder or s3://bucket/prefix")
    if "://" not in folder and Path(folder).is_file():
        raise OptionError("-o", folder, "a folder; this is a file")
    name = slide_uri.rstrip("/").rsplit("/", 1)[-1]
    stem = name.rsplit(".", 1)[0] if "." in name.lstrip(".") else name
    return f"{folder.rstrip('/')}/{stem}{RESULT_SUFFIX}"


def is_published(slide_uri: str, folder: str) -> bool:
    """Whether a finished result lies where the slide's would, of whatever plan.

    Raises
    ------
    ResultUnreachable
        If the store cannot be asked.
    """
    uri = result_uri(slide_uri, folder)
    with reaching(uri):
        return ResultStore(uri).is_closed(PUBLISHED)


def open_array(store: "Store", spec: ArraySpec) -> "Array[Any]":
    """An array of a result as zarr-python's, without a look at the metadata in the store."""
    from zarr import Array
    from zarr.core.array import AsyncArray
    from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
    from zarr.storage import StorePath

    kind = ArrayV3Metadata if spec.ngff == "0.5" else ArrayV2Metadata
    metadata = kind.from_dict(json.loads(array_document(spec)))
    return Array(AsyncArray(metadata=metadata, store_path=StorePath(store, spec.path)))


class Sink(io.RawIOBase):
    """A file to be written from its beginning to its end, which counts and digests its bytes."""

    def __init__(self, key: str, file: BinaryIO) -> None:
        self._key, self._file = key, file
        self._bytes, self._digest = 0, xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._digest.update(view)
        self._bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self._bytes

    @property
    def record(self) -> KeyRecord:
        return KeyRecord(key=self._key, bytes=self._bytes, digest=self._digest.hexdigest())


def digest(data: bytes) -> str:
    """xxh3-128 of the bytes, hex."""
    return xxhash.xxh3_128_hexdigest(data)


def _closing(stage: str) -> str:
    return f"{MANIFEST}/{stage}.json"

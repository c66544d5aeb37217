"""Is a result whole and valid? For `microtome verify` and for anyone's tests.

Files first: plan, manifest, keys, digests, metadata. Where they are sound, what is in them: see
`agreement`. One shard is in memory at a time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import shapely
import xxhash
import zarr
from pydantic import ValidationError

from microtome import agreement
from microtome.errors import NoResultHere
from microtome.ngff import ArraySpec, image_arrays, label_arrays, metadata
from microtome.plan import Plan
from microtome.records import KeyRecord
from microtome.s3 import reaching
from microtome.shards import chunks_of
from microtome.slides import jpeg
from microtome.slides.tiled import UndecodableTile
from microtome.store import MANIFEST, PLAN, ResultStore

LAST_STAGE = "publish"
MOST_FAULTS = 20
"""Faults of one check that are told one by one."""
READ_BYTES = 1 << 22
READERS = 4
UNREADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    pa.ArrowException,
    shapely.GEOSException,
)
"""What zarr, pyarrow and shapely raise at a damaged file."""

type Check = tuple[str, Callable[[], Iterator[str]]]
"""What holds if all is well, and a search for what does not: a sentence a fault."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked of a result, and every reason why it is not sound."""

    uri: str
    passed: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        lines = [f"ok    {check}" for check in self.passed] + [f"FAULT {fault}" for fault in self.faults]
        if self.ok:
            return "\n".join([*lines, f"{self.uri}: verified, {len(self.passed)} checks"])
        return "\n".join([*lines, f"{self.uri}: {len(self.faults)} faults, {len(self.passed)} checks passed"])


def verify_result(uri: str) -> Verification:
    """Check a finished result.

    Parameters
    ----------
    uri
        A local folder or `s3://bucket/prefix`.

    Raises
    ------
    NoResultHere
        If there is no result of microtome's at all.
    ResultUnreachable
        If its store cannot be asked.
    """
    store = ResultStore(str(uri))
    with reaching(store.uri):
        if not store.exists(PLAN):
            raise NoResultHere(store.uri)
    try:
        plan = Plan.from_json(store.get(PLAN))
    except ValidationError as error:
        first = error.errors()[0]
        return Verification(
            store.uri, (), (f"{PLAN} is no plan: {first['msg']} at {'.'.join(map(str, first['loc']))}",)
        )
    files = _run(_file_checks(store, plan))
    if files.faults:
        unread = "what is in the files was not looked at, because of these faults"
        return Verification(store.uri, files.passed, (*files.faults, unread))
    content = _run([*_array_checks(store, plan), *agreement.checks(store, plan)])
    return Verification(store.uri, files.passed + content.passed, content.faults)


@dataclass(frozen=True, slots=True)
class _Outcome:
    passed: tuple[str, ...]
    faults: tuple[str, ...]


def _run(checks: list[Check]) -> _Outcome:
    passed, faults = [], []
    for title, search in checks:
        found = search()
        try:
            told = list(islice(found, MOST_FAULTS))
            more = sum(1 for _ in found)
        except UNREADABLE as error:
            told, more = [f"{title}: cannot be checked, {type(error).__name__}: {error}"], 0
        if more:
            told.append(f"... and {more:,} more where it should be that {title}")
        faults += told
        passed += [] if told else [title]
    return _Outcome(tuple(passed), tuple(faults))


def _file_checks(store: ResultStore, plan: Plan) -> list[Check]:
    stages = store.stages()
    records = store.lasting()
    sizes = store.sizes()
    documents = metadata(plan)
    return [
        ("the plan reads back to its own bytes", lambda: _plan_faults(store, plan)),
        (f"all {len(stages)} stages of the manifest are closed", lambda: _stage_faults(store, stages)),
        (
            f"all {len(records):,} keys of the manifest are there with their size",
            lambda: _size_faults(records, sizes),
        ),
        ("every key has the digest of the manifest", lambda: _digest_faults(store, records, sizes)),
        (
            "no key is there that the manifest does not know",
            lambda: _stranger_faults(sizes, {PLAN, *records, *documents}),
        ),
        (
            f"all {len(documents)} documents of OME-NGFF {plan.ngff} are those of the plan",
            lambda: _metadata_faults(store, documents, sizes),
        ),
    ]


def _plan_faults(store: ResultStore, plan: Plan) -> Iterator[str]:
    if store.get(PLAN) != plan.to_json():
        yield f"{PLAN} was changed: it does not read back to its own bytes"


def _stage_faults(store: ResultStore, stages: tuple[str, ...]) -> Iterator[str]:
    if LAST_STAGE not in stages:
        yield f"the run is not finished: stage {LAST_STAGE} is missing; run its segment command again"
    for stage in stages:
        if not store.is_closed(stage):
            yield f"stage {stage} is not finished; run the segment command again"
        elif not store.recorded(stage) and not store.get(f"{MANIFEST}/{stage}.json").startswith(b"["):
            yield f"{MANIFEST}/{stage}.json is damaged"


def _size_faults(records: dict[str, KeyRecord], sizes: dict[str, int]) -> Iterator[str]:
    for key, record in records.items():
        if key not in sizes:
            yield f"{key} is missing ({record.bytes:,} bytes)"
        elif sizes[key] != record.bytes:
            yield f"{key} has {sizes[key]:,} bytes, but {record.bytes:,} were written"


def _digest_faults(store: ResultStore, records: dict[str, KeyRecord], sizes: dict[str, int]) -> Iterator[str]:
    whole = [record for record in records.values() if sizes.get(record.key) == record.bytes]
    with ThreadPoolExecutor(READERS) as pool:
        for record, found in zip(whole, pool.map(lambda item: _digest(store, item.key), whole), strict=True):
            if found != record.digest:
                yield f"{record.key} was changed: its digest is {found}, but {record.digest} was written"


def _digest(store: ResultStore, key: str) -> str:
    digest = xxhash.xxh3_128()
    with store.reading(key) as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _stranger_faults(sizes: dict[str, int], known: set[str]) -> Iterator[str]:
    for key in sizes:
        if key not in known and not key.startswith(f"{MANIFEST}/"):
            yield f"{key} is not of this result: the manifest does not know it"


def _metadata_faults(store: ResultStore, documents: dict[str, bytes], sizes: dict[str, int]) -> Iterator[str]:
    for key, text in documents.items():
        if key not in sizes:
            yield f"{key} is missing"
        elif store.get(key) != text:
            yield f"{key} is not the metadata of this plan"


def _array_checks(store: ResultStore, plan: Plan) -> list[Check]:
    specs = (*image_arrays(plan), *label_arrays(plan))
    checks: list[Check] = [(_array_title(spec), partial(_array_faults, store, spec)) for spec in specs]
    for spec in specs:
        if spec.jpeg is not None:
            title = f"every chunk of {spec.path} is a whole JPEG of {spec.chunk_shape[-1]:,} px"
            checks.append((title, partial(_jpeg_faults, store, spec)))
    return checks


def _array_title(spec: ArraySpec) -> str:
    return f"zarr opens {spec.path}: {' x '.join(f'{side:,}' for side in spec.shape)} {spec.dtype}"


def _array_faults(store: ResultStore, spec: ArraySpec) -> Iterator[str]:
    array: Any = zarr.open_array(store.zarr, path=spec.path, mode="r")
    found = (array.shape, str(array.dtype), int(array.fill_value), array.chunks)
    wanted = (spec.shape, spec.dtype, spec.fill, spec.chunk_shape)
    if found != wanted:
        yield f"{spec.path} has shape, dtype, fill and chunks {found}, but the plan says {wanted}"


def _jpeg_faults(store: ResultStore, spec: ArraySpec) -> Iterator[str]:
    side, present = spec.chunks_per_side, store.sizes(spec.path)
    for shard in spec.grid:
        key = spec.key(shard.row, shard.col)
        for (_, row, col), stream in chunks_of(store.get(key), (1, side, side)) if key in present else ():
            place = f"{key}: the chunk at {row}, {col}"
            try:
                found = jpeg.decode(stream).shape
            except UndecodableTile as error:
                yield f"{place} cannot be decoded ({error})"
                continue
            if found != (*spec.chunk_shape[1:], 3):
                yield f"{place} is a picture of {found[1]:,} x {found[0]:,} px"

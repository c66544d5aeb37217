"""Whether labels, table, outlines and summary of a result say the same. Bounded memory."""

import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial

import numba
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet
import shapely

from microtome.arrays import Doubles, Ints, Labels
from microtome.export import FEATURES, SCHEMA, TABLE, polygons_of, read_nuclei
from microtome.grid import Window
from microtome.ngff import ArraySpec, label_arrays
from microtome.nuclei import Nuclei
from microtome.plan import Plan
from microtome.pyramid import halve_labels
from microtome.store import ResultStore

SUMMARY = "report/summary.json"
NEAR = 1e-6
"""Of coordinates, px: sums of float64 in another order differ by less."""
OUTSIDE, ON_OUTLINE, INSIDE = 0, 1, 2
SMALLEST_RING = 4
"""Points of a closed ring, at least."""

type Check = tuple[str, Callable[[], Iterator[str]]]
type Counts = npt.NDArray[np.int64]


def checks(store: ResultStore, plan: Plan) -> list[tuple[str, Callable[[], Iterator[str]]]]:
    """Checks of what is in the files; see `testing.Check`."""
    with store.reading(TABLE) as file:
        count = pa.parquet.ParquetFile(file).metadata.num_rows
    labels = label_arrays(plan)
    painted = np.zeros(count + 1, np.int64)
    return [
        ("the table is GeoParquet with its columns", lambda: _schema_faults(store)),
        (
            f"the table has the labels 1 to {count:,} in the order of their shards",
            partial(_order_faults, store, plan),
        ),
        ("areas, centres and outlines agree, and outlines are valid", partial(_geometry_faults, store, plan)),
        ("every id of the label image has a row", partial(_painted_faults, store, labels[0], painted)),
        ("every row has pixels", partial(_hidden_faults, painted)),
        ("the pixels of a nucleus are those in its outline", partial(_outline_faults, store, plan, painted)),
        *(
            (
                f"labels of level {level} are those of level {level - 1}, halved",
                partial(_level_faults, store, labels, level),
            )
            for level in range(1, len(labels))
        ),
        (f"the outlines for QuPath are {count:,} closed polygons", partial(_feature_faults, store, count)),
        ("the summary counts the same nuclei", partial(_summary_faults, store, count)),
    ]


def _groups(store: ResultStore) -> Iterator[pa.Table]:
    """The table, shard by shard."""
    with store.reading(TABLE) as file, pa.parquet.ParquetFile(file) as table:
        for group in range(table.num_row_groups):
            yield table.read_row_group(group)


def _schema_faults(store: ResultStore) -> Iterator[str]:
    with store.reading(TABLE) as file:
        schema = pa.parquet.read_schema(file)
    if not schema.equals(SCHEMA):
        yield f"{TABLE} has the columns {schema.names}, but should have {SCHEMA.names}"
    geo = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
    column = geo.get("columns", {}).get("geometry", {})
    if "crs" not in column or column["crs"] is not None or column.get("encoding") != "WKB":
        yield f"{TABLE} is not GeoParquet in pixels: its `geo` metadata must say WKB and crs null"


def _order_faults(store: ResultStore, plan: Plan) -> Iterator[str]:
    expected, last_shard = 1, -1
    for table in _groups(store):
        labels = table["label"].to_numpy()
        rows = f"{TABLE}: labels {labels[0]} to {labels[-1]}"
        if not np.array_equal(labels, np.arange(expected, expected + len(labels))):
            yield f"{rows} should be {expected} to {expected + len(labels) - 1}, one by one"
        expected += len(labels)
        cells = [table[f"centre_{axis}_px"].to_numpy() // plan.shard_px for axis in "yx"]
        shards = np.unique(cells[0] * plan.grid.cols + cells[1])
        if len(shards) != 1 or shards[0] <= last_shard:
            yield f"{rows} are not those of one shard, in the order of shards"
        last_shard = int(shards[-1])


def _geometry_faults(store: ResultStore, plan: Plan) -> Iterator[str]:
    for table in _groups(store):
        labels, nuclei = table["label"].to_numpy(), read_nuclei(table)
        polygons = polygons_of(nuclei)
        centroids = shapely.get_coordinates(shapely.centroid(polygons))[:, ::-1]
        areas_um2 = nuclei.area_px * plan.pixel_area_um2
        probabilities = (nuclei.prob >= 0) & (nuclei.prob <= 1)
        for holds, fault in (
            (shapely.is_valid(polygons), "has an outline that crosses itself"),
            (np.isclose(shapely.area(polygons), nuclei.area_px), "has an area that is not its outline's"),
            (np.isclose(table["area_um2"].to_numpy(), areas_um2), "has an area_um2 that is not its area_px"),
            (
                np.abs(centroids - nuclei.centre_px).max(axis=1) < NEAR,
                "has a centre that is not the centroid of its outline",
            ),
            (probabilities, "has a probability outside of 0 to 1"),
        ):
            yield from (f"nucleus {label} {fault}" for label in labels[~holds])


def _painted_faults(store: ResultStore, spec: ArraySpec, painted: Counts) -> Iterator[str]:
    """Counts the pixels of every id into `painted` on the way."""
    for shard in spec.grid:
        stranger = _count(store.read_array(spec, shard.window), painted)
        if stranger:
            yield f"{spec.path}: id {stranger} in shard {shard.key} has no row in {TABLE}"


def _hidden_faults(painted: Counts) -> Iterator[str]:
    for label in np.flatnonzero(painted[1:] == 0) + 1:
        yield f"nucleus {label} has a row, but no pixels"


def _outline_faults(store: ResultStore, plan: Plan, painted: Counts) -> Iterator[str]:
    spec = label_arrays(plan)[0]
    for table in _groups(store):
        first, nuclei = int(table["label"][0].as_py()), read_nuclei(table)
        (y0, x0), (y1, x1) = np.floor(nuclei.outline_px.min(0)), np.ceil(nuclei.outline_px.max(0))
        window = Window(int(y0), int(x0), int(y1), int(x1)).intersect(spec.grid.window)
        own, bare = _compare(nuclei, first, store.read_array(spec, window), window)
        outside = painted[first : first + len(nuclei)] - own
        for row in np.flatnonzero(outside):
            yield f"nucleus {first + row} has {outside[row]:,} pixels outside of its outline"
        for row in np.flatnonzero(bare):
            yield f"nucleus {first + row} has {bare[row]:,} pixels in its outline that are background"


def _level_faults(store: ResultStore, labels: tuple[ArraySpec, ...], level: int) -> Iterator[str]:
    spec, finer = labels[level], labels[level - 1]
    for shard in spec.grid:
        window = shard.window
        below = Window(2 * window.y0, 2 * window.x0, 2 * window.y1, 2 * window.x1).intersect(
            finer.grid.window
        )
        wrong = halve_labels(store.read_array(finer, below)) != store.read_array(spec, window)
        if wrong.any():
            place = f"{spec.path}: {wrong.sum():,} pixels of shard {shard.key}"
            yield f"{place} are not those of {finer.path}, halved"


def _feature_faults(store: ResultStore, rows: int) -> Iterator[str]:
    with store.reading(FEATURES) as packed, gzip.open(packed) as lines:
        if lines.readline() != b'{"type":"FeatureCollection","features":[\n':
            yield f"{FEATURES} does not begin a FeatureCollection"
        count, label, line = 0, 0, b""
        for line in lines:
            if line.startswith((b"]", b"\n")):
                break
            count, label = count + 1, label + 1
            try:
                name, is_closed = _read_feature(line)
            except (ValueError, KeyError) as error:
                yield f"{FEATURES}: feature {label} is not JSON ({error})"
                continue
            if name != label:
                yield f"{FEATURES}: nucleus {name} stands where {label} should be"
                label = name
            if not is_closed:
                yield f"{FEATURES}: the outline of nucleus {label} is not closed"
        if line + lines.read() not in (b"]}\n", b"\n]}\n"):
            yield f"{FEATURES} does not end its FeatureCollection"
    if count != rows:
        yield f"{FEATURES} has {count:,} outlines, but {TABLE} {rows:,} rows"


def _read_feature(line: bytes) -> tuple[int, bool]:
    """Label of the nucleus, and whether its outline is a closed ring."""
    feature = orjson.loads(line.rstrip(b",\n"))
    (ring,) = feature["geometry"]["coordinates"]
    return int(feature["properties"]["name"]), len(ring) >= SMALLEST_RING and ring[0] == ring[-1]


def _summary_faults(store: ResultStore, count: int) -> Iterator[str]:
    told = json.loads(store.get(SUMMARY))["nuclei"]
    if told != count:
        yield f"{SUMMARY} says {told:,} nuclei, but {TABLE} has {count:,}"


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _count(labels: Labels, painted: Counts) -> int:
    """Add the pixels of each id to `painted`; the first id that is not in it, or 0."""
    stranger = 0
    for y in range(labels.shape[0]):
        for label in labels[y]:
            if label < len(painted):
                painted[label] += 1
            elif stranger == 0:
                stranger = label
    return stranger


def _compare(nuclei: Nuclei, first: int, labels: Labels, window: Window) -> tuple[Counts, Counts]:
    """(n,) pixels of each nucleus that are in its outline, and those in it that are background.

    Pixels whose centre lies on the outline may be either.
    """
    own, bare = np.zeros(len(nuclei), np.int64), np.zeros(len(nuclei), np.int64)
    _compare_rows(nuclei.outline_px - (window.y0, window.x0), nuclei.offsets, first, labels, own, bare)
    return own, bare


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _compare_rows(
    outline: Doubles, offsets: Ints, first: int, labels: Labels, own: Counts, bare: Counts
) -> None:
    for row in range(len(own)):
        ring = outline[offsets[row] : offsets[row + 1]]
        y0, x0 = max(0, int(ring[:, 0].min()) - 1), max(0, int(ring[:, 1].min()) - 1)
        y1 = min(labels.shape[0], int(ring[:, 0].max()) + 2)
        x1 = min(labels.shape[1], int(ring[:, 1].max()) + 2)
        for y in range(y0, y1):
            for x in range(x0, x1):
                if labels[y, x] != 0 and labels[y, x] != first + row:
                    continue
                place = _place(ring, y + 0.5, x + 0.5)
                if labels[y, x] != 0:
                    own[row] += place != OUTSIDE
                else:
                    bare[row] += place == INSIDE


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _place(ring: Doubles, y: float, x: float) -> int:
    """Where a point lies, by the even-odd rule; exact, as coordinates are multiples of 1/16 px."""
    inside = False
    last = len(ring) - 1
    for i in range(len(ring)):
        ya, xa, yb, xb = ring[last, 0], ring[last, 1], ring[i, 0], ring[i, 1]
        last = i
        side = (xb - xa) * (y - ya) - (yb - ya) * (x - xa)
        if side == 0 and min(ya, yb) <= y <= max(ya, yb) and min(xa, xb) <= x <= max(xa, xb):
            return ON_OUTLINE
        if (ya > y) != (yb > y) and (side > 0) == (yb > ya):
            inside = not inside
    return INSIDE if inside else OUTSIDE

"""Nuclei as files that people open elsewhere: GeoParquet, GeoJSON for QuPath, CSV.

Everything goes shard by shard: no function here needs all nuclei at once. The same nuclei make
the same bytes.
"""

import gzip
import json
import shutil
import uuid
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import IO, Self

import imagecodecs
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import shapely

from microtome.arrays import Doubles, Ints
from microtome.errors import NoResultHere, OptionError, ResultNotFinished
from microtome.keyspace import Folder
from microtome.nuclei import Nuclei
from microtome.s3 import reaching
from microtome.slides.base import Mpp
from microtome.store import PLAN, ResultStore, Sink

TABLE = "tables/nuclei.parquet"
FEATURES = "tables/nuclei.geojson.gz"
GZIP_LEVEL = 1
"""libdeflate's level 1 packs as well as zlib's 5 and is five times faster."""
AREA_DIGITS = 3
PROBABILITY_DIGITS = 4
COPY_BYTES = 1 << 20

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            # Or readers take pixels for degrees.
            "crs": None,
            "edges": "planar",
            "covering": {"bbox": {corner: ["bbox", corner] for corner in _CORNERS}},
        }
    },
}
SCHEMA = pa.schema(
    [
        pa.field("label", pa.uint32(), nullable=False),
        pa.field("centre_y_px", pa.float64(), nullable=False),
        pa.field("centre_x_px", pa.float64(), nullable=False),
        pa.field("area_px", pa.float64(), nullable=False),
        pa.field("area_um2", pa.float64(), nullable=False),
        pa.field("probability", pa.float32(), nullable=False),
        pa.field("bbox", pa.struct([(corner, pa.float64()) for corner in _CORNERS]), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
"""Columns of the table; coordinates are level-0 px, corner-based; geometry is WKB in (x, y)."""


class Format(StrEnum):
    """What a result's nuclei can be exported as."""

    GEOJSON = "geojson"
    GEOPARQUET = "geoparquet"
    CSV = "csv"


ENDINGS = {
    ".geojson": Format.GEOJSON,
    ".json": Format.GEOJSON,
    ".parquet": Format.GEOPARQUET,
    ".geoparquet": Format.GEOPARQUET,
    ".csv": Format.CSV,
}


class GeoParquetWriter:
    """GeoParquet 1.1 without a coordinate system (pixels), one row group a shard that has nuclei.

    Parameters
    ----------
    file
        Written from beginning to end; left open.
    mpp
        For `area_um2`; recorded in the file too, under the key `microtome`.
    """

    def __init__(self, file: IO[bytes] | Sink, mpp: Mpp) -> None:
        self._mpp = mpp
        ours = {"mpp_y": mpp.y, "mpp_x": mpp.x, "unit": "px of level 0; pixel (0, 0) covers [0, 1) x [0, 1)"}
        schema = SCHEMA.with_metadata({"geo": json.dumps(_GEO), "microtome": json.dumps(ours)})
        self._writer = pa.parquet.ParquetWriter(file, schema, compression="zstd", compression_level=3)

    def add(self, nuclei: Nuclei, first_label: int) -> None:
        """Append the nuclei of a shard; their labels count up from `first_label`."""
        if len(nuclei):
            table = _table(nuclei, first_label, self._mpp).cast(self._writer.schema)
            self._writer.write_table(table, row_group_size=len(nuclei))

    def close(self) -> None:
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def polygons_of(nuclei: Nuclei) -> npt.NDArray[np.object_]:
    """Outlines as shapely polygons in (x, y), closed, (n,)."""
    closed, offsets = _closed(nuclei)
    rings = np.arange(len(nuclei) + 1)
    polygons: npt.NDArray[np.object_] = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, closed, (offsets, rings)
    )
    return polygons


def _closed(nuclei: Nuclei) -> tuple[Doubles, Ints]:
    """All outlines in (x, y) with their first vertex again at their end, and their offsets."""
    starts, ends = nuclei.offsets[:-1], nuclei.offsets[1:]
    closed = np.insert(nuclei.outline_px[:, ::-1], ends, nuclei.outline_px[starts, ::-1], axis=0)
    return closed, nuclei.offsets + np.arange(len(nuclei) + 1)


def _table(nuclei: Nuclei, first_label: int, mpp: Mpp) -> pa.Table:
    polygons = polygons_of(nuclei)
    corners = [pa.array(column) for column in shapely.bounds(polygons).T]
    columns = [
        np.arange(first_label, first_label + len(nuclei), dtype=np.uint32),
        nuclei.centre_px[:, 0],
        nuclei.centre_px[:, 1],
        nuclei.area_px,
        nuclei.area_px * mpp.y * mpp.x,
        nuclei.prob,
        pa.StructArray.from_arrays(corners, names=_CORNERS),
        pa.array(shapely.to_wkb(polygons, byte_order=1), pa.binary()),
    ]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)


def read_nuclei(table: pa.Table) -> Nuclei:
    """The nuclei of a part of the table, as they were added."""
    _, closed, (offsets, _) = shapely.to_ragged_array(shapely.from_wkb(table["geometry"].to_numpy()))
    return Nuclei(
        prob=table["probability"].to_numpy(),
        centre_px=np.stack([table["centre_y_px"].to_numpy(), table["centre_x_px"].to_numpy()], axis=1),
        area_px=table["area_px"].to_numpy(),
        outline_px=np.delete(closed, offsets[1:] - 1, axis=0)[:, ::-1],
        offsets=np.asarray(offsets - np.arange(len(offsets)), np.int64),
    )


def geojson_begin() -> bytes:
    """The first gzip member of a GeoJSON file; then come the features, shard by shard."""
    return _gzip(b'{"type":"FeatureCollection","features":[\n')


def geojson_end() -> bytes:
    """The last gzip member."""
    return _gzip(b"\n]}\n")


def geojson_features(nuclei: Nuclei, first_label: int, mpp: Mpp, fingerprint: str) -> bytes:
    """A gzip member with the features of a shard; empty for no nuclei.

    Members may be made apart and are joined in the order of their labels, which count from 1: only
    the feature of label 1 has no comma before it.

    Parameters
    ----------
    nuclei
        Coordinates are written as they are: multiples of 1/16 px are exact.
    fingerprint
        Of the plan; with the label it makes the UUID of a feature.
    """
    if not len(nuclei):
        return b""
    closed, offsets = _closed(nuclei)
    closed = np.ascontiguousarray(closed)
    namespace = uuid.uuid5(uuid.NAMESPACE_OID, fingerprint)
    areas_um2 = np.round(nuclei.area_px * mpp.y * mpp.x, AREA_DIGITS).tolist()
    probabilities = np.round(nuclei.prob.astype(np.float64), PROBABILITY_DIGITS).tolist()
    features = [
        orjson.dumps(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(namespace, str(label))),
                "geometry": {"type": "Polygon", "coordinates": [closed[start:end]]},
                "properties": {
                    "objectType": "detection",
                    "name": str(label),
                    "measurements": {"Area um^2": area_um2, "Probability": probability},
                },
            },
            option=orjson.OPT_SERIALIZE_NUMPY,
        )
        for label, start, end, area_um2, probability in zip(
            range(first_label, first_label + len(nuclei)),
            offsets[:-1],
            offsets[1:],
            areas_um2,
            probabilities,
            strict=True,
        )
    ]
    return _gzip((b"" if first_label == 1 else b",\n") + b",\n".join(features))


def _gzip(text: bytes) -> bytes:
    """A gzip member without a time or a name."""
    return bytes(imagecodecs.gzip_encode(text, level=GZIP_LEVEL))


def export_result(uri: str, format: Format | None, path: Path) -> int:
    """Write the nuclei of a result to a local file, whole or not at all; returns how many there are.

    Parameters
    ----------
    format
        None: as the file's name ends.
    path
        Replaced if it exists. A name that ends in `.gz` gets a gzip file (GeoJSON and CSV).

    Raises
    ------
    NoResultHere
        If there is no result at `uri`.
    ResultNotFinished
        If it has no table yet.
    ResultUnreachable
        If its store cannot be asked.
    OptionError
        If the path is a folder, or its name ends in what no format is known by.
    NoSpaceLeft, CannotWrite
        If the file cannot be written.
    """
    store = ResultStore(uri)
    with reaching(store.uri):
        if not store.exists(PLAN):
            raise NoResultHere(store.uri)
    if not (store.exists(TABLE) and store.exists(FEATURES)):
        raise ResultNotFinished(store.uri)
    path = path.absolute()
    if path.is_dir():
        raise OptionError("-o", path, "a file; this is a folder")
    if format is None:
        format = ENDINGS.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if format is None:
        raise OptionError(
            "-o", path.name, f"a name that ends in {', '.join(ENDINGS)}, unless --format says what"
        )
    with Folder(path.parent).writing(path.name) as file:
        _EXPORTS[format](store, path, file)
    with store.reading(TABLE) as source:
        return int(pa.parquet.read_metadata(source).num_rows)


def _export_geoparquet(store: ResultStore, path: Path, file: IO[bytes]) -> None:
    with store.reading(TABLE) as source:
        shutil.copyfileobj(source, file, COPY_BYTES)


def _export_geojson(store: ResultStore, path: Path, file: IO[bytes]) -> None:
    with store.reading(FEATURES) as source:
        if path.suffix == ".gz":
            shutil.copyfileobj(source, file, COPY_BYTES)
            return
        with gzip.open(source) as text:
            shutil.copyfileobj(text, file, COPY_BYTES)


def _export_csv(store: ResultStore, path: Path, file: IO[bytes]) -> None:
    """Every column but the outline."""
    columns = [name for name in SCHEMA.names if name not in ("bbox", "geometry")]
    out = gzip.GzipFile("", "wb", GZIP_LEVEL, file, mtime=0) if path.suffix == ".gz" else file
    with store.reading(TABLE) as source, pa.parquet.ParquetFile(source) as table:
        out.write((",".join(columns) + "\n").encode())
        options = pa.csv.WriteOptions(include_header=False)
        for group in range(table.num_row_groups):
            pa.csv.write_csv(table.read_row_group(group, columns=columns), out, options)
    if out is not file:
        out.close()


_EXPORTS: dict[Format, Callable[[ResultStore, Path, IO[bytes]], None]] = {
    Format.GEOPARQUET: _export_geoparquet,
    Format.GEOJSON: _export_geojson,
    Format.CSV: _export_csv,
}

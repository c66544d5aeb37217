"""Nuclei as files, read back by software made by others."""

import gzip
import io
import json
import uuid

import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely

from microtome.errors import CannotWrite, NoResultHere, OptionError, ResultNotFinished
from microtome.export import (
    TABLE,
    Format,
    GeoParquetWriter,
    export_result,
    geojson_begin,
    geojson_end,
    geojson_features,
    read_nuclei,
)
from microtome.nuclei import Nuclei
from microtome.slides.base import Mpp

MPP = Mpp(0.25, 0.26)


def ragged(*outlines: list[tuple[float, float]]) -> Nuclei:
    """Nuclei of the given outlines, (y, x)."""
    polygons = [shapely.Polygon(outline) for outline in outlines]
    return Nuclei(
        prob=np.linspace(0.5, 0.9, len(outlines), dtype=np.float32),
        centre_px=np.array([polygon.centroid.coords[0] for polygon in polygons]),
        area_px=np.array([polygon.area for polygon in polygons]),
        outline_px=np.concatenate([np.array(outline, float) for outline in outlines]),
        offsets=np.cumsum([0] + [len(outline) for outline in outlines]),
    )


TRIANGLE = [(10.0625, 20.9375), (30.5, 20.0), (10.0, 99999.0625)]
SQUARE = [(0.0, 1.0), (0.0, 5.0), (2.0, 5.0), (2.0, 1.0)]


def table_of(*parts: Nuclei) -> bytes:
    file, first = io.BytesIO(), 1
    with GeoParquetWriter(file, MPP) as writer:
        for part in parts:
            writer.add(part, first)
            first += len(part)
    return file.getvalue()


def features_of(*parts: Nuclei) -> bytes:
    pieces, first = [geojson_begin()], 1
    for part in parts:
        pieces.append(geojson_features(part, first, MPP, "abc"))
        first += len(part)
    return b"".join([*pieces, geojson_end()])


def test_geopandas_reads_the_table_in_pixels():
    table = geopandas.read_parquet(io.BytesIO(table_of(ragged(TRIANGLE), Nuclei.empty(), ragged(SQUARE))))
    assert table.crs is None
    assert list(table["label"]) == [1, 2]
    square = table.iloc[1]
    assert square.geometry.equals(shapely.box(1, 0, 5, 2))
    assert (square.area_px, square.centre_y_px, square.centre_x_px) == (8, 1, 3)
    assert square.area_um2 == pytest.approx(8 * 0.25 * 0.26)
    assert table.geometry[0].exterior.coords[0] == (20.9375, 10.0625)


def test_a_window_of_the_table_is_read_by_its_boxes():
    content = table_of(ragged(TRIANGLE), ragged(SQUARE))
    table = geopandas.read_parquet(io.BytesIO(content), bbox=(0, 0, 6, 6))
    assert list(table["label"]) == [2]


def test_a_row_group_is_a_shard_and_reads_back_to_the_bit(built):
    with built.store.reading(TABLE) as file, pa.parquet.ParquetFile(file) as table:
        groups = [read_nuclei(table.read_row_group(group)) for group in range(table.num_row_groups)]
    parts = [part for part in built.parts if len(part)]
    assert len(groups) == len(parts) == 12
    for group, part in zip(groups, parts, strict=True):
        for column in ("prob", "centre_px", "area_px", "outline_px", "offsets"):
            assert np.array_equal(getattr(group, column), getattr(part, column))


def test_the_same_nuclei_make_the_same_bytes(built):
    assert table_of(*built.parts) == table_of(*built.parts) == built.store.get(TABLE)
    assert features_of(*built.parts) == features_of(*built.parts)


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (Nuclei.empty(),),
        (ragged(TRIANGLE, SQUARE),),
        (Nuclei.empty(), ragged(SQUARE), Nuclei.empty(), ragged(TRIANGLE), ragged(SQUARE), Nuclei.empty()),
    ],
)
def test_pieces_made_apart_are_one_document(parts):
    document = json.loads(gzip.decompress(features_of(*parts)))
    assert document["type"] == "FeatureCollection"
    names = [int(feature["properties"]["name"]) for feature in document["features"]]
    assert names == list(range(1, sum(map(len, parts)) + 1))


def test_a_feature_is_what_qupath_takes():
    (feature,) = json.loads(gzip.decompress(features_of(ragged(TRIANGLE))))["features"]
    assert feature["properties"]["objectType"] == "detection"
    assert uuid.UUID(feature["id"]).version == 5
    assert feature["geometry"]["type"] == "Polygon"
    (ring,) = feature["geometry"]["coordinates"]
    assert ring == [[x, y] for y, x in [*TRIANGLE, TRIANGLE[0]]]
    measurements = feature["properties"]["measurements"]
    area_px = shapely.Polygon(TRIANGLE).area
    assert measurements["Area um^2"] == pytest.approx(area_px * 0.25 * 0.26, abs=0.0005)
    assert measurements["Probability"] == 0.5


def test_ids_differ_between_nuclei_and_between_slides_and_stay_for_one():
    def ids(slide: str) -> list[str]:
        text = geojson_begin() + geojson_features(ragged(SQUARE, TRIANGLE), 1, MPP, slide) + geojson_end()
        return [feature["id"] for feature in json.loads(gzip.decompress(text))["features"]]

    assert ids("a") == ids("a")
    assert len({*ids("a"), *ids("b")}) == 4


def test_a_result_is_exported_in_every_format(built, tmp_path):
    for format, name in (
        (Format.GEOPARQUET, "n.parquet"),
        (Format.GEOJSON, "n.geojson"),
        (Format.GEOJSON, "n.geojson.gz"),
        (Format.CSV, "n.csv"),
        (Format.CSV, "n.csv.gz"),
    ):
        export_result(built.store.uri, format, tmp_path / name)
    table = geopandas.read_parquet(tmp_path / "n.parquet")
    features = json.loads((tmp_path / "n.geojson").read_text())["features"]
    assert json.loads(gzip.decompress((tmp_path / "n.geojson.gz").read_bytes()))["features"] == features
    rows = pandas.read_csv(tmp_path / "n.csv")
    assert rows.equals(pandas.read_csv(tmp_path / "n.csv.gz"))
    assert list(rows.columns) == [
        "label",
        "centre_y_px",
        "centre_x_px",
        "area_px",
        "area_um2",
        "probability",
    ]
    assert len(table) == len(features) == len(rows) == len(built.nuclei)
    assert np.allclose(rows["centre_x_px"], built.nuclei.centre_px[:, 1])
    assert shapely.equals_exact(
        shapely.from_geojson(json.dumps(features[7]["geometry"])), table.geometry[7], 0
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "n.csv",
        "n.csv.gz",
        "n.geojson",
        "n.geojson.gz",
        "n.parquet",
    ]


def test_an_export_that_cannot_be_made_leaves_the_old_file(built, plan_of, tmp_path):
    out = tmp_path / "n.csv"
    out.write_text("old")
    with pytest.raises(NoResultHere):
        export_result(str(tmp_path), Format.CSV, out)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "plan.json").write_bytes(plan_of().to_json())
    with pytest.raises(ResultNotFinished, match="not finished"):
        export_result(str(tmp_path / "r"), Format.CSV, out)
    with pytest.raises(CannotWrite):
        export_result(built.store.uri, Format.CSV, out / "n.csv")
    with pytest.raises(OptionError, match="this is a folder"):
        export_result(built.store.uri, Format.CSV, tmp_path)
    assert out.read_text() == "old"


def test_memory_of_an_export_is_that_of_a_shard(built, tmp_path, monkeypatch):
    """The largest piece of the table that is read at once."""
    most = 0
    read = pa.parquet.ParquetFile.read_row_group

    def reading(table, group, **options):
        nonlocal most
        part = read(table, group, **options)
        most = max(most, len(part))
        return part

    monkeypatch.setattr(pa.parquet.ParquetFile, "read_row_group", reading)
    export_result(built.store.uri, Format.CSV, tmp_path / "n.csv")
    assert most == max(len(part) for part in built.parts) < len(built.nuclei) / 4

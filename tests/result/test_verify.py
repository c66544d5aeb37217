"""Every way in which a result can be wrong is done to a result, and must be told."""

import gzip
import json
import shutil
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from microtome.errors import NoResultHere
from microtome.export import FEATURES, TABLE
from microtome.grid import Shard
from microtome.ngff import label_arrays
from microtome.records import ShardReport
from microtome.shards import encode
from microtome.store import ResultStore, digest
from microtome.testing import verify_result


@pytest.fixture
def copy(built, tmp_path) -> ResultStore:
    """A copy of a whole result, to be broken."""
    return ResultStore(str(shutil.copytree(built.store.uri, tmp_path / "S-001.ome.zarr")))


def rewrite(store: ResultStore, key: str, text: bytes) -> None:
    """Change a key and its record, as a program that is wrong would have written them."""
    store.put(key, text)
    for stage in store.stages():
        reports = json.loads(store.get(f"manifest/{stage}.json"))
        for record in (record for report in reports for record in report["keys"] if record["key"] == key):
            record |= {"bytes": len(text), "digest": digest(text)}
        store.put(f"manifest/{stage}.json", json.dumps(reports).encode())


def repaint(store: ResultStore, plan, shard: Shard, change: Callable[[np.ndarray], None]) -> None:
    """Change a shard of the labels of level 0 and its record."""
    spec = label_arrays(plan)[0]
    labels = store.read_array(spec, shard.window)
    change(labels)
    ((key, text),) = encode(spec, shard.row, shard.col, labels)
    rewrite(store, key, text)


def retable(store: ResultStore, change: Callable[[dict], None]) -> None:
    """Change columns of the table's first shard and its record."""
    with store.reading(TABLE) as file:
        table = pa.parquet.ParquetFile(file)
        groups = [table.read_row_group(group) for group in range(table.num_row_groups)]
    columns = {name: groups[0][name].to_pylist() for name in groups[0].column_names}
    change(columns)
    groups[0] = pa.table(columns, schema=groups[0].schema)
    out = pa.BufferOutputStream()
    with pa.parquet.ParquetWriter(out, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    rewrite(store, TABLE, out.getvalue().to_pybytes())


def faults(store: ResultStore) -> str:
    verification = verify_result(store.uri)
    assert verification.ok == (not verification.faults)
    return "\n".join(verification.faults)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("pixels", ["lossless", "none"])
def test_a_whole_result_passes(build, plan_of, tmp_path, ngff, pixels):
    result = build(plan_of(ngff=ngff, pixels=pixels), tmp_path / "r.ome.zarr")
    verification = verify_result(result.store.uri)
    assert verification.faults == ()
    assert len(verification.passed) == (22 if pixels == "lossless" else 19)


def test_a_result_on_s3_passes(build, plan_of, s3):
    result = build(plan_of(700, 600), f"{s3}/verify/r.ome.zarr")
    assert verify_result(result.store.uri).faults == ()


def test_a_result_without_nuclei_passes(build_empty, plan_of, tmp_path):
    result = build_empty(plan_of(700, 600), tmp_path / "r.ome.zarr")
    assert verify_result(result.store.uri).faults == ()


def test_no_result_is_an_error_of_its_own(tmp_path):
    with pytest.raises(NoResultHere):
        verify_result(str(tmp_path))


def test_the_command_tells_every_reason_and_exits_with_1(copy, built):
    from microtome.cli import app

    good = CliRunner().invoke(app, ["verify", built.store.uri])
    assert good.exit_code == 0
    assert "verified, 22 checks" in good.output
    copy.delete("0/c/0/0/0")
    copy.put("labels/nuclei/0/c/0/0", b"")
    bad = CliRunner().invoke(app, ["verify", copy.uri])
    assert bad.exit_code == 1
    assert "0/c/0/0/0 is missing" in bad.output
    assert "labels/nuclei/0/c/0/0 has 0 bytes" in bad.output


def test_a_damaged_or_changed_plan_is_told(copy):
    plan = copy.get("plan.json")
    copy.put("plan.json", plan[:100])
    assert "plan.json is no plan" in faults(copy)
    copy.put("plan.json", plan.replace(b"S-001.svs", b"S-002.svs") + b" ")
    assert "plan.json was changed" in faults(copy)


def test_a_stage_that_is_not_closed_is_told(copy):
    copy.delete("manifest/publish.json")
    assert "not finished: stage publish is missing" in faults(copy)
    copy.put_report(ShardReport(stage="stitch.paint", shard=0, began_s=0, seconds=0, cpu_s=0))
    assert "stage stitch.paint is not finished" in faults(copy)


def test_a_damaged_manifest_is_told(copy):
    copy.put("manifest/stitch.json", b"")
    assert "manifest/stitch.json is damaged" in faults(copy)


def test_a_flipped_bit_is_told(copy):
    text = bytearray(copy.get("1/c/0/0/0"))
    text[1000] ^= 1
    copy.put("1/c/0/0/0", bytes(text))
    assert "1/c/0/0/0 was changed: its digest is" in faults(copy)


def test_keys_that_nobody_wrote_are_told(copy):
    copy.put("0/c/0/7/7", b"1")
    copy.put("parts/infer/0-0.bin", b"1")
    found = faults(copy)
    assert "0/c/0/7/7 is not of this result" in found
    assert "parts/infer/0-0.bin is not of this result" in found


def test_metadata_of_another_plan_is_told(copy):
    copy.put("zarr.json", copy.get("zarr.json").replace(b"0.25", b"0.5"))
    copy.delete("labels/zarr.json")
    found = faults(copy)
    assert "zarr.json is not the metadata of this plan" in found
    assert "labels/zarr.json is missing" in found


def test_an_id_without_a_row_is_told(copy, built):
    def add(labels: np.ndarray) -> None:
        labels[:3, :3] = len(built.nuclei) + 1

    repaint(copy, built.plan, built.plan.grid[4], add)
    assert f"id {len(built.nuclei) + 1} in shard 1-0 has no row" in faults(copy)


def test_a_row_without_pixels_is_told(copy, built):
    shard = built.plan.grid[5]
    alone = next(
        label
        for label, (y, x) in enumerate(built.nuclei.centre_px, start=1)
        if not shard.window.grow(-40).intersect(shard.window).is_empty and shard.window.grow(-40).holds(y, x)
    )
    repaint(copy, built.plan, shard, lambda labels: np.putmask(labels, labels == alone, 0))
    found = faults(copy)
    assert f"nucleus {alone} has a row, but no pixels" in found
    assert "in its outline that are background" in found


def test_pixels_off_the_outline_are_told(copy, built):
    repaint(copy, built.plan, built.plan.grid[0], lambda labels: labels.__setitem__((0, slice(0, 5)), 1))
    assert "nucleus 1 has 5 pixels outside of its outline" in faults(copy)


def test_labels_moved_by_one_pixel_are_told(copy, built):
    repaint(
        copy, built.plan, built.plan.grid[0], lambda labels: labels.__setitem__(..., np.roll(labels, 1, 1))
    )
    found = faults(copy)
    assert "pixels outside of its outline" in found
    assert "and" in found
    assert "more where it should be that" in found


def test_a_level_that_is_not_made_of_the_one_below_is_told(copy, built):
    spec = label_arrays(built.plan)[1]
    labels = copy.read_array(spec, spec.grid[0].window)
    labels[100, 100] = 1 if labels[100, 100] != 1 else 2
    ((key, text),) = encode(spec, 0, 0, labels)
    rewrite(copy, key, text)
    assert "labels/nuclei/1: 1 pixels of shard 0-0 are not those of labels/nuclei/0, halved" in faults(copy)


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("area_px", 5.0, "nucleus 1 has an area that is not its outline's"),
        ("area_um2", 5.0, "nucleus 1 has an area_um2 that is not its area_px"),
        ("centre_x_px", 40.0, "nucleus 1 has a centre that is not the centroid of its outline"),
        ("probability", 1.5, "nucleus 1 has a probability outside of 0 to 1"),
        ("label", 2, "should be 1 to"),
        ("centre_y_px", 1200.0, "are not those of one shard"),
    ],
)
def test_a_wrong_value_in_the_table_is_told(copy, column, value, fault):
    retable(copy, lambda columns: columns[column].__setitem__(0, value))
    assert fault in faults(copy)


def test_an_outline_that_crosses_itself_is_told(copy):
    import shapely

    bow_tie = shapely.to_wkb(shapely.Polygon([(30, 30), (40, 40), (40, 30), (30, 40)]))
    retable(copy, lambda columns: columns["geometry"].__setitem__(0, bow_tie))
    assert "nucleus 1 has an outline that crosses itself" in faults(copy)


def test_a_table_that_takes_pixels_for_degrees_is_told(copy):
    with copy.reading(TABLE) as file:
        table = pa.parquet.read_table(file)
    geo = json.loads(table.schema.metadata[b"geo"])
    del geo["columns"]["geometry"]["crs"]
    out = pa.BufferOutputStream()
    changed = table.replace_schema_metadata({"geo": json.dumps(geo)}).drop_columns(["area_um2"])
    pa.parquet.write_table(changed, out)
    rewrite(copy, TABLE, out.getvalue().to_pybytes())
    found = faults(copy)
    assert "must say WKB and crs null" in found
    assert "has the columns" in found


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: lines.pop(3), "1,518 outlines, but"),
        (lambda lines: lines.pop(3), "nucleus 4 stands where 3 should be"),
        (
            lambda lines: lines.__setitem__(2, lines[2].replace(b"[[[", b"[[[1,1],[")),
            "nucleus 2 is not closed",
        ),
        (lambda lines: lines.__setitem__(2, lines[2][:-30] + b"\n"), "feature 2 is not JSON"),
        (lambda lines: lines.pop(), "does not end its FeatureCollection"),
        (lambda lines: lines.pop(0), "does not begin a FeatureCollection"),
    ],
)
def test_damaged_outlines_for_qupath_are_told(copy, change, fault):
    lines = gzip.decompress(copy.get(FEATURES)).splitlines(keepends=True)
    change(lines)
    rewrite(copy, FEATURES, gzip.compress(b"".join(lines)))
    assert fault in faults(copy)


def test_a_summary_that_counts_other_nuclei_is_told(copy):
    rewrite(copy, "report/summary.json", b'{"nuclei": 3}')
    assert "report/summary.json says 3 nuclei" in faults(copy)

"""What clean-up removes: unfinished results of ours, by age, and nothing else."""

import os
import time
from pathlib import Path

import pytest
import yaml

import microtome
from flows.clean_up import clean_up, is_given_up, newest_s, results_below
from microtome.s3 import IMPATIENT
from microtome.store import PUBLISHED

DAY_S = 86_400


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setenv("MICROTOME_OUTPUT", str(tmp_path))
    return tmp_path


def result(folder, *keys, days=30):
    for key in keys:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        os.utime(path, (time.time() - days * DAY_S,) * 2)
    return folder


@pytest.fixture
def run(monkeypatch, caplog):
    """The flow's own function, without a server."""
    import logging

    monkeypatch.setattr("flows.clean_up.get_run_logger", lambda: logging.getLogger("test"))
    return clean_up.fn


def test_only_old_unfinished_results_of_ours_go(output, run):
    old = result(output / "ward" / "a.svs@1" / "a.ome.zarr", "plan.json", "0/c/0/0/0")
    finished = result(output / "b.ome.zarr", "plan.json", "manifest/publish.json")
    foreign = result(output / "c.ome.zarr", "zarr.json")
    young = result(output / "d.ome.zarr", "plan.json", days=3)
    growing = result(result(output / "e.ome.zarr", "plan.json"), "0/c/0/0/0", days=1)
    assert run(older_than_days=14) == [str(old)]
    assert not old.exists()
    assert all(kept.is_dir() for kept in (finished, foreign, young, growing))


def test_it_can_only_say_what_it_would_remove(output, run):
    old = result(output / "a.ome.zarr", "plan.json")
    assert run(only_say=True) == [str(old)]
    assert old.exists()


def test_a_result_inside_a_result_is_none(output):
    result(output / "a.ome.zarr", "plan.json", "labels/b.ome.zarr/plan.json")
    assert [store.uri for store in results_below(str(output))] == [str(output / "a.ome.zarr")]


def test_the_age_is_that_of_the_newest_key(output):
    result(result(output / "a.ome.zarr", "plan.json", days=9), "x", days=2)
    assert time.time() - newest_s(str(output / "a.ome.zarr")) == pytest.approx(2 * DAY_S, abs=60)


def test_a_file_that_goes_meanwhile_is_passed_over(output):
    result(output / "a.ome.zarr", "plan.json", days=9)
    (output / "a.ome.zarr" / "0.writing").symlink_to("renamed")
    assert time.time() - newest_s(str(output / "a.ome.zarr")) == pytest.approx(9 * DAY_S, abs=60)


def test_deployments_have_the_version_of_the_package():
    text = (Path(__file__).parent.parent / "prefect.yaml").read_text()
    deployments = yaml.safe_load(text)["deployments"]
    assert {deployment["version"] for deployment in deployments} == {microtome.__version__}
    assert all(deployment["enforce_parameter_schema"] for deployment in deployments)


def test_what_a_store_that_is_away_does_not_tell_is_not_taken_for_unfinished(s3, monkeypatch):
    monkeypatch.setattr("microtome.s3.PATIENT", IMPATIENT)
    folder = s3.make_bucket("results") / "a.ome.zarr"
    result(folder, "plan.json", "manifest/publish.json")
    (store,) = results_below("s3://results")
    assert not is_given_up(store, time.time())
    s3.stop()
    with pytest.raises(OSError, match="Connection refused"):
        store.is_closed(PUBLISHED)

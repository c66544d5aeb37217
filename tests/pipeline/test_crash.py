"""Killed at any moment and started again: only what is missing runs, and the bytes are the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from microtome.options import Options
from microtome.pipeline import State, finish, prepare
from microtome.records import ShardReport
from microtome.store import ResultStore
from microtome.testing import verify_result
from tests.pipeline.runs import digests

SWEEPS = ("chunk", "infer", "stitch", "stitch.paint", "export")
PATIENCE_S = 200


def command(field, folder):
    options = ["--mpp", "0.25", "--precision", "f32", "--shard-size", "512", "--workers", "2"]
    return [sys.executable, "-m", "microtome", "segment", str(field), "-o", str(folder), *options]


def finished(store: ResultStore, sweep: str) -> dict[int, ShardReport]:
    return store.recorded(sweep)


def wait_until(process: subprocess.Popen, reached) -> None:
    until = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None, f"ended with {process.returncode} before it could be killed"
        assert time.monotonic() < until, "never got that far"
        time.sleep(0.01)


def kill_when(process: subprocess.Popen, reached) -> None:
    """The run and its workers: nobody gets to tidy up."""
    wait_until(process, reached)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_killed_in_any_stage_only_the_missing_shards_run_again(sweep, field, undisturbed, tmp_path):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    first = subprocess.Popen(command(field, tmp_path), start_new_session=True, stderr=subprocess.DEVNULL)
    kill_when(first, lambda: finished(store, sweep))
    before = {name: finished(store, name) for name in SWEEPS}

    again = subprocess.run(command(field, tmp_path), capture_output=True, text=True, check=True)

    assert "resumed" in again.stderr
    after = {name: finished(store, name) for name in SWEEPS}
    for name in SWEEPS:
        kept = {shard: report for shard, report in after[name].items() if report in before[name].values()}
        assert kept == before[name], f"{name}: shards that were done ran again"
    assert sum(map(len, after.values())) > sum(map(len, before.values()))
    assert digests(store) == digests(undisturbed)


def test_killed_with_overwrite_it_goes_on_with_overwrite(field, undisturbed, tmp_path):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    words = [*command(field, tmp_path), "--overwrite"]
    first = subprocess.Popen(words, start_new_session=True, stderr=subprocess.DEVNULL)
    kill_when(first, lambda: finished(store, "infer"))
    before = finished(store, "infer")
    again = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "resumed" in again.stderr
    assert before.items() <= finished(store, "infer").items(), "shards that were done ran again"
    assert digests(store) == digests(undisturbed)


@pytest.mark.parametrize("deletions", range(4))
def test_a_removal_that_is_cut_short_leaves_what_a_run_goes_on_with(
    deletions, field, field_plan, undisturbed, cluster, tmp_path, monkeypatch
):
    shutil.copytree(undisturbed.uri, tmp_path / "field.ome.zarr")
    store, real, left = ResultStore(str(tmp_path / "field.ome.zarr")), ResultStore.delete, [deletions + 1]

    def delete(self, prefix):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(self, prefix)

    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            store.remove()
    again = prepare(str(field), str(tmp_path), Options(mpp=0.25, precision="f32", shard_px=512))
    assert again.state is State.RESUMED
    finish(again, cluster, lambda progress: None)
    assert digests(store) == digests(undisturbed)
    assert verify_result(store.uri).ok


def test_a_killed_worker_costs_its_shard_and_changes_no_byte(field, undisturbed, tmp_path):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    run = subprocess.Popen(command(field, tmp_path), start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE_S
    while not finished(store, "infer"):
        assert time.monotonic() < until
        time.sleep(0.01)
    before = finished(store, "infer")
    victim = next(iter(before.values())).worker
    os.kill(int(victim.rpartition(":")[2]), signal.SIGKILL)
    assert run.wait(PATIENCE_S) == 0
    after = finished(store, "infer")
    # One that was recorded, but that the scheduler had not heard of, may run again: no more.
    assert sum(after[shard] != before[shard] for shard in before) <= 1
    assert len(after) == 9 > len(before)
    assert digests(store) == digests(undisturbed)


def stop(process):
    process.send_signal(signal.SIGTERM)


def press_ctrl_c_twice(process):
    """A terminal sends it to the command and to all that it has started."""
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.15)
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("interrupt", [stop, press_ctrl_c_twice])
def test_interrupted_it_says_how_to_go_on_and_keeps_what_is_finished(interrupt, field, tmp_path):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(command(field, tmp_path), start_new_session=True, stderr=log)
        wait_until(run, lambda: finished(store, "infer"))
        interrupt(run)
        run.wait(30)
    assert run.returncode == 130
    last = "interrupted; what is finished is kept: to go on, give the same command again\n"
    assert (tmp_path / "log").read_text().endswith(last)
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert finished(store, "chunk")
    subprocess.run(command(field, tmp_path), check=True, capture_output=True)
    assert json.loads(store.get("report/summary.json"))["workers"] == 2, "of both starts together"

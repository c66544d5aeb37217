"""What nobody waits for any more stops: a thread cannot be stopped from outside, so it asks."""

import time
from pathlib import Path

import pytest

from microtome.cluster import Abandoned, stop_if_abandoned

WORKS_S = 60


def work(name, folder, works_s=WORKS_S):
    """`quick` ends when `long` has begun; `long` asks, step by step, whether to go on."""
    began = Path(folder) / "began"
    if name == "quick":
        while not began.exists():
            time.sleep(0.05)
        return name
    began.touch()
    for _ in range(10 * works_s):
        time.sleep(0.1)
        try:
            stop_if_abandoned()
        except Abandoned:
            (Path(folder) / "abandoned").touch()
            raise
    return name


class Stop(Exception):
    pass


def test_a_task_that_was_cancelled_ends_at_its_next_step(cluster, tmp_path):
    def stop(name):
        raise Stop

    with pytest.raises(Stop):
        cluster.fan_out(work, [("long", str(tmp_path)), ("quick", str(tmp_path))], stop, name="cancelled")
    until_s = time.monotonic() + WORKS_S / 2
    while not (tmp_path / "abandoned").exists():
        assert time.monotonic() < until_s, "it goes on"
        time.sleep(0.1)


def test_outside_of_dask_work_goes_on_to_its_end(tmp_path):
    assert work("long", tmp_path, works_s=1) == "long"
    assert not (tmp_path / "abandoned").exists()

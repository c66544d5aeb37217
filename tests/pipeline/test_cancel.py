"""What nobody waits for any more stops: a thread cannot be stopped from outside, so it asks."""

import os
import queue
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from distributed import get_worker

from microtome import cluster as cluster_module
from microtome.cluster import Abandoned, ClusterSpec, connect, stop_if_abandoned

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


def mark(folder, late, index):
    time.sleep(1 if get_worker().address == late else 0)
    (Path(folder) / str(index)).touch()


def hear_late(dask_worker, by_s=0.3):
    """What the scheduler says to this worker arrives late, but in its order; what others ask does not."""
    for op, handler in dask_worker.stream_handlers.items():
        dask_worker.stream_handlers[op] = partial(_later, dask_worker.loop, by_s, handler)


def _later(loop, by_s, handler, **message):
    loop.call_later(by_s, partial(handler, **message))


def test_a_task_that_arrives_at_its_worker_after_it_was_cancelled_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "LOOK_EVERY_S", 0.5)

    def stop(name):
        raise Stop

    with connect(ClusterSpec(workers=2)) as cluster:
        cluster.fan_out(str, [(1,), (2,)], lambda number: None, name="first")
        late, _ = cluster.client.scheduler_info()["workers"]
        cluster.client.run(hear_late, workers=[late])
        calls = [(str(tmp_path), late, index) for index in range(2)]
        with pytest.raises(Stop):
            cluster.at_once([partial(cluster.fan_out, mark, calls, stop, name="late")])
        left = sorted(tmp_path.iterdir())
        time.sleep(2)
        assert sorted(tmp_path.iterdir()) == left, "it was still at work"


class Interrupt(BaseException):
    pass


def test_ctrl_c_ends_a_run_whose_workers_it_has_ended_too():
    """It goes to all processes of a terminal: results that a worker has kept are lost, and nobody is left."""
    stopped = threading.Event()

    def interrupt(cluster):
        while len(cluster.client.who_has()) < 2:
            time.sleep(0.1)
        (worker,) = cluster.client.cluster.workers.values()
        worker.close_gracefully()  # it starts no other one
        # Its end is noticed late, after the interrupt: until then the results count as done.
        os.kill(worker.pid, signal.SIGSTOP)
        threading.Timer(3, os.kill, (worker.pid, signal.SIGKILL)).start()
        stopped.set()
        time.sleep(1)
        raise Interrupt

    def run():
        with connect(ClusterSpec(workers=1)) as cluster:
            on_done = partial(stopped.wait, WORKS_S)
            fan_out = partial(cluster.fan_out, str, [(1,), (2,)], lambda name: on_done(), name="lost")
            with pytest.raises(Interrupt):
                cluster.at_once([fan_out, partial(interrupt, cluster)])

    # A daemon's thread: what waits for ever must not keep the tests from ending.
    errors = queue.SimpleQueue()
    threading.Thread(target=lambda: errors.put(_error_of(run)), daemon=True).start()
    assert errors.get(timeout=WORKS_S) is None


def _error_of(run):
    try:
        run()
    except BaseException as error:
        return error


def test_outside_of_dask_work_goes_on_to_its_end(tmp_path):
    assert work("long", tmp_path, works_s=1) == "long"
    assert not (tmp_path / "abandoned").exists()

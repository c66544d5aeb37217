"""1 and 2 real workers; and 1 to 64 that sleep: what scheduler, client, manifest and barriers cost."""

import time
from collections.abc import Iterator

from distributed import Client, LocalCluster

from microtome.cluster import Cluster
from microtome.cpu import cores
from microtome.options import Options
from microtome.pipeline import prepare
from microtome.stages.run import Run, open_run
from microtome.stages.sweep import Tally, sweep
from tests.bench.command import same_nuclei, segment
from tests.bench.figures import Bench, Figure, Skipped, figure
from tests.bench.made_slides import make_slide, pieces_of

SHARD_S = 2.0
"""About the time of a shard of infer."""
SLEEPERS = (1, 2, 4, 8, 16, 32, 64)
SHARDS_A_SLEEPER = 25
"""1,600 for 64."""
QUICK_SHARDS_A_SLEEPER = 10
SWEEPS = 2
"""One after the other: all workers wait at the barrier between two."""
SIDE_PX = 163_840


def real(bench: Bench) -> Iterator[Figure]:
    """The shared slide by 1 and by 2 workers, rounds interleaved."""
    if cores() < 2:
        raise Skipped("this machine has one core")
    pairs = [
        tuple(segment(bench.slide, bench.work / "workers", "--workers", str(workers)) for workers in (1, 2))
        for _ in range(bench.rounds)
    ]
    same_nuclei([run for pair in pairs for run in pair])
    yield figure(
        "workers", "2 against 1, stages", "x", [one.stages_s / two.stages_s for one, two in pairs], ">= 1.9"
    )
    yield figure(
        "workers", "2 against 1, start-up counted", "x", [one.wall_s / two.wall_s for one, two in pairs]
    )


def sleeping(bench: Bench) -> Iterator[Figure]:
    """Sweeps of shards that take 2 s each without work, with records as any stage writes them."""
    made = make_slide(bench.work / "sleep.tif", pieces_of(bench.slide), side_px=SIDE_PX)
    for workers in (64,) if bench.quick else SLEEPERS:
        prepared = prepare(str(made.path), str(bench.work / "sleep"), Options(), overwrite=True)
        open_run(prepared.run.ref)  # once for all threads, as each process of a real cluster does
        with _workers(workers) as cluster:
            client = Client(cluster, set_as_default=False)
            shards = workers * (QUICK_SHARDS_A_SLEEPER if bench.quick else SHARDS_A_SLEEPER)
            began_cpu_s = time.process_time()
            taken_s = _sleep(prepared.run, Cluster(client), shards)
            cpu_ms = (time.process_time() - began_cpu_s) / (SWEEPS * shards) * 1e3
            client.close()
        best_s = shards * SHARD_S / workers
        efficiency = [100 * best_s / seconds for seconds in taken_s]
        what = f"{workers} sleeping workers, {shards:,} shards of {SHARD_S:.0f} s"
        yield figure("scaling", f"{what}: efficiency", "%", efficiency, ">= 90" if workers == 64 else "")
        yield figure("scaling", f"{what}: CPU of all together", "ms/shard", cpu_ms)


def _workers(number: int) -> LocalCluster:
    """Workers of one slot each, all threads of this process: its one event loop is the worst case."""
    return LocalCluster(
        n_workers=number, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    )


def _sleep(run: Run, cluster: Cluster, shards: int) -> list[float]:
    """Seconds of each sweep."""
    seconds = []
    for number in range(SWEEPS):
        began = time.perf_counter()
        swept = sweep(
            run, cluster, f"sleep.{number}", sleep_shard, [(i,) for i in range(shards)], lambda _: None
        )
        seconds.append(time.perf_counter() - began)
        if len(swept.reports) != shards:
            raise RuntimeError(f"{len(swept.reports)} of {shards} shards were slept for")
    return seconds


def sleep_shard(run: Run, index: int, tally: Tally) -> None:
    time.sleep(SHARD_S)

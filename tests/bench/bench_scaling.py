"""1 and 2 real workers; and 1 to 64 that sleep: what scheduler, client, manifest and barriers cost."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from distributed import Client, LocalCluster, Worker

from microtome.cluster import Cluster, use_settings
from microtome.cpu import cores
from microtome.options import Options
from microtome.pipeline import prepare
from microtome.stages.run import Run, RunRef, open_run
from microtome.stages.sweep import Tally, sweep
from tests.bench.bench_end_to_end import slides
from tests.bench.command import SegmentRun, same_nuclei, segment
from tests.bench.figures import Bench, Figure, Skipped, figure
from tests.bench.made_slides import make_slide, pieces_of

SHARD_S = 2.0
"""About the time of a shard of infer."""
SLEEPERS = (1, 4, 16, 64)
SHARDS_A_SLEEPER = 25
"""1,600 for 64."""
QUICK_SHARDS_A_SLEEPER = 10
SWEEPS = 2
"""One after the other: all workers wait at the barrier between two."""
SIDE_PX = 163_840


def real(bench: Bench) -> Iterator[Figure]:
    """The shared slide and the one of 1.7 gigapixels by 1 and by 2 workers, rounds interleaved.

    A worker has a core, as in a pod: one alone would read ahead, and be scheduled, on the other.
    """
    if cores() < 2:
        raise Skipped("this machine has one core")
    for name, slide in slides(bench).items():
        pairs = [
            tuple(_by(workers, slide, bench.work / "workers") for workers in (1, 2))
            for _ in range(bench.rounds)
        ]
        same_nuclei([run for pair in pairs for run in pair])
        stages = [one.stages_s / two.stages_s for one, two in pairs]
        yield figure(f"workers {name}", "2 against 1, a core each: stages", "x", stages, ">= 1.9")
        wall = [one.wall_s / two.wall_s for one, two in pairs]
        yield figure(f"workers {name}", "2 against 1, a core each: start-up counted", "x", wall)
        cpu = [two.cpu_s / one.cpu_s for one, two in pairs]
        yield figure(f"workers {name}", "CPU time of the stages, 2 against 1", "x", cpu)


def _by(workers: int, slide: Path, folder: Path) -> SegmentRun:
    this = psutil.Process()
    if not hasattr(this, "cpu_affinity"):
        raise Skipped("processes cannot be held to a core on this system")
    allowed = this.cpu_affinity()
    this.cpu_affinity(allowed[:workers])  # of those that it starts too
    try:
        return segment(slide, folder, "--workers", str(workers))
    finally:
        this.cpu_affinity(allowed)


def sleeping(bench: Bench) -> Iterator[Figure]:
    """Sweeps of shards that take 2 s each without work, with records as any stage writes them."""
    made = make_slide(bench.work / "sleep.tif", pieces_of(bench.slide), side_px=SIDE_PX)
    for workers in (64,) if bench.quick else SLEEPERS:
        run = prepare(str(made.path), str(bench.work / f"sleep-{workers}"), Options()).run
        shards = workers * (QUICK_SHARDS_A_SLEEPER if bench.quick else SHARDS_A_SLEEPER)
        with _sleepers(workers, run.ref) as client:
            began_cpu_s = time.process_time()
            sweeps = range(1 if bench.quick else SWEEPS)
            taken_s = [_sleep(run, Cluster(client), f"sleep.{number}", shards) for number in sweeps]
            cpu_ms = (time.process_time() - began_cpu_s) / (len(sweeps) * shards) * 1e3
        best_s = shards * SHARD_S / workers
        efficiency = [100 * best_s / seconds for seconds in taken_s]
        what = f"{workers} sleeping workers, {shards:,} shards of {SHARD_S:.0f} s"
        yield figure("scaling", f"{what}: efficiency", "%", efficiency, ">= 90" if workers == 64 else "")
        yield figure("scaling", f"{what}: client and scheduler", "CPU ms/shard", cpu_ms)


@contextmanager
def _sleepers(number: int, ref: RunRef) -> Iterator[Client]:
    """Workers of one slot each, threads of two processes; client and scheduler are in this one."""
    context = multiprocessing.get_context("spawn")
    use_settings()
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=50) as cluster:
        shares = [share for share in (number // 2, number - number // 2) if share]
        address = cluster.scheduler_address
        hosts = [context.Process(target=_host, args=(address, share, ref), daemon=True) for share in shares]
        for host in hosts:
            host.start()
        try:
            with Client(cluster, set_as_default=False) as client:
                client.wait_for_workers(number, timeout=120)
                yield client
        finally:
            for host in hosts:
                host.terminate()
                host.join()


def _host(scheduler: str, number: int, ref: RunRef) -> None:
    """In a process of its own: so many workers. The plan is opened once for all, as a worker does."""
    open_run(ref)
    use_settings()

    async def serve() -> None:
        workers = [Worker(scheduler, nthreads=1, dashboard=False, silence_logs=50) for _ in range(number)]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(serve())


def _sleep(run: Run, cluster: Cluster, name: str, shards: int) -> float:
    """Seconds of a sweep."""
    began = time.perf_counter()
    swept = sweep(run, cluster, name, SLEEP, [(index,) for index in range(shards)], lambda _: None)
    seconds = time.perf_counter() - began
    if len(swept.reports) != shards:
        raise RuntimeError(f"{len(swept.reports)} of {shards} shards were slept for")
    return seconds


SLEEP = f"{__name__}:sleep_shard"


def sleep_shard(run: Run, index: int, tally: Tally) -> None:
    """A shard's work: none."""
    time.sleep(SHARD_S)

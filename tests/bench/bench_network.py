"""The network alone: MP/s of its input by precision, tile size and layout of processes and threads.

    python -m tests.bench.bench_network [--quick]

Seeded noise, in memory. A layout of 2 x 1 is two processes of one thread at once; its MP/s are
those of both. "Useful" counts the core of a tile alone. Peak memory is that of one process.
"""

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing.synchronize import Barrier
from statistics import median

import numpy as np

from microtome.cpu import cores, machine_record, runs
from microtome.grid import Sides
from microtome.model import Precision, default_model, read_card
from microtome.network import load_model

SIDES_PX = (512, 1024, 1216, 1568, 2048, 2240)
QUICK_SIDES_PX = (512, 1216)
INSIDE = Sides(top=True, left=True, bottom=True, right=True)
"""Trimmed as tiles are that no edge of the slide cuts."""
LAYOUTS = ((1, 1), (2, 1), (1, 2))
"""(processes, threads of each)."""
ROUNDS = 3
LONGEST_S = 600
"""A process that says nothing for so long has died."""
PX_PER_ROUND = 4_000_000
"""Small tiles are run several times a round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkTiming:
    precision: Precision
    side_px: int
    processes: int
    threads: int
    mp_per_s: float
    """Median of the rounds, all processes together."""
    lowest_mp_per_s: float
    highest_mp_per_s: float
    useful_mp_per_s: float
    load_s: float
    """Until the network takes tiles of this shape as fast as it can."""
    peak_bytes: int


def timings(*, quick: bool = False) -> Iterator[NetworkTiming]:
    """Every precision that this CPU runs; precisions alternate, so that a change of load hits all."""
    able = [p for p in (Precision.F32, Precision.BF16, Precision.INT8) if _runs_here(p)]
    layouts = [layout for layout in LAYOUTS if layout[0] * layout[1] <= cores()]
    for side_px, layout in product(QUICK_SIDES_PX if quick else SIDES_PX, layouts[:2] if quick else layouts):
        sums = {}
        for precision in able:
            timing, sums[precision] = _time(precision, side_px, *layout)
            yield timing
        assert len(set(sums.values())) == len(able), "each precision rounds in its own way"


def main(arguments: Sequence[str]) -> None:
    found = []
    print("precision  tile   layout  MP/s       (range)  useful  load s  peak MB")
    for timing in timings(quick="--quick" in arguments):
        found.append(timing)
        spread = f"{timing.lowest_mp_per_s:.2f}-{timing.highest_mp_per_s:.2f}"
        print(
            f"{timing.precision:>9} {timing.side_px:>5} {timing.processes:>4} x {timing.threads}"
            f" {timing.mp_per_s:>7.2f} {spread:>13} {timing.useful_mp_per_s:>7.2f}"
            f" {timing.load_s:>7.2f} {timing.peak_bytes / 1e6:>8.0f}",
            flush=True,
        )
    print(json.dumps({"machine": asdict(machine_record()), "network": [asdict(timing) for timing in found]}))


def _runs_here(precision: Precision) -> bool:
    return runs(precision, machine_record().instruction_set)


def _time(precision: Precision, side_px: int, processes: int, threads: int) -> tuple[NetworkTiming, float]:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_work, args=(precision, side_px, threads, barrier, answers))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    replies = [answers.get(timeout=LONGEST_S) for _ in workers]
    for worker in workers:
        worker.join()
    sums = {reply[0] for reply in replies}
    assert len(sums) == 1, "processes agree to the bit"
    rates = [sum(of_all) for of_all in zip(*(reply[1] for reply in replies), strict=True)]
    core_px = side_px - 2 * read_card(default_model()).halo_px
    timing = NetworkTiming(
        precision=precision,
        side_px=side_px,
        processes=processes,
        threads=threads,
        mp_per_s=median(rates),
        lowest_mp_per_s=min(rates),
        highest_mp_per_s=max(rates),
        useful_mp_per_s=median(rates) * core_px**2 / side_px**2,
        load_s=max(reply[2] for reply in replies),
        peak_bytes=max(reply[3] for reply in replies),
    )
    return timing, sums.pop()


def _work(
    precision: Precision,
    side_px: int,
    threads: int,
    barrier: Barrier,
    answers: "multiprocessing.queues.Queue[tuple[float, list[float], float, int]]",
) -> None:
    tile = np.random.default_rng(0).integers(90, 256, (3, side_px, side_px), dtype=np.uint8)
    began = time.perf_counter()
    network = load_model(default_model(), precision=precision, threads=threads, limits=(0.0, 255.0))
    total = sum(float(prob.sum()) for _, prob, _ in network.run(tile, trimmed=INSIDE))
    load_s = time.perf_counter() - began
    rates = []
    for _ in range(ROUNDS):
        times = -(-PX_PER_ROUND // tile[0].size)
        barrier.wait()
        began = time.perf_counter()
        for _ in range(times):
            for _ in network.run(tile, trimmed=INSIDE):
                pass
        rates.append(times * tile[0].size / 1e6 / (time.perf_counter() - began))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answers.put((total, rates, load_s, peak_bytes))


if __name__ == "__main__":
    main(sys.argv[1:])

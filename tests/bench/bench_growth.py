"""Slides from 0.1 to 26.7 gigapixels, a fifth of them tissue: time per tissue MP, memory a process."""

from collections.abc import Iterator
from math import sqrt

from tests.bench.command import SegmentRun, segment
from tests.bench.figures import Bench, Figure, figure
from tests.bench.made_slides import make_slide, pieces_of


def figures(bench: Bench) -> Iterator[Figure]:
    """One round a size, from small to large; each is compared with 1 gigapixel, or with the smallest."""
    pieces = pieces_of(bench.slide)
    runs: dict[float, SegmentRun] = {}
    for gigapixels in sorted(bench.gigapixels):
        made = make_slide(bench.work / "made.tif", pieces, side_px=round(sqrt(gigapixels * 1e9)))
        runs[gigapixels] = run = segment(made.path, bench.work / "growth")
        part = f"{gigapixels:g} Gpx"
        yield figure(part, "wall time", "s", run.wall_s)
        yield figure(part, "wall time per tissue MP", "s", run.wall_s / run.tissue_mp)
        yield figure(part, "stages' time per tissue MP", "s", run.stages_s / run.tissue_mp)
        yield figure(part, "peak memory of a worker", "MB", run.worker_peak_bytes / 1e6, "<= 2,000")
        yield figure(
            part, "peak memory of the client with the scheduler", "MB", run.client_peak_bytes / 1e6, "<= 500"
        )
        base = runs.get(1.0, runs[min(runs)])
        if run is not base:
            time_ratio = run.wall_s / run.tissue_mp / (base.wall_s / base.tissue_mp)
            yield figure(part, f"time per tissue MP against {_of(runs, base)}", "x", time_ratio, "<= 1.1")
            memory_ratio = run.worker_peak_bytes / base.worker_peak_bytes
            yield figure(part, f"memory of a worker against {_of(runs, base)}", "x", memory_ratio, "<= 1.05")


def _of(runs: dict[float, SegmentRun], base: SegmentRun) -> str:
    return next(f"{gigapixels:g} Gpx" for gigapixels, run in runs.items() if run is base)

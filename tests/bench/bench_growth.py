"""Slides from 0.1 to 26.7 gigapixels, a fifth of them tissue: time per tissue MP, memory a process."""

from collections.abc import Iterator
from math import sqrt
from pathlib import Path

from tests.bench.command import SegmentRun, segment
from tests.bench.figures import Bench, Figure, figure
from tests.bench.made_slides import Piece, make_slide, pieces_of


def figures(bench: Bench) -> Iterator[Figure]:
    """One round a size. Each is compared with 1 gigapixel, or with the smallest, and again with its pixels
    kept in the same way, where large slides keep them otherwise than small ones."""
    pieces = pieces_of(bench.slide)
    sizes = sorted(bench.gigapixels)
    base = 1.0 if 1.0 in sizes else sizes[0]
    first = _made(bench, pieces, base)
    run = segment(first, bench.work / "growth")
    yield from _of_run(f"{base:g} Gpx", run)
    default, bases = run.plan.pixels, {run.plan.pixels: run}
    for gigapixels in (size for size in sizes if size != base):
        run = segment(_made(bench, pieces, gigapixels), bench.work / "growth")
        part = f"{gigapixels:g} Gpx"
        yield from _of_run(part, run)
        kept = run.plan.pixels
        if kept not in bases:
            bases[kept] = segment(first, bench.work / "growth", "--pixels", kept)
            yield from _of_run(f"{base:g} Gpx {kept}", bases[kept])
        for pixels in dict.fromkeys((default, kept)):
            against = f"against {base:g} Gpx, {pixels}"
            time_ratio = _per_tissue_mp(run) / _per_tissue_mp(bases[pixels])
            yield figure(part, f"time per tissue MP {against}", "x", time_ratio, "<= 1.1")
            memory_ratio = run.worker_peak_bytes / bases[pixels].worker_peak_bytes
            yield figure(part, f"memory of a worker {against}", "x", memory_ratio, "<= 1.05")


def _made(bench: Bench, pieces: list[Piece], gigapixels: float) -> Path:
    path = bench.work / f"{gigapixels:g}.tif"
    return make_slide(path, pieces, side_px=round(sqrt(gigapixels * 1e9))).path


def _per_tissue_mp(run: SegmentRun) -> float:
    return run.wall_s / run.tissue_mp


def _of_run(part: str, run: SegmentRun) -> Iterator[Figure]:
    yield figure(part, "wall time", "s", run.wall_s)
    yield figure(part, "wall time per tissue MP", "s", _per_tissue_mp(run))
    yield figure(part, "stages' time per tissue MP", "s", run.stages_s / run.tissue_mp)
    yield figure(part, "peak memory of a worker", "MB", run.worker_peak_bytes / 1e6, "<= 2,000")
    yield figure(
        part, "peak memory of the client with the scheduler", "MB", run.client_peak_bytes / 1e6, "<= 500"
    )

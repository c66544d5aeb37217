"""A slide from the command line to its published result: by precision, and at ordinary density."""

import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from microtome.arrays import Ints
from microtome.cpu import InstructionSet, cores, has_fast_bf16, machine_record, runs
from microtome.model import Precision
from microtome.options import Options
from microtome.plan import make_plan
from tests.bench.command import SegmentRun, same_nuclei, segment
from tests.bench.figures import Bench, Figure, figure
from tests.bench.made_slides import PIECE_PX, MadeSlide, Piece, make_slide, pieces_of

ORDINARY_PX = 40_960
ORDINARY_PER_MP = (200, 400)
COARSE_MODEL = "he-nuclei-fast"
GOALS = {
    Precision.INT8: ">= 4.5 (without AMX)",
    Precision.BF16: ">= 8 (AMX)",
    Precision.F32: "",
}


def figures(bench: Bench) -> Iterator[Figure]:
    """Each slide by precision, rounds interleaved; the larger one by the two that are compared."""
    able = precisions()
    compared = able[0], Precision.INT8
    for name, slide in slides(bench).items():
        measured = able if slide == bench.slide else tuple(p for p in able if p in compared)
        found: dict[Precision, list[SegmentRun]] = {precision: [] for precision in measured}
        for _, precision in product(range(bench.rounds), measured):
            found[precision].append(segment(slide, bench.work / "end", "--precision", precision))
        for precision in measured:
            yield from of_runs(f"{name} {precision}", found[precision])
        if set(compared) <= set(measured):
            ratios = [
                other.wall_s / int8.wall_s
                for other, int8 in zip(found[able[0]], found[Precision.INT8], strict=True)
            ]
            what = f"time against int8 ({able[0]} / int8)"
            yield figure(f"{name} {able[0]}", what, "x", ratios, ">= 2.2 (>= 1.25 AMX)")


def precisions() -> tuple[Precision, ...]:
    """Those worth measuring here, first the one that int8 is compared with: bf16 with AMX, f32 without."""
    here = machine_record().instruction_set
    first = Precision.BF16 if here is InstructionSet.AMX else Precision.F32
    fast = [Precision.BF16] if has_fast_bf16(here) else []
    return tuple(dict.fromkeys(p for p in (first, *fast, Precision.F32, Precision.INT8) if runs(p, here)))


def ordinary(bench: Bench) -> Iterator[Figure]:
    """A slide of 1.7 gigapixels whose tissue has as many nuclei as most tissues have."""
    made = ordinary_slide(bench, ordinary_pieces(bench))
    rounds, coarse = [], []
    for _ in range(bench.rounds):
        rounds.append(segment(made.path, bench.work / "end"))
        coarse.append(segment(made.path, bench.work / "end", "--model", COARSE_MODEL))
    precision = rounds[0].plan.model.precision
    part = f"ordinary {precision}"
    yield from of_runs(part, rounds, GOALS[precision])
    between = [100 * (run.wall_s - run.stages_s) / run.wall_s for run in rounds]
    yield figure(part, "start-up and Dask: no shard is worked on", "% of wall", between, "<= 4")
    plan = [100 * _plan_s(made.path) / run.wall_s for run in rounds]
    yield figure(part, "of that: the plan, tissue found in the slide's pixels", "% of wall", plan)
    same_nuclei(coarse)
    mm2_s = [run.plan.tissue_mm2 / run.wall_s for run in coarse]
    yield figure(part, f"40x slide, {COARSE_MODEL} at 0.5 um/px", "mm2/s", mm2_s, ">= 0.9 (1.5 AMX)")


def _plan_s(slide: Path) -> float:
    """Seconds of the plan alone, with everything imported and both cores free."""
    began = time.perf_counter()
    make_plan(str(slide), Options())
    return time.perf_counter() - began


def slides(bench: Bench) -> dict[str, Path]:
    """By name: the shared slide, where start-up counts, and the one of 1.7 gigapixels."""
    ordinary = {} if bench.quick else {"ordinary": ordinary_slide(bench, ordinary_pieces(bench)).path}
    return {"TCGA": bench.slide, **ordinary}


def ordinary_slide(bench: Bench, pieces: list[Piece]) -> MadeSlide:
    """40,960 px, a fifth of it tissue."""
    return make_slide(bench.work / "ordinary.tif", pieces, side_px=ORDINARY_PX, seed=3)


def ordinary_pieces(bench: Bench) -> list[Piece]:
    """Those fields of the shared slide with 200 to 400 nuclei per MP."""
    run = segment(bench.slide, bench.work / "density")
    table = bench.work / "density" / f"{bench.slide.stem}.ome.zarr" / "tables" / "nuclei.parquet"
    return pieces_of(bench.slide, _nuclei_a_piece(table, run), ORDINARY_PER_MP)


def _nuclei_a_piece(table: Path, run: SegmentRun) -> Ints:
    shape = -(-run.plan.height_px // PIECE_PX), -(-run.plan.width_px // PIECE_PX)
    columns = pq.read_table(table, columns=["centre_y_px", "centre_x_px"])
    cells = [np.asarray(columns[name]) // PIECE_PX for name in columns.column_names]
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, (cells[0].astype(int), cells[1].astype(int)), 1)
    return counts


def of_runs(part: str, rounds: list[SegmentRun], goal: str = "") -> Iterator[Figure]:
    """Everything that runs of one slide and precision say."""
    nuclei, mp = same_nuclei(rounds), rounds[0].tissue_mp

    def row(what: str, unit: str, value: Callable[[SegmentRun], float], goal: str = "") -> Figure:
        return figure(part, what, unit, [value(run) for run in rounds], goal)

    yield row("wall time, from the command's call to its end", "s", lambda run: run.wall_s)
    yield row("tissue, start-up counted", "MP/s", lambda run: mp / run.wall_s, goal)
    yield row("tissue, stages alone", "MP/s", lambda run: mp / run.stages_s)
    yield row("tissue, stages alone, by their CPU time", "MP/core s", lambda run: mp / run.cpu_s)
    yield row("tissue, start-up counted", "mm2/s", lambda run: run.plan.tissue_mm2 / run.wall_s)
    yield row("nuclei", "1/s", lambda run: nuclei / run.wall_s)
    yield row("nuclei", "per MP", lambda run: nuclei / mp)
    yield row("call to first tile", "s", lambda run: run.first_tile_s, "<= 10")
    yield row("network px per tissue px", "", lambda run: run.network_px_per_tissue_px, "<= 1.35")
    yield row("the network runs on a core or more", "% of wall", lambda r: 100 * r.network_share, ">= 75")
    yield row("suppression", "% of cores", _suppression, "<= 15")
    yield row("written", "MB", lambda run: run.bytes_written / 1e6)
    yield row("peak memory of a worker", "MB", lambda run: run.worker_peak_bytes / 1e6, "<= 2,000")
    yield row(
        "peak memory of the client with the scheduler",
        "MB",
        lambda run: run.client_peak_bytes / 1e6,
        "<= 500",
    )
    for stage in rounds[0].summary["stages"]:
        yield from _stage_rows(part, stage["stage"], rounds)


def _suppression(run: SegmentRun) -> float:
    return 100 * run.suppression_s / (cores() * run.wall_s)


def _stage_rows(part: str, name: str, rounds: list[SegmentRun]) -> Iterator[Figure]:
    stages = [next(s for s in run.summary["stages"] if s["stage"] == name) for run in rounds]
    yield figure(part, f"{name}: busy", "s", [stage["wall_s"] for stage in stages])
    yield figure(part, f"{name}: CPU", "core s", [stage["cpu_s"] for stage in stages])
    for kind in stages[0]["parts_s"]:
        yield figure(
            part, f"{name}: {kind}", "s, all workers", [stage["parts_s"].get(kind, 0.0) for stage in stages]
        )

"""Against the official StarDist: same weights, same tissue, which it gets as float32 in memory.

It gets a field of tissue of ordinary density; we the same field as a slide, and a slide of 40,960 px
with such tissue, glass and all.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from microtome.cpu import InstructionSet, has_fast_bf16, this_instruction_set
from microtome.grid import Window
from microtome.slides import open_slide
from tests.bench.bench_end_to_end import ordinary_pieces, ordinary_slide, precisions
from tests.bench.command import SegmentRun, same_nuclei, segment
from tests.bench.figures import Bench, Figure, figure
from tests.bench.made_slides import make_slide
from tests.bench.peers import call, environment

PACKAGES = ("stardist==0.9.2", "tensorflow-cpu==2.21.0")
PYTHON = "3.11"
SIDE_PX, QUICK_SIDE_PX = 8192, 4096
MOST_DIFFERENT = 0.05
"""Numbers of nuclei agree within this, or something else than the speed differs."""


def figures(bench: Bench) -> Iterator[Figure]:
    """Ours from the command's call to its end, theirs without start and reading; rounds interleaved.

    Fields are compared by their time, the whole slide by its tissue a second.
    """
    python = environment(bench.cache / "official", PYTHON, PACKAGES)
    side_px = QUICK_SIDE_PX if bench.quick else SIDE_PX
    pieces = ordinary_pieces(bench)
    made = make_slide(bench.work / "tissue.tif", pieces, side_px=side_px, tissue_share=1.0)
    slide = None if bench.quick else ordinary_slide(bench, pieces)
    array = bench.work / "tissue.npy"
    with open_slide(str(made.path)) as field:
        np.save(array, field.read(0, Window(0, 0, side_px, side_px)).transpose(1, 2, 0))
    theirs: dict[str, list[list[float]]] = {"f32": []}
    if has_fast_bf16(this_instruction_set()):
        theirs["bf16"] = []
    ours: dict[str, list[SegmentRun]] = {precision: [] for precision in precisions()}
    whole: dict[str, list[SegmentRun]] = {precision: [] for precision in precisions()}
    for _ in range(bench.rounds):
        for option, taken in theirs.items():
            taken.append(_official(python, bench, array, option))
        for precision, runs in ours.items():
            runs.append(segment(made.path, bench.work / "ours", "--precision", precision, "--no-tissue"))
            if slide is not None:
                whole[precision].append(segment(slide.path, bench.work / "ours", "--precision", precision))
    mp = side_px**2 / 1e6
    for option, taken in theirs.items():
        yield figure(
            "official", f"official StarDist, {option}: tissue", "MP/s", [mp / row[0] for row in taken]
        )
    for precision, runs in ours.items():
        yield figure("official", f"ours, {precision}: tissue", "MP/s", [mp / run.wall_s for run in runs])
    if whole.get("int8") and "f32" in whole:
        ratio = [f32.wall_s / int8.wall_s for f32, int8 in zip(whole["f32"], whole["int8"], strict=True)]
        yield figure("official", "a whole slide: our f32 against our int8", "x", ratio, ">= 2.2")
    for (option, taken), (precision, runs) in product(theirs.items(), ours.items()):
        what = f"ours, {precision}, against its {option}"
        theirs_s = [row[0] for row in taken]
        if whole[precision]:
            rates = [run.tissue_mp / run.wall_s for run in whole[precision]]
            ratio = [rate * seconds / mp for rate, seconds in zip(rates, theirs_s, strict=True)]
            yield figure("official", f"{what}, a whole slide", "x", ratio, _goal(option, precision))
        yield from _on_the_field(what, theirs_s, runs)
        nuclei = same_nuclei(runs)
        yield figure("official", f"{what}: nuclei", "x", [nuclei / row[1] for row in taken])
        _check(nuclei, taken[0][1])


def _on_the_field(what: str, theirs_s: list[float], runs: list[SegmentRun]) -> Iterator[Figure]:
    ratio = [seconds / run.wall_s for seconds, run in zip(theirs_s, runs, strict=True)]
    yield figure("official", f"{what}, the field alone", "x", ratio)
    stages = [seconds / run.stages_s for seconds, run in zip(theirs_s, runs, strict=True)]
    yield figure("official", f"{what}, the field alone, our start-up not counted", "x", stages)


def _official(python: Path, bench: Bench, array: Path, option: str) -> list[float]:
    return call(python, "official_run.py", str(bench.data / "models"), str(array), option)


def _goal(option: str, precision: str) -> str:
    with_amx = this_instruction_set() is InstructionSet.AMX
    if precision == "f32" and option == "f32":
        return ">= 2"
    if option == "bf16":
        return ">= 4" if with_amx and precision == "bf16" else ""
    return ">= 8" if with_amx else ">= 5"


def _check(ours: int, theirs: float) -> None:
    if abs(ours - theirs) > MOST_DIFFERENT * theirs:
        raise RuntimeError(f"we find {ours} nuclei where the official package finds {theirs:.0f}")

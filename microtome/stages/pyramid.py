"""pyramid: the levels above those that `chunk` and `stitch` made, three at a time, pixels and labels."""

from typing import Literal

from microtome.cluster import Cluster
from microtome.grid import Grid
from microtome.ngff import TASK_LEVELS, ArraySpec, image_arrays, label_arrays
from microtome.plan import Plan
from microtome.records import StageReport
from microtome.stages import chunk, stitch
from microtome.stages.run import Run
from microtome.stages.sweep import Needs, OnShard, Swept, stage_report, sweep

NAME = "pyramid"
WORK = "microtome.work.pyramid:pyramid_block"

type Kind = Literal["pixels", "labels"]

NEEDED: dict[Kind, tuple[str, ...]] = {"pixels": (chunk.NAME, stitch.NAME), "labels": (stitch.PAINT,)}
"""Pixels wait for `stitch` too: until then the network is needed, which makes way for what comes after it."""


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Levels 4 to 6 from level 3, then 7 to 9 from level 6, as far as the slide has them."""
    sweeps = [_sweep(run, cluster, on_shard, name, base) for name, base in sweeps_of(run.plan).items()]
    return stage_report(NAME, *sweeps)


def _sweep(run: Run, cluster: Cluster, on_shard: OnShard, name: str, base: int) -> Swept:
    """Three levels above `base`; a block's labels as soon as all shards below it are painted."""
    images, labels = image_arrays(run.plan), label_arrays(run.plan)
    block_grid = blocks_of(labels, base)
    blocks: list[tuple[Kind, int]] = [("labels", block.index) for block in block_grid]
    blocks += [("pixels", block.index) for block in blocks_of(images, base)] if images else []
    calls = [(number, base, kind, index) for number, (kind, index) in enumerate(blocks)]

    painted_below: dict[int, list[int]] = {}
    if base == TASK_LEVELS:
        for shard in run.shards_near_tissue():
            block = block_grid.at(shard.row >> base, shard.col >> base)
            painted_below.setdefault(block.index, []).append(shard.index)

    def enough(number: int) -> list[int] | None:
        """None too where no shard is painted: before others are, `infer` needs the network."""
        kind, index = blocks[number]
        return painted_below.get(index) if kind == "labels" else None

    needs = Needs(lambda number: NEEDED[blocks[number][0]], enough)
    return sweep(run, cluster, name, WORK, calls, on_shard, needs=needs)


def sweeps_of(plan: Plan) -> dict[str, int]:
    """The level that each sweep starts from, in their order."""
    return {f"{NAME}.{base + 1}": base for base in range(TASK_LEVELS, plan.levels - 1, TASK_LEVELS)}


def blocks_of(arrays: tuple[ArraySpec, ...], base: int) -> Grid:
    """Level `base` in blocks of a level-0 shard's size, each of which makes a shard of the levels above."""
    height, width = arrays[base].shape[-2:]
    return Grid(height, width, arrays[0].shard_shape[-1])

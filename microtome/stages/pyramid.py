"""pyramid: the levels above those that `chunk` and `stitch` made, three at a time, pixels and labels."""

from typing import Any, Literal

from microtome.cluster import Cluster
from microtome.grid import Grid
from microtome.ngff import TASK_LEVELS, ArraySpec, image_arrays, label_arrays
from microtome.plan import Plan
from microtome.pyramid import halve_labels, halve_pixels
from microtome.records import StageReport
from microtome.shards import decode, keys_in
from microtome.stages.levels import write_levels
from microtome.stages.run import Run, drop_network
from microtome.stages.sweep import OnShard, Tally, stage_report, sweep

NAME = "pyramid"

type Kind = Literal["pixels", "labels"]


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Levels 4 to 6 from level 3, then 7 to 9 from level 6, as far as the slide has them."""
    images, labels = image_arrays(run.plan), label_arrays(run.plan)
    sweeps = []
    for name, base in sweeps_of(run.plan).items():
        blocks: list[tuple[Kind, int]] = [("labels", block.index) for block in blocks_of(labels, base)]
        blocks += [("pixels", block.index) for block in blocks_of(images, base)] if images else []
        calls = [(number, base, kind, index) for number, (kind, index) in enumerate(blocks)]
        sweeps.append(sweep(run, cluster, name, pyramid_block, calls, on_shard))
    return stage_report(NAME, *sweeps)


def sweeps_of(plan: Plan) -> dict[str, int]:
    """The level that each sweep starts from, in their order."""
    return {f"{NAME}.{base + 1}": base for base in range(TASK_LEVELS, plan.levels - 1, TASK_LEVELS)}


def blocks_of(arrays: tuple[ArraySpec, ...], base: int) -> Grid:
    """Level `base` in blocks of a level-0 shard's size, each of which makes a shard of the levels above."""
    height, width = arrays[base].shape[-2:]
    return Grid(height, width, arrays[0].shard_shape[-1])


def pyramid_block(run: Run, number: int, tally: Tally, base: int, kind: Kind, index: int) -> None:
    """A block of level `base`, halved up to three times."""
    drop_network()
    arrays = image_arrays(run.plan) if kind == "pixels" else label_arrays(run.plan)
    block = blocks_of(arrays, base)[index]
    place, above = (block.row, block.col), arrays[base + 1 : base + 1 + TASK_LEVELS]
    tally.pixels = block.window.area_px
    with tally.timed("read"):
        texts = run.store.get_existing(list(keys_in(arrays[base], block.window)))
        finer: Any = decode(arrays[base], block.window, texts)  # Any: pixels or labels, as `kind` says
    if not texts:
        return
    tally.bytes_read = sum(map(len, texts.values()))
    if kind == "pixels":
        write_levels(run, above, place, halve_pixels(finer), halve_pixels, tally)
    else:
        write_levels(run, above, place, halve_labels(finer), halve_labels, tally)

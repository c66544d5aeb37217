"""pyramid: the levels above those that `chunk` and `stitch` made, three at a time, pixels and labels."""

from microtome.cluster import Cluster
from microtome.grid import Grid
from microtome.ngff import TASK_LEVELS, image_arrays, label_arrays
from microtome.pyramid import halve_labels, halve_pixels
from microtome.records import StageReport
from microtome.stages.levels import write_levels
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, Tally, stage_report, sweep

NAME = "pyramid"


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Levels 4 to 6 from level 3, then 7 to 9 from level 6, as far as the slide has them."""
    sweeps = []
    for base in range(TASK_LEVELS, run.plan.levels - 1, TASK_LEVELS):
        calls = [(block.index, base) for block in blocks(run, base)]
        sweeps.append(sweep(run, cluster, f"{NAME}.{base + 1}", pyramid_block, calls, on_shard))
    return stage_report(NAME, *sweeps)


def blocks(run: Run, base: int) -> Grid:
    """Level `base` in blocks of a shard's size, each of which makes a shard of the levels above."""
    height, width = label_arrays(run.plan)[base].shape
    return Grid(height, width, run.plan.shard_px)


def pyramid_block(run: Run, index: int, tally: Tally, base: int) -> None:
    """A block of level `base`, halved up to three times."""
    block = blocks(run, base)[index]
    place = (block.row, block.col)
    tally.pixels = block.window.area_px
    images, labels = image_arrays(run.plan), label_arrays(run.plan)
    above = slice(base + 1, base + 1 + TASK_LEVELS)
    if images:
        with tally.timed("read"):
            pixels = run.store.read_array(images[base], block.window)
        write_levels(run, images[above], place, halve_pixels(pixels), halve_pixels, tally)
    with tally.timed("read"):
        ids = run.store.read_array(labels[base], block.window)
    write_levels(run, labels[above], place, halve_labels(ids), halve_labels, tally)

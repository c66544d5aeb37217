"""chunk: the slide's pixels into level 0 and the three levels above it, shard by shard."""

from microtome.cluster import Cluster
from microtome.ngff import TASK_LEVELS, image_arrays
from microtome.pyramid import halve_pixels
from microtome.records import StageReport
from microtome.stages.levels import write_levels
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, Tally, stage_report, sweep

NAME = "chunk"


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Pixels of every shard that the manifest lacks; of none where the plan keeps no pixels."""
    calls = [(shard.index,) for shard in run.plan.grid] if run.plan.pixels != "none" else []
    return stage_report(NAME, sweep(run, cluster, NAME, chunk_shard, calls, on_shard))


def chunk_shard(run: Run, index: int, tally: Tally) -> None:
    """One shard of the slide, copied and halved three times."""
    shard = run.plan.grid[index]
    known = run.slide.bad_tiles
    with tally.timed("read"):
        pixels = run.slide.read(0, shard.window)
    tally.bad_tiles.update(run.slide.bad_tiles - known)
    tally.pixels = shard.window.area_px
    tally.bytes_read = pixels.nbytes
    specs = image_arrays(run.plan)[: 1 + TASK_LEVELS]
    write_levels(run, specs, (shard.row, shard.col), pixels, halve_pixels, tally)

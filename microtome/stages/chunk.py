"""chunk: the slide's pixels into level 0 and the three levels above it, shard by shard."""

from microtome.cluster import Cluster
from microtome.ngff import image_arrays
from microtome.records import StageReport
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, stage_report, sweep

NAME = "chunk"
WORK = "microtome.work.chunk:chunk_shard"


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Pixels of every shard that the manifest lacks; of none where the plan keeps no pixels."""
    specs = image_arrays(run.plan)
    calls = [(shard.index,) for shard in specs[0].grid] if specs else []

    def cost(index: int) -> float:
        return specs[0].grid[index].window.area_px / 1e6

    return stage_report(NAME, sweep(run, cluster, NAME, WORK, calls, on_shard, cost=cost))

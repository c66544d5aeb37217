"""infer: the network on every tile with tissue; per shard, the candidates that may be nuclei."""

from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, stage_report, sweep

NAME = "infer"
WORK = "microtome.work.infer:infer_shard"
COST = 12.0
"""Of a px of tissue, in px of `chunk`: half of what it takes in int8. So two thirds of the time go to the
network while both run, and hardly ever are all workers at `chunk`; damaged tiles are found soon enough."""


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Candidates of every shard with tissue that the manifest lacks, those with most tissue first."""
    shards = sorted(run.shards_with_tissue(), key=lambda shard: -run.tissue.share_of(shard.window))
    calls = [(shard.index,) for shard in shards]

    def cost(index: int) -> float:
        window = run.plan.grid[index].window
        return COST * run.tissue.share_of(window) * window.area_px / 1e6

    return stage_report(NAME, sweep(run, cluster, NAME, WORK, calls, on_shard, cost=cost))

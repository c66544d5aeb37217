"""The stage `chunk` in Prefect: pixels of the slide, and the levels that a shard alone can make."""

from microtome import stages
from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from tasks.engine import in_prefect, stage_task


@stage_task(stages.chunk.NAME)
def chunk(run: Run, cluster: Cluster) -> StageReport:
    return in_prefect(stages.chunk.run, run, cluster)

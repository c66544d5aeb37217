"""The stage `stitch` in Prefect: one owner for every nucleus, ids, and label images."""

from microtome import stages
from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from tasks.engine import in_prefect, stage_task


@stage_task(stages.stitch.NAME)
def stitch(run: Run, cluster: Cluster) -> StageReport:
    return in_prefect(stages.stitch.run, run, cluster)

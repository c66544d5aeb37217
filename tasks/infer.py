"""The stage `infer` in Prefect: the network on every tile with tissue."""

from microtome import stages
from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from tasks.engine import in_prefect, stage_task


@stage_task(stages.infer.NAME)
def infer(run: Run, cluster: Cluster) -> StageReport:
    return in_prefect(stages.infer.run, run, cluster)

"""The stage `pyramid` in Prefect: the coarser levels of pixels and labels."""

from microtome import stages
from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from tasks.engine import in_prefect, stage_task


@stage_task(stages.pyramid.NAME)
def pyramid(run: Run, cluster: Cluster) -> StageReport:
    return in_prefect(stages.pyramid.run, run, cluster)

"""The stage `export` in Prefect: the table, and outlines for viewers."""

from microtome import stages
from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from tasks.engine import in_prefect, stage_task


@stage_task(stages.export.NAME)
def export(run: Run, cluster: Cluster) -> StageReport:
    return in_prefect(stages.export.run, run, cluster)

"""The stage `publish` in Prefect: the report, and the metadata that makes the result an OME-Zarr."""

from microtome import stages
from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from tasks.engine import in_prefect, stage_task


@stage_task(stages.publish.NAME)
def publish(run: Run, cluster: Cluster) -> StageReport:
    return in_prefect(stages.publish.run, run, cluster)

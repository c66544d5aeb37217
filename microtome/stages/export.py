"""export: the table, and the outlines for QuPath, of all shards in the order of their ids."""

from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, stage_report, sweep

NAME = "export"
WORK = "microtome.work.export:export_file"
TABLE_CALL, FEATURES_CALL = 0, 1


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """The table in one task, the outlines in another."""
    calls = [(TABLE_CALL,), (FEATURES_CALL,)]
    return stage_report(NAME, sweep(run, cluster, NAME, WORK, calls, on_shard))

"""publish: the report, the metadata that makes it an OME-Zarr, and the mark that it is done.

Until then the root has no metadata: no viewer takes a result for one that is half-done.
"""

import shlex
from datetime import UTC, datetime

from microtome.cluster import Cluster
from microtome.cpu import machine_record
from microtome.ngff import metadata
from microtome.plan import Plan
from microtome.records import ShardReport, StageReport, busy_s
from microtome.report import RunFacts, ShardStats, write_report
from microtome.stages.export import nuclei_by_shard
from microtome.stages.run import Run
from microtome.stages.stitch import stats_key
from microtome.stages.sweep import OnShard, Tally, stage_report, sweep

NAME = "publish"
PARTS = "parts"


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """One task; then the parts that shards left for each other go."""
    swept = sweep(run, cluster, NAME, publish_result, [(0,)], on_shard)
    tidy(run)
    return stage_report(NAME, swept)


def tidy(run: Run) -> None:
    """Remove what only an unfinished result needs. Must come after the mark that it is done:
    without its parts, a shard would not count as done."""
    run.store.delete(PARTS)


def publish_result(run: Run, index: int, tally: Tally) -> None:
    """Report first, then metadata, the root's last."""

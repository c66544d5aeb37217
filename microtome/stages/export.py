"""export: of all shards, the table, the outlines for QuPath, and what the report shows."""

from microtome.cluster import Cluster
from microtome.records import StageReport
from microtome.stages import stitch
from microtome.stages.run import Run
from microtome.stages.sweep import Needs, OnShard, stage_report, sweep

NAME = "export"
WORK = "microtome.work.export:export_all"
TABLE_CALL, FEATURES_CALL, PICTURES_CALL = 0, 1, 2
NEEDED = {TABLE_CALL: stitch.NAME, FEATURES_CALL: stitch.PAINT, PICTURES_CALL: stitch.NAME}
"""Nuclei are final before any of them is painted; their outlines are made beside that."""


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """One task each, as soon as what it needs is complete."""
    calls = [(call,) for call in NEEDED]
    needs = Needs(lambda call: [NEEDED[call]])
    return stage_report(NAME, sweep(run, cluster, NAME, WORK, calls, on_shard, needs=needs))

"""stitch: one owner for every nucleus, ids in shard order, label images.

Two sweeps. The first settles what `infer` left open at the seams and finds each shard's own
nuclei, as soon as `infer` has done with the shards around it. Then all counts are known, and so
the first id of every shard: the second paints.
"""

from itertools import accumulate

from microtome.cluster import Cluster
from microtome.grid import Grid
from microtome.records import ShardReport, StageReport
from microtome.stages import infer
from microtome.stages.run import Run
from microtome.stages.sweep import Needs, OnShard, stage_report, sweep

NAME = "stitch"
WORK = "microtome.work.stitch:settle_shard"
PAINT = "stitch.paint"
PAINT_WORK = "microtome.work.stitch:paint_shard"


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Nuclei of every shard that may hold some, then labels of those that do."""
    shards = run.shards_near_tissue()
    with_tissue = {shard.index for shard in run.shards_with_tissue()}

    def inferred_around(index: int) -> set[int]:
        return with_tissue & {near.index for near in run.plan.grid.around(run.plan.grid[index])}

    calls = [(shard.index,) for shard in shards]
    needs = Needs(lambda _: [infer.NAME], inferred_around)
    settled = sweep(run, cluster, NAME, WORK, calls, on_shard, needs=needs)
    first = first_in(run.plan.grid, settled.reports)
    # What is left out has nothing to be painted: whoever waits for it need not.
    cluster.say_done(*((run.ref, PAINT, shard.index) for shard in shards if shard.index not in first))
    # With a cost, for what `export` does beside it has none and so goes first: no part of it can be divided.
    cost_mp = run.plan.shard_px**2 / 1e6
    paint = sweep(run, cluster, PAINT, PAINT_WORK, list(first.items()), on_shard, cost=lambda _: cost_mp)
    return stage_report(NAME, settled, paint)


def first_labels(reports: dict[int, ShardReport]) -> dict[int, int]:
    """The first id of each shard: ids count from 1 through the shards in order."""
    shards = sorted(reports)
    starts = accumulate((reports[shard].nuclei for shard in shards), initial=1)
    return dict(zip(shards, starts, strict=False))


def first_in(grid: Grid, reports: dict[int, ShardReport]) -> dict[int, dict[int, int]]:
    """Of each shard that may not be all background: the first ids of those whose nuclei may have px in it."""
    first = first_labels(reports)
    found: dict[int, dict[int, int]] = {}
    for index in sorted(reports):
        if not reports[index].nuclei:
            continue
        reaches = reports[index].reaches
        if reaches is None:
            reaches = tuple(near.index for near in grid.around(grid[index]))
        for near in {index, *reaches}:
            found.setdefault(near, {})[index] = first[index]
    return {index: found[index] for index in sorted(found)}

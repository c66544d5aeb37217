"""Which shards are painted, and from what: their own nuclei, and those that reach into them."""

from functools import partial

import pytest

from microtome.grid import Grid
from microtome.options import Options
from microtome.plan import make_plan
from microtome.records import ShardReport
from microtome.seams import Crossing
from microtome.stages import STAGES, infer, stitch
from microtome.stages.run import Run
from microtome.stages.sweep import sweep
from microtome.store import ResultStore
from microtome.work import stitch as stitch_work
from tests.pipeline.runs import digests, run_plan


@pytest.fixture(scope="module")
def tcga(tcga_slide, cluster, tmp_path_factory):
    """The plan of a slide of 24 shards, some of them empty, and its result."""
    plan = make_plan(str(tcga_slide), Options(precision="int8", pixels="none"))
    return plan, run_plan(plan, tmp_path_factory.mktemp("tcga") / "slide.ome.zarr", cluster)


def test_a_shard_without_nuclei_leaves_nothing_and_is_not_painted_unless_some_reach_into_it(tcga):
    _, store = tcga
    settled, painted = store.recorded(stitch.NAME), store.recorded(stitch.PAINT)
    empty = {index for index, report in settled.items() if not report.nuclei}
    reached = {near for report in settled.values() for near in report.reaches}
    assert empty
    assert not any(settled[index].keys for index in empty)
    assert set(painted) == (set(settled) - empty) | reached


def test_a_shard_reaches_those_beside_it_and_seldom_those_at_its_corners(tcga):
    plan, store = tcga
    settled = store.recorded(stitch.NAME)
    cornered = 0
    for index, report in settled.items():
        around = {near.index: near for near in plan.grid.around(plan.grid[index])}
        assert set(report.reaches) <= set(around) - {index}
        row, col = plan.grid[index].row, plan.grid[index].col
        cornered += sum(around[near].row != row and around[near].col != col for near in report.reaches)
    pairs = sum(len(report.reaches) for report in settled.values())
    assert 0 < pairs < 5 * len(settled)
    assert cornered < pairs / 4


def report(index, nuclei, reaches):
    return ShardReport(
        stage=stitch.NAME, shard=index, began_s=0, seconds=1, cpu_s=1, nuclei=nuclei, reaches=reaches
    )


def test_ids_begin_where_the_shards_before_end():
    grid = Grid(1024, 1536, 512)
    settled = {0: report(0, 7, (1,)), 1: report(1, 0, ()), 2: report(2, 5, ()), 4: report(4, 1, (1, 5))}
    assert stitch.first_in(grid, settled) == {0: {0: 1}, 1: {0: 1, 4: 13}, 2: {2: 8}, 4: {4: 13}, 5: {4: 13}}


def test_where_a_record_does_not_say_what_is_reached_all_around_may_be():
    settled = {0: report(0, 7, None), 1: report(1, 0, None), 5: report(5, 0, ())}
    assert stitch.first_in(Grid(1024, 1536, 512), settled) == {near: {0: 1} for near in (0, 1, 3, 4)}


def settle_as_before(run, index, tally):
    """As a former version: a part of what crosses for every shard, and no word of what that reaches."""
    stitch_work.settle_shard(run, index, tally)
    if not tally.nuclei:
        return
    shard, (nuclei,) = run.plan.grid[index], stitch_work.read_nuclei(run, [index])
    crossing = Crossing.of(nuclei, shard.window).to_bytes()
    tally.reaches = None
    tally.keys.append(run.store.put(stitch_work.crossing_key(shard), crossing))


def test_what_a_former_version_has_stitched_is_painted_to_the_same_bytes(
    field_plan, undisturbed, cluster, tmp_path
):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    store.put("plan.json", field_plan.to_json())
    run = Run(field_plan, store)
    infer.run(run, cluster, lambda progress: None)
    calls = [(shard.index,) for shard in run.shards_near_tissue()]
    sweep(run, cluster, stitch.NAME, f"{__name__}:settle_as_before", calls, lambda progress: None)
    assert any(report.nuclei and report.reaches is None for report in store.recorded(stitch.NAME).values())
    cluster.at_once([partial(stage.run, run, cluster, lambda progress: None) for stage in STAGES])
    assert digests(store) == digests(undisturbed)

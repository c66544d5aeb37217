"""What a step's stages do beside each other: share the workers, and stop together."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microtome.beside import Beside
from microtome.cluster import Cluster, ClusterSpec, StoppedBeside, connect
from microtome.errors import SlideDamaged
from microtome.ngff import label_arrays
from microtome.options import Options
from microtome.pipeline import finish, prepare
from microtome.plan import make_plan
from microtome.stages import export, pyramid
from microtome.stages.run import Run
from microtome.stages.stitch import PAINT
from microtome.stages.sweep import NOTHING, Needs, Tally, TooEarly, sweep
from microtome.store import ResultStore
from microtome.work import stitch
from tests.damaged import damaged_copy
from tests.pipeline.runs import run_plan

WORKS_S = 0.3
PATIENCE_S = 60


def work(kind, index, folder):
    """A task that leaves a mark when it begins and another when it ends."""
    (Path(folder) / f"{kind}-{index}-began").touch()
    time.sleep(WORKS_S)
    (Path(folder) / f"{kind}-{index}-ended").touch()
    return kind


def marks(folder, which):
    return {path.name.rsplit("-", 1)[0] for path in Path(folder).glob(f"*-{which}")}


def calls_of(kind, folder, number=20):
    return [(kind, index, str(folder)) for index in range(number)]


def test_the_first_error_ends_what_runs_beside_and_nothing_is_written_after_it(cluster, tmp_path):
    reasons = []

    def fail(kind):
        raise ValueError("the first task of all")

    def beside():
        try:
            cluster.fan_out(work, calls_of("long", tmp_path, 40), lambda kind: None, name="long")
        except StoppedBeside as error:
            reasons.append(str(error))
            raise

    with pytest.raises(ValueError, match="the first task of all"):
        cluster.at_once(
            [beside, partial(cluster.fan_out, work, calls_of("short", tmp_path, 3), fail, name="short")]
        )
    assert reasons == ["long was stopped: what ran beside it has failed. What is finished is kept"]
    left = {path.name for path in tmp_path.iterdir()}
    assert marks(tmp_path, "ended") == marks(tmp_path, "began"), "whatever has begun has ended"
    assert len(marks(tmp_path, "began")) < 20, "whatever had not begun never will"
    time.sleep(2 * WORKS_S)
    assert {path.name for path in tmp_path.iterdir()} == left
    cluster.fan_out(work, calls_of("next", tmp_path, 2), lambda kind: None, name="next")
    assert {"next-0", "next-1"} <= marks(tmp_path, "ended"), "the cluster goes on"


def test_what_fans_out_after_the_error_is_stopped_too(cluster, tmp_path):
    def fail():
        raise ValueError("at once")

    def late():
        time.sleep(WORKS_S)
        cluster.fan_out(work, calls_of("late", tmp_path), lambda kind: None, name="late")

    with pytest.raises(ValueError, match="at once"):
        cluster.at_once([fail, late])
    assert len(marks(tmp_path, "began")) <= 2, "no more than the workers took up before they were told"


def test_costs_say_how_the_workers_are_shared(cluster, tmp_path):
    order = []
    cheap = partial(
        cluster.fan_out, work, calls_of("cheap", tmp_path), order.append, name="cheap", costs=[1.0] * 20
    )
    dear = partial(
        cluster.fan_out, work, calls_of("dear", tmp_path, 5), order.append, name="dear", costs=[4.0] * 5
    )
    cluster.at_once([dear, cheap])
    half = order[: len(order) // 2]
    assert 1 <= half.count("dear") <= 4, "four cheap ones to a dear one, from the beginning to the end"
    assert "dear" in order[-6:]


def test_who_came_first_is_served_first(cluster, tmp_path):
    """A slide's last stages do not wait for the long ones of a slide that came later."""
    later = Cluster(cluster.client)
    order = []

    def first():
        cluster.fan_out(work, calls_of("a1", tmp_path, 6), order.append, name="a1")
        cluster.fan_out(work, calls_of("a2", tmp_path, 6), order.append, name="a2")

    second = partial(later.fan_out, work, calls_of("b", tmp_path), order.append, name="b")
    cluster.at_once([first, second])
    assert len(order) == 32
    assert max(index for index, kind in enumerate(order) if kind == "a2") < 20


def test_each_begins_when_the_one_before_it_has_fanned_out(cluster, tmp_path):
    """While they get ready they share one interpreter: the first is to have its tasks at work soon."""
    order = []

    def fan_out(kind):
        time.sleep(WORKS_S)
        order.append(f"{kind} is ready")
        cluster.fan_out(work, calls_of(kind, tmp_path, 6), lambda kind: None, name=kind)
        order.append(f"{kind} has ended")

    def end():
        order.append("ended at once")

    cluster.at_once([partial(fan_out, "first"), end, partial(order.append, "last")])
    assert order == ["first is ready", "ended at once", "last", "first has ended"]


@pytest.fixture(scope="module")
def tcga(tcga_slide, cluster, tmp_path_factory):
    """The plan of a slide of 24 shards, and its result."""
    plan = make_plan(str(tcga_slide), Options(precision="int8"))
    return plan, run_plan(plan, tmp_path_factory.mktemp("tcga") / "slide.ome.zarr", cluster)


def test_infer_begins_before_chunk_has_ended(tcga):
    chunk, infer = (tcga[1].recorded(stage).values() for stage in ("chunk", "infer"))
    first, last = min(report.began_s for report in infer), max(report.began_s for report in chunk)
    assert first < last
    assert len([report for report in chunk if report.began_s < first]) < len(chunk) / 2


def test_a_damaged_slide_is_refused_before_all_of_it_went_through_the_network(tissue, cluster, tmp_path):
    whole, slide = tmp_path / "whole.tif", tmp_path / "damaged.tif"
    tifffile.imwrite(whole, tissue, tile=(256, 256), compression="jpeg", photometric="rgb")
    damaged_copy(whole, slide, 7)
    prepared = prepare(str(slide), str(tmp_path / "out"), Options(mpp=0.25, precision="f32", shard_px=512))
    inferred = []

    def count(progress):
        if progress.stage == "infer" and progress.report is not None:
            inferred.append(progress.report.shard)

    with pytest.raises(SlideDamaged, match="of 30 tiles cannot be decoded"):
        finish(prepared, cluster, count)
    assert len(inferred) < len(prepared.run.shards_with_tissue())
    assert list((tmp_path / "out").iterdir()) == []


def test_what_needs_something_waits_for_that_alone(cluster, tmp_path):
    order = []

    def needed():
        for index in (1, 0):
            cluster.fan_out(work, [("needed", index, str(tmp_path))], order.append, name=f"needed-{index}")
            cluster.say_done(("needed", index))
            until = time.monotonic() + PATIENCE_S
            while f"needing-{index}" not in marks(tmp_path, "began"):
                assert time.monotonic() < until, "it does not begin before all that is needed is done"
                time.sleep(WORKS_S / 10)

    needing = partial(
        cluster.fan_out,
        work,
        [("needing", 0, str(tmp_path)), ("needing", 1, str(tmp_path)), ("free", 0, str(tmp_path))],
        order.append,
        name="needing",
        needs=lambda call: [("needed", call[1])] if call[0] == "needing" else [],
    )
    cluster.at_once([needing, needed])
    assert sorted(order[:2]) == ["free", "needed"]
    for index in (0, 1):
        ended, began = tmp_path / f"needed-{index}-ended", tmp_path / f"needing-{index}-began"
        assert ended.stat().st_mtime < began.stat().st_mtime


def test_what_waits_for_what_has_failed_is_stopped(cluster, tmp_path):
    waiting = partial(
        cluster.fan_out, work, calls_of("never", tmp_path), print, name="never", needs=lambda call: ["it"]
    )

    def fail():
        time.sleep(WORKS_S)
        raise ValueError("before it was done")

    with pytest.raises(ValueError, match="before it was done"):
        cluster.at_once([waiting, fail])
    assert not marks(tmp_path, "began")


@pytest.mark.parametrize("beside", [[], [lambda: None]], ids=["alone", "beside one that ends"])
def test_what_waits_for_nothing_that_will_come_is_an_error_not_a_standstill(cluster, tmp_path, beside):
    waiting = partial(
        cluster.fan_out, work, calls_of("never", tmp_path), print, name="never", needs=lambda call: ["it"]
    )
    with pytest.raises(RuntimeError, match="never waits for what nobody is left to do"):
        cluster.at_once([waiting, *beside])


def test_a_shard_is_stitched_once_those_around_it_are_inferred(tcga):
    plan, store = tcga
    inferred, stitched = store.recorded("infer"), store.recorded("stitch")
    done = {shard: report.began_s + report.seconds for shard, report in inferred.items()}
    for shard, report in stitched.items():
        around = {near.index for near in plan.grid.around(plan.grid[shard])} & set(done)
        assert report.began_s > max((done[near] for near in around), default=0.0)
    assert min(report.began_s for report in stitched.values()) < max(done.values()), "not after all of them"


def too_early_once(run, index, tally, folder):
    """A sweep's work that wants more than its neighbours the first time."""
    mark = Path(folder) / f"{index}-tried"
    if index % 2 and not mark.exists():
        mark.touch()
        raise TooEarly
    assert not index % 2 or run.store.is_closed("first")


def easy(run, index, tally):
    time.sleep(WORKS_S)


EASY = f"{__name__}:easy"


def test_a_shard_for_which_it_was_too_early_is_done_when_the_other_sweep_is_complete(
    field_plan, cluster, tmp_path
):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    store.put("plan.json", field_plan.to_json())
    run = Run(field_plan, store)
    shards = [shard.index for shard in field_plan.grid]
    reports = []
    second = partial(
        sweep,
        run,
        cluster,
        "second",
        f"{__name__}:too_early_once",
        [(shard, str(tmp_path)) for shard in shards],
        reports.append,
        needs=Needs(lambda _: ["first"], lambda shard: [shard]),
    )
    first = partial(sweep, run, cluster, "first", EASY, [(shard,) for shard in shards], lambda progress: None)
    cluster.at_once([second, first])
    assert set(store.recorded("second")) == set(shards)
    assert [progress.done for progress in reports] == list(range(len(shards) + 1))
    assert len(list(tmp_path.glob("*-tried"))) == len(shards) // 2


def test_who_is_let_go_but_not_awake_yet_is_still_waited_for():
    """Of two that wait, the one that has to wait longer may be awake first."""
    for _ in range(200):
        beside = Beside()

        def second(beside=beside):
            beside.wait({"second": ["first thing"]})
            beside.say_done("second thing")

        with beside.at_work(3), ThreadPoolExecutor(2) as threads:
            last = threads.submit(beside.wait, {"last": ["second thing"]})
            threads.submit(second)
            beside.say_done("first thing")
            beside.say_ended()
            assert last.result(timeout=PATIENCE_S)


def first_is_closed(run, index, tally):
    assert run.store.is_closed("first")


def test_a_sweep_that_needs_all_of_another_begins_when_that_is_closed(field_plan, cluster, tmp_path):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    store.put("plan.json", field_plan.to_json())
    run = Run(field_plan, store)
    calls = [(shard.index,) for shard in field_plan.grid]
    first, second = (
        partial(sweep, run, cluster, name, work, calls, lambda progress: None, needs=needs)
        for name, work, needs in (
            ("first", EASY, NOTHING),
            ("second", f"{__name__}:first_is_closed", Needs(lambda _: ["first"])),
        )
    )
    cluster.at_once([second, first])
    assert set(store.recorded("second")) == {shard for (shard,) in calls}


def test_table_and_pictures_are_begun_before_all_shards_are_painted(field_plan, tmp_path):
    """With one worker: what cannot be divided must not be what is left at the end."""
    with connect(ClusterSpec(workers=1)) as cluster:
        store = run_plan(field_plan, tmp_path / "field.ome.zarr", cluster)
    exported, painted = store.recorded(export.NAME), store.recorded(PAINT).values()
    last_painted_s = max(report.began_s for report in painted)
    assert exported[export.TABLE_CALL].began_s < last_painted_s
    assert exported[export.PICTURES_CALL].began_s < last_painted_s
    assert exported[export.FEATURES_CALL].began_s > last_painted_s


def test_a_block_of_labels_is_halved_further_once_the_shards_below_it_are_painted(tissue, tmp_path):
    """With one worker, of a strip with tissue at both ends: two blocks, and one between without any."""
    strip, slide = np.full((512, 3 * 4096, 3), 255, np.uint8), tmp_path / "strip.tif"
    strip[:, :512], strip[:, -3072:] = tissue[:512, :512], np.tile(tissue[:512, :1024], (1, 3, 1))
    tifffile.imwrite(slide, strip, tile=(256, 256), photometric="rgb")
    plan = make_plan(str(slide), Options(mpp=0.25, precision="f32", shard_px=512))
    with connect(ClusterSpec(workers=1)) as cluster:
        store = run_plan(plan, tmp_path / "strip.ome.zarr", cluster)
    (name, base), *_ = pyramid.sweeps_of(plan).items()
    painted, halved = store.recorded(PAINT), store.recorded(name)
    first, between, last = range(len(pyramid.blocks_of(label_arrays(plan), base)))
    began = {
        block: [painted[shard].began_s for shard in painted if shard >> base == block] for block in range(3)
    }
    assert max(began[first]) < halved[first].began_s < max(began[last])
    assert halved[last].began_s > max(began[last])
    assert not began[between]
    assert halved[between].began_s > max(began[last]), "it would take the network from infer"


def test_beyond_its_neighbours_a_shard_is_read_only_when_all_are_inferred(field_plan, tmp_path, monkeypatch):
    """Seams that need more are rare: here, every one does."""
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    run = Run(field_plan, store)
    asked = []

    def widened(read_parts, grid, shard, scale, *, max_overlap):
        read_parts(grid.around(shard))
        asked.append(shard.index)
        raise KeyError(len(read_parts([grid[0]])))

    monkeypatch.setattr(stitch.seams, "settle_shard", widened)
    monkeypatch.setattr(stitch, "_candidates_of", lambda run, shards, tally: [None for _ in shards])
    with pytest.raises(TooEarly):
        stitch.settle_shard(run, 8, Tally())
    store.close_stage("infer", [])
    with pytest.raises(KeyError, match="1"):
        stitch.settle_shard(run, 8, Tally())
    assert asked == [8, 8]

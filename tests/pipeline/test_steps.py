"""What a step's stages do beside each other: share the workers, and stop together."""

import time
from functools import partial
from pathlib import Path

import pytest
import tifffile

from microtome.cluster import Cluster, StoppedBeside
from microtome.errors import SlideDamaged
from microtome.options import Options
from microtome.pipeline import finish, prepare
from microtome.plan import make_plan
from tests.damaged import damaged_copy
from tests.pipeline.runs import run_plan

WORKS_S = 0.3


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


def test_infer_begins_before_chunk_has_ended(tcga_slide, cluster, tmp_path):
    plan = make_plan(str(tcga_slide), Options(precision="int8"))
    store = run_plan(plan, tmp_path / "slide.ome.zarr", cluster)
    chunk, infer = (store.recorded(stage).values() for stage in ("chunk", "infer"))
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

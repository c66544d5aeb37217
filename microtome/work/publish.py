"""publish: the report, and the metadata that makes a result an OME-Zarr."""

import shlex
from datetime import UTC, datetime

from microtome.cpu import machine_record
from microtome.errors import SlideChanged
from microtome.grid import Window
from microtome.model import models_folder
from microtome.ngff import metadata
from microtome.nuclei import Nuclei
from microtome.plan import Plan
from microtome.records import ShardReport, StageReport, busy_s
from microtome.report.page import Sources, write_report
from microtome.report.shard_stats import ShardStats
from microtome.report.summary import RunFacts
from microtome.slides import BadTile, OnBadTile, open_slide
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.store import PLAN, ResultStore
from microtome.work.network import drop_network
from microtome.work.stitch import read_nuclei_parts, stats_key

STAGES = ("chunk", "infer", "stitch", "pyramid", "export", "publish")
"""Order in which the report shows them."""


def publish_result(run: Run, index: int, tally: Tally) -> None:
    """Report first, then metadata, the root's last.

    Raises
    ------
    SlideChanged
        If the slide is not the one that was planned. Nothing is written.
    """
    drop_network()
    plan, store = run.plan, run.store
    reports = _reports(run)
    places = {place for shards in reports.values() for shard in shards for place in shard.bad_tiles}
    bad_tiles = {BadTile(*place) for place in places.union(plan.tissue.bad_tiles)}
    # For its pictures, which also come from levels that nothing else reads, no result is given up.
    with tally.timed("report"), open_slide(plan.slide.uri, on_bad_tile=OnBadTile.BLANK) as slide:
        if slide.identity != plan.slide.identity:
            raise SlideChanged(plan.slide.uri)
        sources = Sources(
            levels=slide.levels, read=slide.read, nuclei_in=lambda window: nuclei_near(run, window)
        )
        texts = store.get_each([stats_key(shard) for shard in run.shards_near_tissue()])
        stats = [ShardStats.from_bytes(text) for text in texts.values()]
        merged, facts = ShardStats.merge(plan, stats), _facts(plan, store, reports)
        summary, keys = write_report(store, plan, merged, facts, sources, bad_tiles)
    tally.keys += keys
    tally.nuclei = summary.nuclei
    with tally.timed("write"):
        tally.keys.append(store.put(PLAN, plan.to_json()))
        tally.keys += [store.put(key, text) for key, text in metadata(plan).items()]


def nuclei_near(run: Run, window: Window) -> Nuclei:
    """Nuclei of every shard that has some whose outline may reach into the window."""
    reach_px = run.plan.shard_px  # no outline is longer than a shard
    near = window.grow(reach_px)
    shards = [shard for shard in run.plan.grid if not shard.window.intersect(near).is_empty]
    return Nuclei.concatenate(read_nuclei_parts(run, shards))


def _reports(run: Run) -> dict[str, list[ShardReport]]:
    """What all shards of all stages reported so far, sweeps under the name of their stage."""
    reports: dict[str, list[ShardReport]] = {}
    for sweep_name in run.store.stages():
        stage = sweep_name.split(".")[0]
        reports.setdefault(stage, []).extend(run.store.recorded(sweep_name).values())
    return reports


def _facts(plan: Plan, store: ResultStore, reports: dict[str, list[ShardReport]]) -> RunFacts:
    everything = [shard for shards in reports.values() for shard in shards]
    stages = (StageReport.of(stage, shards, resumed=0) for stage, shards in reports.items())
    return RunFacts(
        stages=tuple(sorted(stages, key=lambda stage: STAGES.index(stage.stage))),
        wall_s=busy_s(everything),
        machine=machine_record(),
        workers=len({shard.worker for shard in everything}),
        command=command_of(plan, store.uri),
        made_at=datetime.now(UTC),
    )


def command_of(plan: Plan, uri: str) -> str:
    """The command line that makes this result again."""
    is_shipped = plan.model.uri == str(models_folder() / plan.model.name)
    model = plan.model.name if is_shipped else plan.model.uri
    words = ["microtome", "segment", plan.slide.uri, "-o", uri.rsplit("/", 1)[0], "--model", model]
    words += ["--precision", plan.model.precision, "--shard-size", str(plan.shard_px), "--ngff", plan.ngff]
    words += ["--pixels", plan.pixels, "--on-bad-tile", plan.slide.on_bad_tile]
    if plan.slide.mpp_source == "--mpp":
        words += ["--mpp", repr(plan.slide.mpp.x)]
    if plan.tissue.source == "all":
        words.append("--no-tissue")
    elif plan.tissue.source != "found":
        words += ["--tissue", plan.tissue.source]
    return shlex.join(words)

"""publish: the report, and the metadata that makes a result an OME-Zarr."""

import shlex
from datetime import UTC, datetime

from microtome.cpu import machine_record
from microtome.errors import SlideChanged
from microtome.model import models_folder
from microtome.ngff import metadata
from microtome.plan import Plan
from microtome.records import ShardReport, StageReport, busy_s, most_at_once
from microtome.report.page import write_report
from microtome.report.pictures import Pictures
from microtome.report.shard_stats import ShardStats
from microtome.report.summary import RunFacts
from microtome.slides import BadTile, open_slide
from microtome.stages import NAMES
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.store import PLAN, ResultStore
from microtome.work.export import PICTURES, STATS
from microtome.work.network import drop_network


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
    with open_slide(plan.slide.uri) as slide:
        if slide.identity != plan.slide.identity:
            raise SlideChanged(plan.slide.uri)
    with tally.timed("report"):
        texts = store.get_each([STATS, PICTURES])
        stats, pictures = ShardStats.from_bytes(texts[STATS]), Pictures.from_bytes(texts[PICTURES])
        facts = _facts(plan, store, reports)
        summary, keys = write_report(store, plan, stats, facts, pictures, bad_tiles)
    tally.keys += keys
    tally.nuclei = summary.nuclei
    with tally.timed("write"):
        tally.keys.append(store.put(PLAN, plan.to_json()))
        tally.keys += [store.put(key, text) for key, text in metadata(plan).items()]


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
        stages=tuple(sorted(stages, key=lambda stage: NAMES.index(stage.stage))),
        wall_s=busy_s(everything),
        machine=machine_record(),
        workers=most_at_once(everything),
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

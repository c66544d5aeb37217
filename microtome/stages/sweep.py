"""One sweep over shards: what is left to do, fan it out, record each, close.

Every stage is one sweep or a few in a row. What a sweep has done is in its manifest.
"""

import os
import resource
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pkgutil import resolve_name
from typing import Any

from microtome import metrics
from microtome.cluster import Cluster, stop_if_abandoned
from microtome.errors import SlideDamaged
from microtome.records import KeyRecord, ShardReport, StageReport
from microtome.slides import BadTile, BadTiles
from microtome.stages.run import Run, RunRef, open_run


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a sweep stands, for whoever shows it."""

    stage: str
    done: int
    of: int
    pixels: int
    nuclei: int
    resumed: int
    report: ShardReport | None
    """The shard that has just been finished; None at the beginning."""


@dataclass(frozen=True, slots=True)
class Swept:
    """A sweep that is complete."""

    reports: dict[int, ShardReport]
    resumed: int
    """Shards that an earlier run had done."""


type OnShard = Callable[[Progress], None]


@dataclass(slots=True)
class Tally:
    """What one task counts while it works; becomes its `ShardReport`."""

    pixels: int = 0
    tiles: int = 0
    nuclei: int = 0
    candidates: int = 0
    seam_conflicts: int = 0
    is_widened: bool = False
    """Its seam needed more than the eight neighbours."""
    bytes_read: int = 0
    tile_s: list[float] = field(default_factory=list)
    parts_s: dict[str, float] = field(default_factory=dict)
    keys: list[KeyRecord] = field(default_factory=list)
    reaches: tuple[int, ...] | None = None
    """As in `ShardReport`."""
    bad_tiles: set[BadTile] = field(default_factory=set)
    _within_s: float = 0.0
    """Of the innermost block that is being timed: what blocks within it took."""

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the block's seconds to that kind of work, but not those that a block within it counts."""
        began = time.perf_counter()
        around_s, self._within_s = self._within_s, 0.0
        try:
            yield
        finally:
            took_s = time.perf_counter() - began
            self.parts_s[part] = self.parts_s.get(part, 0.0) + took_s - self._within_s
            self._within_s = around_s + took_s

    def timed_each[T](self, part: str, items: Iterator[T]) -> Iterator[T]:
        """The items; to make them is that kind of work."""
        while True:
            with self.timed(part):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


type Work = str
"""`module:function`, imported by workers only: `function(run, shard index, tally, *more)` does one shard and
counts what it did. May raise `TooEarly`."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the shards of a sweep wait for, of others that run beside it."""

    sweeps: Callable[[int], Collection[str]]
    """Those that a shard's work begins after."""
    of: Callable[[int], Collection[int] | None] = lambda _: None
    """The shards of them which are enough; None: all."""


NOTHING = Needs(lambda _: ())


class TooEarly(Exception):
    """A shard needs more of the sweeps that it waits for: once they are complete, it is tried again."""


def sweep(
    run: Run,
    cluster: Cluster,
    name: str,
    work: Work,
    calls: Sequence[tuple[Any, ...]],
    on_shard: OnShard,
    *,
    cost: Callable[[int], float] | None = None,
    needs: Needs = NOTHING,
) -> Swept:
    """Do every call `(shard index, *more)` that the manifest lacks.

    `cost` of a shard is what it takes, in MP of `chunk`: of stages that run at once, each gets its share.

    Raises
    ------
    ClaimLost
        If another run has taken the result over.
    SlideDamaged
        After all shards were tried, if tiles of the slide could not be decoded.
    """
    wanted = {call[0] for call in calls}
    reports = {shard: report for shard, report in run.store.reports(name).items() if shard in wanted}
    resumed = len(reports)
    cluster.say_done(*((run.ref, name, shard) for shard in reports))
    if len(reports) == len(wanted) and run.store.is_closed(name):
        cluster.say_done((run.ref, name))
        return Swept(reports, resumed)
    run.store.reopen_stage(name, reports.values())
    unread: set[BadTile] = set()

    def done(report: ShardReport | None) -> None:
        # Another run has it: what is written from now on would lie among its keys.
        run.claim.check(run.store.uri)
        if report is None:
            return
        unread.update(BadTile(*place) for place in report.bad_tiles)
        reports[report.shard] = report
        if not report.bad_tiles or run.plan.slide.on_bad_tile == "blank":
            cluster.say_done((run.ref, name, report.shard))
        on_shard(_progress(name, len(calls), reports, resumed, report))

    def fan_out(waits_for: Callable[[int], Collection[Hashable]]) -> None:
        left = [call for call in calls if call[0] not in reports]
        prefix = metrics.task_prefix(name, run.plan.model.name, run.plan.model.precision)
        cluster.fan_out(
            do_shard,
            [(run.ref, name, work, *call) for call in left],
            done,
            name=f"{prefix}-{run.ref}",
            costs=[cost(call[0]) for call in left] if cost else (),
            needs=lambda call: waits_for(call[3]),
        )

    def all_needed(shard: int) -> list[Hashable]:
        return [(run.ref, other) for other in needs.sweeps(shard)]

    def needed(shard: int) -> list[Hashable]:
        enough = needs.of(shard)
        if enough is None:
            return all_needed(shard)
        return [(run.ref, other, near) for other in needs.sweeps(shard) for near in enough]

    on_shard(_progress(name, len(calls), reports, resumed, None))
    fan_out(needed)
    fan_out(all_needed)  # what was too early
    if unread and run.plan.slide.on_bad_tile == "fail":
        first = min(unread)
        place = (first.level, first.index, first.y_px, first.x_px)
        raise SlideDamaged(run.plan.slide.uri, len(unread), run.slide.tiles, place)
    if missing := wanted - reports.keys():
        raise RuntimeError(f"{name}: shards {sorted(missing)} were not done")
    run.store.close_stage(name, [reports[index] for index in sorted(reports)])
    cluster.say_done((run.ref, name))
    return Swept(reports, resumed)


def stage_report(stage: str, *sweeps: Swept) -> StageReport:
    """A stage as the sum of its sweeps."""
    return StageReport.of(
        stage,
        [report for swept in sweeps for report in swept.reports.values()],
        resumed=sum(swept.resumed for swept in sweeps),
    )


def do_shard(ref: RunRef, name: str, work: Work, shard: int, *more: Any) -> ShardReport | None:
    """One task, in a worker: do the shard, write its record, count it; None where it is too early."""
    run = open_run(ref)
    model = (run.plan.model.name, run.plan.model.precision)
    tally = Tally()
    began_s, began, cpu = time.time(), time.perf_counter(), time.process_time()
    try:
        with metrics.at_work(name, *model):
            resolve_name(work)(run, shard, tally, *more)
    except TooEarly:
        return None
    except BadTiles as error:
        tally.bad_tiles.update(error.tiles)
    except Exception as error:
        metrics.fail(name, *model, error)
        error.add_note(f"in stage {name}, shard {shard} of {run.plan.slide.uri}")
        raise
    report = ShardReport(
        stage=name,
        shard=shard,
        began_s=began_s,
        seconds=time.perf_counter() - began,
        cpu_s=time.process_time() - cpu,
        pixels=tally.pixels,
        tiles=tally.tiles,
        nuclei=tally.nuclei,
        candidates=tally.candidates,
        seam_conflicts=tally.seam_conflicts,
        bytes_read=tally.bytes_read,
        bytes_written=sum(key.bytes for key in tally.keys),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        worker=f"{os.uname().nodename}:{os.getpid()}",
        tile_s=tuple(tally.tile_s),
        parts_s=tally.parts_s,
        keys=tuple(tally.keys),
        reaches=tally.reaches,
        bad_tiles=tuple(astuple(tile) for tile in sorted(tally.bad_tiles)),
    )
    if not report.bad_tiles or run.plan.slide.on_bad_tile == "blank":
        stop_if_abandoned()
        run.store.put_report(report)
    metrics.observe(report, *model, is_widened=tally.is_widened)
    return report


def _progress(
    name: str, of: int, reports: dict[int, ShardReport], resumed: int, report: ShardReport | None
) -> Progress:
    return Progress(
        stage=name,
        done=len(reports),
        of=of,
        pixels=sum(done.pixels for done in reports.values()),
        nuclei=sum(done.nuclei for done in reports.values()),
        resumed=resumed,
        report=report,
    )

"""What was done, as small records: one a shard while a stage runs, one a stage at its end.

Records carry clocks and hosts, so they go to `manifest/` and `report/` and to nothing that
must be the same bytes on every run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRecord:
    """A key of the store that was written whole."""

    key: str
    bytes: int
    digest: str
    """xxh3-128 of the bytes, hex."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """One Dask task: a shard of a stage."""

    stage: str
    shard: int
    began_s: float
    """Unix time."""
    seconds: float
    cpu_s: float
    pixels: int = 0
    """Pixels that the stage is about: level-0 px read (chunk), network px (infer), px painted."""
    tiles: int = 0
    nuclei: int = 0
    candidates: int = 0
    seam_conflicts: int = 0
    """Nuclei that a more probable one of another shard suppressed."""
    bytes_read: int = 0
    bytes_written: int = 0
    peak_bytes: int = 0
    """Highest resident memory of the worker process so far."""
    worker: str = ""
    tile_s: tuple[float, ...] = ()
    """Seconds of each tile: read, network and decoding."""
    parts_s: dict[str, float] = field(default_factory=dict)
    """Seconds by kind of work: `read`, `network`, `decode`, `suppress`, `encode`, `write`."""
    keys: tuple[KeyRecord, ...] = ()
    reaches: tuple[int, ...] | None = None
    """Shards around it that its nuclei may have px in. None where that was not asked: any of them."""
    bad_tiles: tuple[tuple[int, int, int, int], ...] = ()
    """(level, index, y, x) of tiles of the slide that could not be decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """Quantiles of a duration, seconds."""

    p50_s: float
    p95_s: float
    p99_s: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency | None":
        """Linear-interpolated quantiles; None of nothing."""
        if not seconds:
            return None
        p50, p95, p99 = (float(q) for q in np.quantile(np.asarray(seconds), (0.5, 0.95, 0.99)))
        return cls(p50_s=p50, p95_s=p95, p99_s=p99, count=len(seconds))


@dataclass(frozen=True, kw_only=True, slots=True)
class StageReport:
    """A stage as a whole, summed over its shards (those of an earlier, broken-off run too)."""

    stage: str
    shards: int
    resumed_shards: int
    """Shards that an earlier run had done."""
    wall_s: float
    """Seconds in which at least one shard was being worked on; a pause between two runs does not count."""
    cpu_s: float
    pixels: int
    tiles: int
    nuclei: int
    candidates: int
    seam_conflicts: int
    bytes_read: int
    bytes_written: int
    peak_bytes: int
    shard_s: Latency | None
    tile_s: Latency | None
    parts_s: dict[str, float]

    @classmethod
    def of(cls, stage: str, reports: Sequence[ShardReport], *, resumed: int) -> "StageReport":
        kinds = sorted({kind for report in reports for kind in report.parts_s})
        return cls(
            stage=stage,
            shards=len(reports),
            resumed_shards=resumed,
            wall_s=busy_s(reports),
            cpu_s=sum(report.cpu_s for report in reports),
            pixels=sum(report.pixels for report in reports),
            tiles=sum(report.tiles for report in reports),
            nuclei=sum(report.nuclei for report in reports),
            candidates=sum(report.candidates for report in reports),
            seam_conflicts=sum(report.seam_conflicts for report in reports),
            bytes_read=sum(report.bytes_read for report in reports),
            bytes_written=sum(report.bytes_written for report in reports),
            peak_bytes=max((report.peak_bytes for report in reports), default=0),
            shard_s=Latency.of([report.seconds for report in reports]),
            tile_s=Latency.of([second for report in reports for second in report.tile_s]),
            parts_s={kind: sum(report.parts_s.get(kind, 0.0) for report in reports) for kind in kinds},
        )


def most_at_once(reports: Sequence[ShardReport]) -> int:
    """Workers of a run, however often it was started: shards worked on at the same time, at most."""
    ends = [(report.began_s + report.seconds, -1) for report in reports]
    begins = [(report.began_s, 1) for report in reports]
    return max(accumulate((step for _, step in sorted(ends + begins)), initial=0))


def busy_s(reports: Sequence[ShardReport]) -> float:
    """Length of the union of the times at which the shards were worked on."""
    total, until = 0.0, float("-inf")
    for began_s, ended_s in sorted((report.began_s, report.began_s + report.seconds) for report in reports):
        total += max(0.0, ended_s - max(began_s, until))
        until = max(until, ended_s)
    return total

"""The numbers of a run as one record: `report/summary.json`, and what `segment --json` prints."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter

from microtome.arrays import Doubles, Ints
from microtome.cpu import Machine
from microtome.plan import Plan
from microtome.records import Latency, StageReport
from microtome.report.distrust import Caution
from microtome.report.shard_stats import AREA_EDGES_UM2, PROB_EDGES, ShardStats, quantiles
from microtome.slides.base import Mpp
from microtome.store import ResultStore

SUMMARY_KEY = "report/summary.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quartiles:
    """Of a distribution that was counted in bins; exact to a bin's width."""

    p25: float
    p50: float
    p75: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Counts in equal bins."""

    start: float
    bin_width: float
    counts: tuple[int, ...]
    """The last one holds all that is larger too."""
    quartiles: Quartiles | None
    """None where nothing was counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSummary:
    """A stage with its rates; None where the stage does nothing of the kind."""

    stage: str
    shards: int
    resumed_shards: int
    wall_s: float
    cpu_s: float
    mp_s: float | None
    tiles_s: float | None
    nuclei_s: float | None
    mb_s: float | None
    """10**6 bytes read and written."""
    shard_s: Latency | None
    tile_s: Latency | None
    peak_bytes: int
    parts_s: dict[str, float]

    @classmethod
    def of(cls, report: StageReport) -> "StageSummary":
        def rate(amount: float) -> float | None:
            return amount / report.wall_s if amount and report.wall_s > 0 else None

        return cls(
            stage=report.stage,
            shards=report.shards,
            resumed_shards=report.resumed_shards,
            wall_s=report.wall_s,
            cpu_s=report.cpu_s,
            mp_s=rate(report.pixels / 1e6),
            tiles_s=rate(report.tiles),
            nuclei_s=rate(report.nuclei),
            mb_s=rate((report.bytes_read + report.bytes_written) / 1e6),
            shard_s=report.shard_s,
            tile_s=report.tile_s,
            peak_bytes=report.peak_bytes,
            parts_s=report.parts_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What is known only once a run has been made: by whom, when, how fast."""

    stages: tuple[StageReport, ...]
    wall_s: float
    """In which at least one worker was at work on a shard; pauses between two starts do not count."""
    machine: Machine
    workers: int
    """At work at the same time, at most."""
    command: str
    """That makes the result again."""
    made_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A result in numbers."""

    slide: str
    slide_format: str
    slide_reader: str
    slide_identity: str
    height_px: int
    width_px: int
    mpp: Mpp
    mpp_source: str
    nuclei: int
    tissue_mm2: float
    tissue_share: float
    """Of the slide's area, 0..1."""
    nuclei_per_mm2: float
    """Of tissue; 0 where there is none."""
    median_area_um2: float | None
    area_um2: Histogram
    probability: Histogram
    stages: tuple[StageSummary, ...]
    wall_s: float
    tissue_mp_s: float
    """Tissue's level-0 px a second, end to end."""
    tissue_mm2_s: float
    machine: Machine
    workers: int
    model: str
    model_version: str
    model_digest: str
    precision: str
    precision_reason: str
    pixels: str
    """What the result keeps of the slide's pixels and why."""
    plan_fingerprint: str
    microtome_version: str
    command: str
    cautions: tuple[Caution, ...]
    made_at: datetime


_SUMMARIES: TypeAdapter[Summary] = TypeAdapter(Summary)


def summarise(plan: Plan, stats: ShardStats, facts: RunFacts, cautions: Sequence[Caution]) -> Summary:
    """All numbers of a run, from its merged statistics and its stages."""
    tissue_mm2 = plan.tissue_mm2
    area = _histogram(stats.area, AREA_EDGES_UM2)
    wall_s = max(facts.wall_s, 1e-9)
    return Summary(
        slide=plan.slide.name,
        slide_format=plan.slide.format,
        slide_reader=plan.slide.reader,
        slide_identity=plan.slide.identity,
        height_px=plan.height_px,
        width_px=plan.width_px,
        mpp=plan.slide.mpp,
        mpp_source=plan.slide.mpp_source,
        nuclei=stats.nuclei,
        tissue_mm2=tissue_mm2,
        tissue_share=plan.tissue.area_px / (plan.height_px * plan.width_px),
        nuclei_per_mm2=stats.nuclei / tissue_mm2 if tissue_mm2 else 0.0,
        median_area_um2=area.quartiles.p50 if area.quartiles else None,
        area_um2=area,
        probability=_histogram(stats.prob, PROB_EDGES),
        stages=tuple(StageSummary.of(report) for report in facts.stages),
        wall_s=facts.wall_s,
        tissue_mp_s=plan.tissue.area_px / 1e6 / wall_s,
        tissue_mm2_s=tissue_mm2 / wall_s,
        machine=facts.machine,
        workers=facts.workers,
        model=plan.model.name,
        model_version=plan.model.version,
        model_digest=plan.model.digest,
        precision=plan.model.precision,
        precision_reason=plan.model.why_precision,
        pixels=plan.pixels_in_words,
        plan_fingerprint=plan.fingerprint,
        microtome_version=plan.version,
        command=facts.command,
        cautions=tuple(cautions),
        made_at=facts.made_at,
    )


def summary_json(summary: Summary) -> bytes:
    return _SUMMARIES.dump_json(summary, indent=1)


def read_summary(store: ResultStore) -> Summary:
    """The summary of a finished result.

    Raises
    ------
    FileNotFoundError
        If the result has no report (yet).
    """
    return _SUMMARIES.validate_json(store.get(SUMMARY_KEY))


def _histogram(counts: Ints, edges: Doubles) -> Histogram:
    found = quantiles(counts, edges, (0.25, 0.5, 0.75))
    return Histogram(
        start=float(edges[0]),
        bin_width=float(edges[1] - edges[0]),
        counts=tuple(counts.tolist()),
        quartiles=Quartiles(p25=found[0], p50=found[1], p75=found[2]) if found else None,
    )

"""The Prometheus metrics, all in one place, in the default registry.

Workers count what they do as they do it, so a Dask worker's `/metrics` shows a run while it
runs. Every series carries the model and its precision, so that two models side by side in one
cluster are told apart. No label has more than a few values: slides and runs are none of them.
docs/metrics.md says what each is for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from microtome.records import ShardReport

LABELS = ("stage", "model", "precision")
TILED = "infer"
"""The stage that works tile by tile."""
SECONDS = (
    *(0.025, 0.04, 0.063, 0.1, 0.16, 0.25, 0.4, 0.63, 1, 1.6, 2.5, 4, 6.3),
    *(10, 16, 25, 40, 63, 100, 160, 250, 400),
)
"""Each 1.6 times the one before, so that a quantile read between two of them is some 25 % off at most."""

shard_seconds = Histogram(
    "microtome_shard_seconds", "Seconds that one shard of a stage took.", LABELS, buckets=SECONDS
)
tile_seconds = Histogram(
    "microtome_tile_seconds", "Seconds from reading a tile to its candidates.", LABELS, buckets=SECONDS
)
cpu_seconds = Counter("microtome_cpu_seconds", "Core-seconds spent, by stage.", LABELS)
pixels = Counter("microtome_pixels", "Pixels done, by stage.", LABELS)
tiles = Counter("microtome_tiles", "Tiles that the network saw.", LABELS)
nuclei = Counter("microtome_nuclei", "Nuclei, by the stage that settled them.", LABELS)
bytes_read = Counter("microtome_bytes_read", "Bytes of pixels and parts read, uncompressed.", LABELS)
bytes_written = Counter("microtome_bytes_written", "Bytes written to the result.", LABELS)
seam_conflicts = Counter(
    "microtome_seam_conflicts", "Nuclei that gave way to a more probable one across a seam.", LABELS
)
seam_violations = Counter(
    "microtome_seam_violations",
    "Shards whose seam needed more than their eight neighbours to be settled.",
    LABELS,
)
failures = Counter("microtome_failures", "Shards that failed, by class of the error.", (*LABELS, "reason"))
running = Gauge("microtome_shards_running", "Shards being worked on.", LABELS)

COUNTERS = (cpu_seconds, pixels, tiles, nuclei, bytes_read, bytes_written, seam_conflicts, seam_violations)


@contextmanager
def at_work(stage: str, model: str, precision: str) -> Iterator[None]:
    """Around the work on a shard: show that it goes on."""
    labels = (stage_of(stage), model, precision)
    # Prometheus takes no increase from a series' first value: every series is there, as 0, before it counts.
    for metric in (*COUNTERS, shard_seconds, *((tile_seconds,) if stage == TILED else ())):
        metric.labels(*labels)
    with running.labels(*labels).track_inprogress():
        yield


def fail(stage: str, model: str, precision: str, error: Exception) -> None:
    """Count a shard that failed."""
    failures.labels(stage_of(stage), model, precision, type(error).__name__).inc()


def observe(report: ShardReport, model: str, precision: str, *, is_widened: bool = False) -> None:
    """Count one finished shard; widened is one whose seam needed more than its eight neighbours."""
    labels = (stage_of(report.stage), model, precision)
    shard_seconds.labels(*labels).observe(report.seconds)
    for seconds in report.tile_s:
        tile_seconds.labels(*labels).observe(seconds)
    for counter, amount in (
        (cpu_seconds, report.cpu_s),
        (pixels, report.pixels),
        (tiles, report.tiles),
        (nuclei, report.nuclei),
        (bytes_read, report.bytes_read),
        (bytes_written, report.bytes_written),
        (seam_conflicts, report.seam_conflicts),
        (seam_violations, is_widened),
    ):
        counter.labels(*labels).inc(amount)


def stage_of(sweep: str) -> str:
    """The stage that a sweep is part of: `pyramid` of `pyramid.3`."""
    return sweep.partition(".")[0]


def task_prefix(sweep: str, model: str, precision: str) -> str:
    """What the keys of a sweep's tasks begin with: Dask divides its own metrics by it.

    A prefix ends at the first hyphen, so hyphens in a name become `~`; the rules turn them back.
    """
    return "|".join(part.replace("-", "~") for part in (sweep, model, precision))

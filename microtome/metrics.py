"""The Prometheus metrics, all in one place, in the default registry.

Workers count what they do as they do it, so a Dask worker's `/metrics` shows a run while it
runs. Every series carries the model and its precision, so that two models side by side in one
cluster are told apart.
"""

from prometheus_client import Counter, Histogram

from microtome.records import ShardReport

LABELS = ("stage", "model", "precision")
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

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
failures = Counter("microtome_failures", "Shards that failed, by reason.", ("stage", "reason"))


def observe(report: ShardReport, model: str, precision: str) -> None:
    """Count one finished shard."""
    labels = (report.stage, model, precision)
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
    ):
        counter.labels(*labels).inc(amount)

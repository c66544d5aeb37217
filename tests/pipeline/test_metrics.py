"""A worker shows on its /metrics what it has done, while the run goes on."""

import re
import urllib.request

import pytest
from dask.utils import key_split
from prometheus_client import REGISTRY

from microtome.metrics import task_prefix
from microtome.stages.run import Run
from microtome.stages.sweep import do_shard
from microtome.store import ResultStore
from tests.pipeline.runs import run_plan


def scrape(cluster) -> str:
    """/metrics of every worker, joined."""
    client = cluster.client
    # Not client.scheduler_info(): the client's own refresh, which names no workers, can come in between.
    workers = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    pages = []
    for address, worker in workers.items():
        host = re.search(r"//(.+):", address).group(1)
        url = f"http://{host}:{worker['services']['dashboard']}/metrics"
        with urllib.request.urlopen(url) as answer:
            pages.append(answer.read().decode())
    return "\n".join(pages)


def total(page: str, metric: str, stage: str) -> float:
    """Sum of a metric over all workers, for one stage."""
    lines = re.findall(rf'^{metric}{{[^}}]*stage="{stage}"[^}}]*}} (\S+)$', page, re.MULTILINE)
    return sum(map(float, lines))


def test_workers_count_shards_pixels_tiles_nuclei_and_bytes_by_stage(field_plan, cluster, tmp_path):
    before = scrape(cluster)
    store = run_plan(field_plan, tmp_path / "field.ome.zarr", cluster)
    after = scrape(cluster)

    def counted(metric, stage):
        return total(after, metric, stage) - total(before, metric, stage)

    infer, stitch = store.recorded("infer").values(), store.recorded("stitch").values()
    assert counted("microtome_shard_seconds_count", "infer") == len(infer)
    assert counted("microtome_tile_seconds_count", "infer") == sum(shard.tiles for shard in infer)
    assert counted("microtome_pixels_total", "infer") == sum(shard.pixels for shard in infer)
    assert counted("microtome_nuclei_total", "stitch") == sum(shard.nuclei for shard in stitch) > 500
    assert counted("microtome_bytes_written_total", "chunk") > 1_000_000
    assert re.search(r'microtome_pixels_total{model="he-nuclei",precision="f32",stage="infer"}', after)


def test_the_sweeps_of_a_stage_are_one_stage(field_plan, cluster, tmp_path):
    run_plan(field_plan, tmp_path / "field.ome.zarr", cluster)
    stages = set(
        re.findall(r'^microtome_shard_seconds_count{.*stage="([^"]+)"', scrape(cluster), re.MULTILINE)
    )
    # The field is too small for the pyramid's own sweeps; another test on this cluster may have had some.
    assert stages | {"pyramid"} == {"chunk", "infer", "stitch", "pyramid", "export", "publish"}


LABELS = {"stage": "stitch", "model": "he-nuclei", "precision": "f32"}


def full(run, shard, tally):
    """A sweep's work for which there is no room."""
    assert REGISTRY.get_sample_value("microtome_shards_running", LABELS) == 1
    raise OSError("no space left on device")


def test_a_shard_that_fails_is_counted_with_its_reason_model_and_precision(field_plan, tmp_path):
    store = ResultStore(str(tmp_path / "field.ome.zarr"))
    store.put("plan.json", field_plan.to_json())

    with pytest.raises(OSError, match="no space"):
        do_shard(Run(field_plan, store).ref, "stitch.paint", f"{__name__}:full", 0)
    assert REGISTRY.get_sample_value("microtome_failures_total", LABELS | {"reason": "OSError"}) == 1
    assert REGISTRY.get_sample_value("microtome_shards_running", LABELS) == 0


def test_dask_divides_its_own_metrics_by_stage_model_and_precision():
    prefix = task_prefix("stitch.paint", "he-nuclei-1.2", "int8")
    assert prefix == "stitch.paint|he~nuclei~1.2|int8"
    assert key_split(f"{prefix}-0a1b2c-(RunRef('s3://results/a-b.ome.zarr'), 17)") == prefix

"""A worker shows on its /metrics what it has done, while the run goes on."""

import re
import urllib.request

from tests.pipeline.runs import run_plan


def scrape(cluster) -> str:
    """/metrics of every worker, joined."""
    workers = cluster.client.scheduler_info(n_workers=-1)["workers"]
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

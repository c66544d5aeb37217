"""Slides from bucket to bucket through pods: the bytes of bare processes, whatever dies on the way."""

import threading
import time

import boto3
import pytest

from microtome.store import ResultStore
from microtome.testing import verify_result
from tests.k8s.conftest import BRIDGE
from tests.k8s.installation import wait_until
from tests.pipeline.runs import digests
from tests.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server, find_versitygw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def equal_bytes(found: dict[str, str], bare: dict[str, str]) -> bool:
    """Whether arrays, metadata and tables are the same. The plan names the slide by where it lies."""
    return {k: v for k, v in found.items() if k != "plan.json"} == {
        k: v for k, v in bare.items() if k != "plan.json"
    }


class Watch:
    """The most workers at once, and when the first shard was done, while a block goes on."""

    def __init__(self, installed, result: str) -> None:
        self._installed, self._store, self._ended = installed, ResultStore(result), threading.Event()
        self.most, self.most_s, self.first_shard_s = 0, None, None
        self._thread = threading.Thread(target=self._look)

    def _look(self):
        while not self._ended.wait(1):
            if (workers := len(self._installed.pods("dask-worker"))) > self.most:
                self.most, self.most_s = workers, time.time()
            if self.first_shard_s is None and self._store.recorded("infer"):
                self.first_shard_s = time.time()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()


@pytest.fixture
def uploads(installed, store, shared_data):
    """A client of a second gateway to the same buckets, which tells the intake of every change."""
    webhook = f"http://vgw:{installed.token()}@{installed.intake.removeprefix('http://')}/events"
    with S3Server(find_versitygw(shared_data), store.folder, webhook, host=BRIDGE) as gateway:
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        client = boto3.client("s3", endpoint_url=gateway.endpoint, region_name=REGION, **keys)
        yield client
        client.close()


def test_an_upload_becomes_a_result_with_the_bytes_of_bare_processes(
    installed, uploads, store, tcga_slide, bare, figures
):
    began_s = time.time()
    uploads.put_object(Bucket="slides", Key=f"in/{tcga_slide.name}", Body=tcga_slide.read_bytes())
    run = wait_until(lambda: next(iter(installed.runs_of(f"in/{tcga_slide.name}")), None), 60, "a run")
    output = run["parameters"]["output"]
    result = f"{output}/{tcga_slide.stem}.ome.zarr"
    with Watch(installed, result) as watch:
        wait_until(lambda: watch.first_shard_s, 120, "the first shard")
        with store.silent():  # else the run could end between two looks at what the cluster has to do
            wait_until(lambda: True if watch.most == 2 else None, 120, "workers to grow")
        state = installed.ended(run["id"])

    assert state["type"] == "COMPLETED", state
    # Prefect knows of the end before Kubernetes does.
    wait_until(lambda: True if installed.succeeded(run["id"]) == [1] else None, 60, "its one Job to succeed")
    assert verify_result(result).ok
    assert equal_bytes(digests(ResultStore(result)), bare)
    figures.append(f"upload to first shard, workers warm: {watch.first_shard_s - began_s:.0f} s (goal 20)")
    figures.append(f"upload to the most workers, {watch.most}: {watch.most_s - began_s:.0f} s")


def test_idle_workers_go(installed, figures):
    def few():
        workers = installed.pods("dask-worker")
        return workers if len(workers) < 2 else None

    began_s = time.monotonic()
    assert len(wait_until(few, 120, "workers to go")) == 1, "dask.minimum stays"
    figures.append(f"back to one worker, after the run: {time.monotonic() - began_s:.0f} s")


def test_workers_scheduler_and_flow_killed_in_one_run_change_no_byte(
    installed, slide, tcga_slide, bare, figures
):
    result = f"s3://results/killed/{tcga_slide.stem}.ome.zarr"
    run = installed.submit(slide, "s3://results/killed")
    store = ResultStore(result)

    def shards(least):
        def done():
            found = store.recorded("infer")
            return found if len(found) >= least else None

        return wait_until(done, 240, f"{least} shards", every_s=0.1)

    again = 0
    seen = shards(1)
    for part in ("dask-worker", "dask-scheduler", "run"):
        for pod in installed.pods(part)[:1]:
            installed.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        after = shards(min(len(seen) + 1, 20))
        again += sum(after[shard] != seen[shard] for shard in seen)
        seen = after

    state = installed.ended(run, 400)
    assert state["type"] == "COMPLETED", state
    final = store.recorded("infer")
    again += sum(final[shard] != seen[shard] for shard in seen)
    # Done, but not yet known to whoever died: one a death at most.
    assert again <= 3
    assert verify_result(result).ok
    assert equal_bytes(digests(store), bare)
    figures.append(f"killed worker, scheduler and flow: {again} of {len(final)} finished shards ran again")

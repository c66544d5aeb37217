"""`dask.mode=per-run`: a Dask cluster for each run, sized by its plan, gone with it however it ends."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from microtome.store import ResultStore
from tests.k8s.installation import FINAL, wait_until
from tests.k8s.test_access import NEVER, OF_A_RUN_PER_RUN, OF_THE_WORKER, allowed
from tests.k8s.test_runs import equal_bytes
from tests.pipeline.runs import digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLUSTERS = "daskclusters.kubernetes.dask.org"
IDLE_S = 300


@pytest.fixture(scope="module")
def per_run(installed):
    revision = installed.revision()
    installed.helm("upgrade", "dask.mode=per-run", f"dask.idleSeconds={IDLE_S}")
    yield installed
    installed.run("helm", "rollback", installed.release, revision, "--wait", "--timeout=300s")


@pytest.fixture
def small_slide(store, cmu_slide):
    """Four shards at most: work for one worker."""
    folder = store.folder / "slides" / "per-run"
    folder.mkdir(exist_ok=True)
    (folder / cmu_slide.name).write_bytes(cmu_slide.read_bytes())
    return f"s3://slides/per-run/{cmu_slide.name}"


def cluster_of(installed, run):
    """The cluster of a run, while it is there."""
    return next(
        (one for one in installed.get(CLUSTERS) if one["metadata"]["name"] == f"microtome-{run[:8]}"), None
    )


def made(installed, run):
    """The cluster of a run, as soon as it is asked for."""
    return wait_until(lambda: cluster_of(installed, run), 120, "a cluster", every_s=0.2)


def removed(installed, run, within_s):
    """Wait until the cluster of a run is gone or going: the operator takes up to a minute to take it down."""

    def going():
        cluster = cluster_of(installed, run)
        return True if cluster is None or "deletionTimestamp" in cluster["metadata"] else None

    wait_until(going, within_s, "the cluster to be removed")


def nothing_left(installed, run):
    """Wait until of the cluster of a run there is not even a pod."""

    def left():
        pods = installed.get("pods", f"dask.org/cluster-name=microtome-{run[:8]}")
        return True if cluster_of(installed, run) is None and not pods else None

    wait_until(left, 120, "the cluster to go")


def kill_outright(installed, part):
    """SIGKILL to every process of a part's pod, as when memory runs out or a node goes: nothing can be said.

    Kubernetes tells even a pod that is deleted by force, two seconds before.
    """
    (name,) = installed.pods(part)
    (pod,) = [one for one in installed.get("pods") if one["metadata"]["name"] == name]
    (container,) = pod["status"]["containerStatuses"]
    _, _, container_id = container["containerID"].partition("//")
    killed = 0
    for group in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if container_id in group.read_text():
                os.kill(int(group.parent.name), signal.SIGKILL)
                killed += 1
    assert killed, "the node is not this machine"


def test_a_run_may_make_and_remove_a_dask_cluster_and_nothing_else(per_run):
    assert allowed(per_run, "run", NEVER + OF_THE_WORKER + OF_A_RUN_PER_RUN) == list(OF_A_RUN_PER_RUN)
    assert allowed(per_run, "run", OF_A_RUN_PER_RUN, namespace="default") == []
    assert allowed(per_run, "dask-worker", OF_A_RUN_PER_RUN) == []


def test_a_run_whose_pod_dies_goes_on_with_its_cluster_which_ends_with_the_run(
    per_run, slide, tcga_slide, bare, figures
):
    result = ResultStore(f"s3://results/per-run/{tcga_slide.stem}.ome.zarr")
    run = per_run.submit(slide, "s3://results/per-run")
    cluster = made(per_run, run)
    assert cluster["spec"]["worker"]["replicas"] == 2, "20 shards are work for more than the maximum of 2"
    names = [one["metadata"]["name"] for one in per_run.get(CLUSTERS)]
    assert names == [cluster["metadata"]["name"]], "a cluster beside that of the run"

    asked_s = time.monotonic()
    wait_until(lambda: result.recorded("chunk") or None, 240, "a shard", every_s=0.1)
    figures.append(f"own cluster, asked for to first shard: {time.monotonic() - asked_s:.0f} s")
    wait_until(lambda: result.recorded("infer") or None, 240, "a shard of the network", every_s=0.1)
    kill_outright(per_run, "run")
    seen = set()

    def ended():
        seen.update(one["metadata"]["uid"] for one in per_run.get(CLUSTERS))
        state = per_run.state(run)
        return state if state["type"] in FINAL else None

    state = wait_until(ended, 400, run)
    assert state["type"] == "COMPLETED", state
    assert seen == {cluster["metadata"]["uid"]}, "another cluster was made"
    done_by = {report.worker for report in result.recorded("infer").values()}
    assert all(worker.startswith(cluster["metadata"]["name"]) for worker in done_by), done_by
    assert equal_bytes(digests(result), bare)
    removed(per_run, run, 10)
    nothing_left(per_run, run)


@pytest.mark.fault
def test_the_cluster_of_a_cancelled_run_goes(per_run, small_slide):
    run = per_run.submit(small_slide, "s3://results/per-run-cancelled")
    assert made(per_run, run)["spec"]["worker"]["replicas"] == 1
    per_run.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    # Before it could be idle for long enough.
    removed(per_run, run, 60)
    assert per_run.ended(run, 60)["type"] == "CANCELLED"


@pytest.mark.fault
def test_the_cluster_of_a_run_whose_pod_dies_for_good_goes_when_it_is_idle(per_run, small_slide):
    run = per_run.submit(small_slide, "s3://results/per-run-died")
    cluster = made(per_run, run)
    assert cluster["spec"]["idleTimeout"] == IDLE_S
    (job,) = per_run.get("jobs", f"prefect.io/flow-run-id={run}")
    per_run.kubectl("patch", "job", job["metadata"]["name"], "--patch", '{"spec": {"backoffLimit": 0}}')
    kill_outright(per_run, "run")
    wait_until(lambda: True if not per_run.pods("run") else None, 60, "the pod to be gone")
    found = cluster_of(per_run, run)
    assert "deletionTimestamp" not in found["metadata"], "something else removes it"
    # Not five minutes in a test.
    patch = ("--type=merge", "--patch", '{"spec": {"idleTimeout": 15}}')
    per_run.kubectl("patch", CLUSTERS, found["metadata"]["name"], *patch)
    removed(per_run, run, 120)
    assert per_run.succeeded(run) == [0]
    # Prefect does not know yet: its slot is for the next run.
    per_run.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CRASHED"}, "force": True})

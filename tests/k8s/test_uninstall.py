"""Removed and installed again: what runs and results there were is still there.

It leaves the installation as it found it, but makes it anew.
"""

import pytest

from microtome.store import ResultStore
from microtome.testing import verify_result
from tests.k8s.installation import wait_until
from tests.pipeline.runs import digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TESTED = "s3://results/helm-test/field.ome.zarr"
"""What `helm test` leaves."""


def clusters(installed):
    """Names of Dask clusters and of their autoscalers, which go a little later."""
    kinds = ("daskclusters.kubernetes.dask.org", "daskautoscalers.kubernetes.dask.org")
    return {one["metadata"]["name"] for kind in kinds for one in installed.get(kind)}


def begun(installed):
    """Runs that began; those that are only planned are planned anew at every install."""
    return {run["id"] for run in installed.runs() if run["start_time"]}


def test_helm_test_sends_a_slide_the_whole_way(installed):
    installed.run("helm", "test", installed.release, "--timeout=300s")
    assert verify_result(TESTED).faults == ()


def test_removed_and_installed_again_runs_and_results_are_there(installed):
    runs, result = begun(installed), ResultStore(TESTED)
    before = digests(result)
    assert runs
    assert before
    installed.run("helm", "uninstall", installed.release, "--wait", "--timeout=120s")
    wait_until(lambda: True if not clusters(installed) else None, 120, "the Dask cluster to go")
    installed.helm("install")
    assert begun(installed) >= runs
    assert digests(result) == before


def test_slides_and_results_may_lie_on_a_claim_that_all_pods_share(installed):
    """As in the example for one node. The last test of all: the buckets are not used any more."""
    settings = ("storage.claim.enabled=true", "storage.claim.size=1Gi", "storage.sources={/slides/in}")
    installed.helm("upgrade", *settings, "storage.output=/slides/results")
    (claim,) = [one for one in installed.get("pvc") if one["spec"]["accessModes"] == ["ReadWriteMany"]]
    assert claim["status"]["phase"] == "Bound"
    installed.run("helm", "test", installed.release, "--timeout=300s")
    said = installed.kubectl("logs", "microtome-test")
    assert "/slides/results/helm-test/field.ome.zarr: verified" in said

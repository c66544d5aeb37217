"""Upgrade in the middle of a run, and roll back in the middle of it: the run ends with the same bytes."""

import pytest

from microtome.store import ResultStore
from microtome.testing import verify_result
from tests.k8s.installation import wait_until
from tests.k8s.test_runs import equal_bytes
from tests.k8s.test_uninstall import clusters
from tests.pipeline.runs import digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


ONE_WORKER = ("dask.maximum=1", "dask.worker.resources.requests.cpu=250m")


def the_only_cluster(installed):
    """Its name, once what was replaced is removed."""
    found = wait_until(lambda: names if len(names := clusters(installed)) == 1 else None, 120, "one cluster")
    return next(iter(found))


def done_by(result):
    """Names of the Dask clusters whose workers did the shards of the network."""
    return {report.worker.partition("-default-worker")[0] for report in result.recorded("infer").values()}


def test_a_run_survives_an_upgrade_and_a_rollback_which_replace_prefects_server_and_the_dask_cluster(
    installed, slide, tcga_slide, bare
):
    as_it_was = installed.revision()
    # One slow worker: on a fast machine too, the run outlasts the upgrade.
    installed.helm("upgrade", *ONE_WORKER, "dask.worker.resources.limits.cpu=250m")
    revision = installed.revision()
    before = the_only_cluster(installed)
    run = installed.submit(slide, "s3://results/upgraded")
    result = ResultStore(f"s3://results/upgraded/{tcga_slide.stem}.ome.zarr")
    wait_until(lambda: result.recorded("infer") or None, 240, "a shard", every_s=0.1)
    server = installed.pods("prefect")
    installed.helm(
        "upgrade",
        *ONE_WORKER,
        "dask.worker.resources.limits.cpu=300m",
        "prefect.server.resources.limits.memory=1100Mi",
    )
    (after,) = clusters(installed) - {before}
    assert installed.pods("prefect") != server
    assert installed.state(run)["type"] == "RUNNING", "the run ended too soon to show anything"
    # At once, while what the upgrade has replaced is still being removed.
    installed.run("helm", "rollback", installed.release, revision, "--wait", "--timeout=300s")

    state = installed.ended(run, 400)
    assert state["type"] == "COMPLETED", state
    assert before in done_by(result) <= {before, after}
    assert verify_result(result.uri).ok
    assert equal_bytes(digests(result), bare)
    assert the_only_cluster(installed) == before
    installed.run("helm", "rollback", installed.release, as_it_was, "--wait", "--timeout=300s")

"""A worker that its memory limit ends: the run says so, and which one."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_worker_over_its_memory_limit_is_named_with_the_limit(installed, slide):
    revision = installed.revision()
    installed.helm(
        "upgrade",
        "dask.worker.resources.limits.memory=420Mi",
        "dask.worker.resources.requests.memory=420Mi",
        "dask.maximum=1",
        "dask.scheduler.env.DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=1",
    )
    try:
        # f32 takes nearly twice of what a pod has here, int8 just fits.
        run = installed.submit(slide, "s3://results/small", overwrite=True, precision="f32")
        state = installed.ended(run, 400)
    finally:
        installed.run("helm", "rollback", installed.release, revision, "--wait", "--timeout=300s")
    assert state["type"] == "FAILED", state
    assert "memory" in state["message"]
    assert "default-worker-" in state["message"], state["message"]

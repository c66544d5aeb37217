"""What a run asks Kubernetes for when it shall have a Dask cluster of its own."""

import pytest

from flows.own_cluster import OwnCluster

SERVICE = '{"selector": {"dask.org/cluster-name": "CLUSTER"}}'
SPEC = f'{{"worker": {{"replicas": 0}}, "scheduler": {{"service": {SERVICE}}}}}'


@pytest.fixture
def environ(tmp_path):
    (tmp_path / "spec.json").write_text(SPEC)
    return {
        "MICROTOME_DASK_SPEC": str(tmp_path / "spec.json"),
        "MICROTOME_DASK_PREFIX": "microtome",
        "MICROTOME_DASK_MAXIMUM": "8",
        "MICROTOME_JOB_NAME": "kind-otter-x7f2q",
        "MICROTOME_JOB_UID": "5f1d",
    }


@pytest.mark.parametrize(("shards", "workers"), [(0, 1), (1, 1), (4, 1), (5, 2), (20, 5), (1600, 8)])
def test_a_cluster_has_as_many_workers_as_the_plan_is_worth_and_no_more_than_allowed(
    environ, shards, workers
):
    manifest = OwnCluster.of(environ).manifest("0a1b2c3d-aaaa", shards)
    assert manifest["spec"]["worker"]["replicas"] == workers


def test_a_cluster_is_named_by_its_run_and_belongs_to_its_job(environ):
    manifest = OwnCluster.of(environ).manifest("0a1b2c3d-aaaa", 9)
    assert manifest["metadata"]["name"] == "microtome-0a1b2c3d"
    selector = manifest["spec"]["scheduler"]["service"]["selector"]
    assert selector == {"dask.org/cluster-name": "microtome-0a1b2c3d"}
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", "kind-otter-x7f2q", "5f1d")


def test_where_the_chart_says_nothing_runs_share_a_cluster():
    assert OwnCluster.of({}) is None

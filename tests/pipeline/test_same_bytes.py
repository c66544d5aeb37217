"""The same slide, model and parameters: the same bytes, whoever computes them and in which order."""

import pytest

from microtome.cluster import ClusterSpec, connect
from tests.pipeline.runs import ShuffledCluster, digests, run_plan


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_makes_the_same_bytes(workers, field_plan, undisturbed, tmp_path):
    with connect(ClusterSpec(workers=workers)) as cluster:
        result = run_plan(field_plan, tmp_path / "field.ome.zarr", cluster)
    assert digests(result) == digests(undisturbed)


def test_shards_in_random_order_make_the_same_bytes(field_plan, undisturbed, cluster, tmp_path):
    result = run_plan(field_plan, tmp_path / "field.ome.zarr", ShuffledCluster(cluster, seed=5))
    assert digests(result) == digests(undisturbed)


def test_arrays_tables_and_plan_are_among_what_is_compared(undisturbed):
    kinds = {key.split("/")[0] for key in digests(undisturbed)}
    assert {"0", "1", "labels", "tables", "plan.json", "zarr.json"} <= kinds
    assert "manifest" not in kinds

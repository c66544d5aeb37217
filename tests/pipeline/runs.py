"""Runs of the pipeline in tests, and what may be compared between them."""

import hashlib
import random
from functools import partial
from pathlib import Path

import pyarrow.parquet
import shapely

from microtome import stages
from microtome.cluster import Cluster
from microtome.export import TABLE
from microtome.stages.run import Run
from microtome.store import ResultStore

CLOCKED = ("manifest/", "report/")
"""Keys that hold clocks and hosts."""


def run_plan(plan, folder: Path, cluster) -> ResultStore:
    """Every stage of a plan into a new result."""
    store = ResultStore(str(folder))
    store.put("plan.json", plan.to_json())
    run = Run(plan, store)
    cluster.at_once([partial(stage.run, run, cluster, lambda progress: None) for stage in stages.STAGES])
    return store


def digests(store: ResultStore) -> dict[str, str]:
    """sha256 of every key that must be the same bytes on every run."""
    return {
        key: hashlib.sha256(store.get(key)).hexdigest()
        for key in store.sizes()
        if not key.startswith(CLOCKED)
    }


def outlines(store: ResultStore) -> list[shapely.Polygon]:
    """All outlines of a result, by their text, so that their order does not matter."""
    with store.reading(TABLE) as file:
        table = pyarrow.parquet.read_table(file)
    return sorted(shapely.from_wkb(table["geometry"].to_numpy()), key=lambda polygon: polygon.wkb)


class ShuffledCluster(Cluster):
    """Hands out shards in random order, whatever they cost."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        super().__init__(cluster.client)
        self._random = random.Random(seed)

    def fan_out(self, work, calls, on_done, *, name, costs=(), needs=None):
        shuffled = self._random.sample(list(calls), len(calls))
        super().fan_out(work, shuffled, on_done, name=name, needs=needs)

"""A worker keeps nothing that it does not need: shapes of tiles, the network, headers, malloc's leftovers."""

import subprocess
import sys
import tracemalloc
import weakref
from dataclasses import replace

import pytest

from microtome import stardist
from microtome.network import EngineName
from microtome.slides import open_slide, source
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.store import ResultStore
from microtome.work import infer, network
from microtome.work.infer import infer_shard
from microtome.work.pixels import read_network_pixels
from tests.pipeline.runs import run_plan

SHAPES = """
import sys
import numpy as np
from microtome.model import Precision, find_model
from microtome.network import EngineName, load_model

def resident_mb():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) / 1024

engine = EngineName(sys.argv[1])
network = load_model(
    find_model(None), precision=Precision.INT8, threads=1, limits=(0.0, 255.0), engine=engine
)
shapes = [(h, w) for h in range(496, 176, -32) for w in range(496, 176, -32)]
for number, (height, width) in enumerate(shapes):
    for _ in network.run(np.zeros((3, height, width), np.uint8)):
        pass
    if number == 39:
        before_mb = resident_mb()
print(resident_mb() - before_mb)
"""


@pytest.mark.parametrize("engine", EngineName)
def test_tiles_of_many_shapes_take_no_more_memory_than_those_of_a_few(engine):
    command = [sys.executable, "-c", SHAPES, engine]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 45  # MB for 60 shapes more; 97 were every kernel of OpenVINO's kept


def network_held():
    return sorted(vars(network._networks))


def test_nobody_holds_a_network_once_everything_is_inferred(field_plan, cluster, tmp_path):
    run_plan(field_plan, tmp_path / "field.ome.zarr", cluster)
    client = cluster.client
    for worker in client.scheduler_info()["workers"]:
        assert client.submit(network_held, workers=[worker], pure=False).result() == []


def test_a_network_that_was_dropped_is_loaded_again(field_plan, tmp_path):
    run = Run(field_plan, ResultStore(str(tmp_path / "field.ome.zarr")))
    first = network.network_of(run)
    assert network.network_of(run) is first
    network.drop_network()
    assert network.network_of(run) is not first
    network.drop_network()


def test_the_pixels_of_a_tile_are_gone_once_the_network_has_seen_them(field_plan, tmp_path, monkeypatch):
    held, seen = [], {}

    def decode(*results, **places):
        seen.setdefault(places["core"], [pixels() is None for pixels in held])
        return stardist.decode(*results, **places)

    def watched(pixels):
        held.append(weakref.ref(pixels))
        return pixels

    def read(*asked):
        return map(watched, read_network_pixels(*asked))

    monkeypatch.setattr(infer, "decode", decode)
    monkeypatch.setattr(infer, "read_network_pixels", read)
    run = Run(replace(field_plan, core_px=256), ResultStore(str(tmp_path / "field.ome.zarr")))
    index = run.shards_with_tissue()[0].index
    infer_shard(run, index, Tally())
    assert len(seen) > 2
    for tile, gone in enumerate(seen.values()):
        assert all(gone[: tile + 1]), f"those of tile {tile}, of {len(gone)} read by then"


def test_an_open_slide_keeps_nothing_of_its_headers(tcga_slide):
    tracemalloc.start()
    with open_slide(str(tcga_slide)):
        read = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, source.__file__)])
    tracemalloc.stop()
    assert sum(trace.size for trace in read.traces) < 100_000

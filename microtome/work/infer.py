"""infer, one shard: the network on every tile with tissue; the candidates that may be nuclei.

A shard's part holds the candidates whose points lie in it: those kept for good, and those
whose fate hangs on a neighbour. `stitch` settles the latter.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from microtome.arrays import Pixels
from microtome.cluster import stop_if_abandoned
from microtome.grid import Shard, Window
from microtome.seams import Part, part_to_bytes
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.stardist import Candidates, decode, settle
from microtome.work.network import network_of
from microtome.work.pixels import read_network_pixels

type Tile = tuple[Window, Window, Pixels, float]
"""Core, input window, its pixels, seconds of reading them."""


def part_key(shard: Shard) -> str:
    return f"parts/infer/{shard.key}.bin"


def infer_shard(run: Run, index: int, tally: Tally) -> None:
    """Candidates of one shard, locally settled, as a part in the store."""
    shard = run.plan.grid[index]
    window = run.network_window(shard)
    network = network_of(run)
    found = []
    for core, around, pixels, read_s in _tiles(run, shard):
        stop_if_abandoned()
        began = time.perf_counter()
        sides = run.tiling.whole_halo(core)
        threshold = run.plan.model.prob_threshold
        tally.pixels += pixels[0].size
        tally.bytes_read += pixels.nbytes
        tally.parts_s["read"] = tally.parts_s.get("read", 0.0) + read_s
        bands = network.run(pixels, trimmed=sides, threshold=threshold)
        del pixels  # 15 MB that are not needed beside the network's layers
        around = around.shrink(network.trimmed_px, sides)
        for band in tally.timed_each("network", bands):
            with tally.timed("decode"):
                candidates = decode(
                    band,
                    origin_px=(around.y0, around.x0),
                    core=core,
                    slide=run.plan.network_window,
                    threshold=threshold,
                    grid_px=run.plan.model.grid,
                    align_px=run.plan.align_px,
                )
                found.append(_on_tissue(run, candidates))
        tally.tiles += 1
        tally.tile_s.append(read_s + time.perf_counter() - began)
    tally.bad_tiles.update(run.slide.bad_tiles_in(shard.window))
    candidates = Candidates.concatenate(found) if found else Candidates.empty()
    tally.candidates = len(candidates)
    with tally.timed("suppress"):
        states = settle(
            candidates, run.plan.model.nms_threshold, complete=window, slide=run.plan.network_window
        )
    stop_if_abandoned()
    with tally.timed("write"):
        tally.keys.append(run.store.put(part_key(shard), part_to_bytes(Part.of(candidates, states, window))))


def _tiles(run: Run, shard: Shard) -> Iterator[Tile]:
    """The tiles of a shard; one is read ahead."""
    cores = run.cores(shard)
    windows = [run.tiling.input_of(core) for core in cores]
    tiles = read_network_pixels(run.slide, run.plan.scale, windows, run.plan.network_window)

    def read(core: Window, around: Window) -> Tile:
        began = time.perf_counter()
        pixels = next(tiles)
        return core, around, pixels, time.perf_counter() - began

    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        ahead = deque[Future[Tile]]()
        for core, around in zip(cores, windows, strict=True):
            ahead.append(reader.submit(read, core, around))
            if len(ahead) == 2:
                # Not held here: who asks for tiles lets go of one's pixels before he asks for the next.
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _on_tissue(run: Run, candidates: Candidates) -> Candidates:
    """Those whose point lies on tissue: the mask decides, not which tiles happened to be run."""
    points = (candidates.points_px.astype(np.float64) + 0.5) / run.plan.scale.factor
    return candidates.take(np.flatnonzero(run.tissue.holds(points)))

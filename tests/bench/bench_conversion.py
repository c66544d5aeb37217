"""Conversion alone: decode, level 0, the levels above; against the tools that people use for it."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from microtome.cluster import Cluster, ClusterSpec, connect
from microtome.ngff import image_arrays
from microtome.options import Options, PixelsOption
from microtome.pipeline import prepare
from microtome.stages import chunk
from microtome.stages.run import Run
from microtome.stages.sweep import Tally, sweep
from microtome.work.chunk import shard_of_tiles
from tests.bench.figures import Bench, Figure, Skipped, figure
from tests.bench.made_slides import MadeSlide, make_slide, pieces_of
from tests.bench.peers import call, environment

PYTHON = "3.12"
PEERS = {
    "ngff-zarr": ("ngff-zarr==0.50.0", "dask[array]", "imagecodecs", "tifffile", "zarr>=3"),
    "ome-zarr": ("ome-zarr==0.21.0", "imagecodecs", "tifffile"),
    "vips": ("pyvips[binary]",),
}
OURS: dict[PixelsOption, str] = {"lossless": ">= 120", "source": ""}
"""What is kept of the pixels, and the goal."""
SIDE_PX = 8192
COPIED_SIDE_PX = 40_960


def figures(bench: Bench) -> Iterator[Figure]:
    """Half tissue, half glass. Ours on a cluster that is up, theirs after their imports; interleaved."""
    pieces = pieces_of(bench.slide)
    made = make_slide(bench.work / "half.tif", pieces, side_px=SIDE_PX, tissue_share=0.5)
    large = make_slide(bench.work / "large.tif", pieces, side_px=COPIED_SIDE_PX, tissue_share=0.5)
    pythons = dict(_environments(bench))
    rates: dict[str, list[float]] = {}
    copied: list[float] = []
    with connect(ClusterSpec()) as cluster:
        _ours(bench, made, cluster, "lossless")  # workers are warm from here on
        for _ in range(bench.rounds):
            for pixels in OURS:
                rates.setdefault(f"ours, {pixels}", []).append(_ours(bench, made, cluster, pixels))
            copied.append(_copied(bench, large, cluster))
            for tool, python in list(pythons.items()):
                try:
                    rates.setdefault(tool, []).append(_theirs(bench, made, tool, python))
                except Skipped as reason:
                    print(f"{'conversion':<11} {tool} skipped: {reason}")
                    del pythons[tool], rates[tool]
    goals = {f"ours, {pixels}": goal for pixels, goal in OURS.items()}
    for name, values in rates.items():
        yield figure("conversion", f"{name}: level 0 and those above", "MP/s", values, goals.get(name, ""))
    what = "ours, source: level 0 alone, by copying, 1,678 MP"
    yield figure("conversion", what, "MP/s", copied, ">= 1,000")


def _environments(bench: Bench) -> Iterator[tuple[str, Path]]:
    for tool, packages in PEERS.items():
        try:
            yield tool, environment(bench.cache / tool, PYTHON, packages)
        except Skipped as reason:
            print(f"{'conversion':<11} {tool} skipped: {reason}")


def _ours(bench: Bench, made: MadeSlide, cluster: Cluster, pixels: PixelsOption) -> float:
    """MP/s of the stage `chunk` (levels 0 to 3, 99.6 % of the pixels)."""
    run = prepare(str(made.path), str(bench.work / "ours"), Options(pixels=pixels)).run
    began = time.perf_counter()
    chunk.run(run, cluster, lambda _: None)
    seconds = time.perf_counter() - began
    run.store.remove()
    return made.side_px**2 / 1e6 / seconds


def _copied(bench: Bench, made: MadeSlide, cluster: Cluster) -> float:
    """MP/s of level 0 alone: what `chunk` does with the tiles, without what the levels above need."""
    options = Options(pixels="source", no_tissue=True)
    run = prepare(str(made.path), str(bench.work / "copied"), options).run
    shards = image_arrays(run.plan)[0].grid
    began = time.perf_counter()
    swept = sweep(run, cluster, "copy", COPY, [(shard.index,) for shard in shards], lambda _: None)
    seconds = time.perf_counter() - began
    if sum(len(report.keys) for report in swept.reports.values()) != len(shards):
        raise RuntimeError(f"not all of {len(shards)} shards were copied")
    run.store.remove()
    return made.side_px**2 / 1e6 / seconds


COPY = f"{__name__}:copy_shard"


def copy_shard(run: Run, index: int, tally: Tally) -> None:
    """The slide's tiles of a shard, written as they are."""
    spec = image_arrays(run.plan)[0]
    shard = spec.grid[index]
    tiles = run.slide.copy_jpeg(shard.window)
    text = shard_of_tiles(run.plan.slide.uri, run.plan.copied, spec, shard, tiles)
    tally.keys.append(run.store.put(spec.key(shard.row, shard.col), text))


def _theirs(bench: Bench, made: MadeSlide, tool: str, python: Path) -> float:
    """MP/s, everything counted but imports."""
    out = bench.work / f"{tool}.{'tif' if tool == 'vips' else 'zarr'}"
    seconds = call(python, "convert_run.py", tool, str(made.path), str(out))[0]
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()
    return made.side_px**2 / 1e6 / seconds

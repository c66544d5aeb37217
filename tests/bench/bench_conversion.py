"""Conversion alone: decode, lossless level 0, all levels; against the tools that people use for it."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from microtome.cluster import Cluster, ClusterSpec, connect
from microtome.options import Options, PixelsOption
from microtome.pipeline import prepare
from microtome.stages import chunk
from tests.bench.figures import Bench, Figure, Skipped, figure
from tests.bench.made_slides import MadeSlide, make_slide, pieces_of
from tests.bench.peers import call, environment

PYTHON = "3.12"
PEERS = {
    "ngff-zarr": ("ngff-zarr==0.50.0", "dask[array]", "imagecodecs", "tifffile", "zarr>=3"),
    "ome-zarr": ("ome-zarr==0.21.0", "imagecodecs", "tifffile"),
    "vips": ("pyvips[binary]",),
}
GOALS = {"lossless": ">= 120", "source": ">= 1,000"}
SIDE_PX = 8192


def figures(bench: Bench) -> Iterator[Figure]:
    """Half tissue, half glass. Ours on a cluster that is up, theirs after their imports; interleaved."""
    made = make_slide(
        bench.work / "half.tif",
        pieces_of(bench.slide),
        side_px=SIDE_PX,
        tissue_share=0.5,
    )
    pythons = dict(_environments(bench))
    rates: dict[str, list[float]] = {}
    with connect(ClusterSpec()) as cluster:
        offered = [pixels for pixels in get_args(PixelsOption) if pixels in GOALS]
        _ours(bench, made, cluster, offered[0])  # workers are warm from here on
        for _ in range(bench.rounds):
            for pixels in offered:
                rates.setdefault(f"ours, {pixels}", []).append(_ours(bench, made, cluster, pixels))
            for tool, python in list(pythons.items()):
                try:
                    rates.setdefault(tool, []).append(_theirs(bench, made, tool, python))
                except Skipped as reason:
                    print(f"{'conversion':<11} {tool} skipped: {reason}")
                    del pythons[tool], rates[tool]
    goals = {f"ours, {pixels}": goal for pixels, goal in GOALS.items()}
    for name, values in rates.items():
        yield figure("conversion", f"{name}: level 0 and those below", "MP/s", values, goals.get(name, ""))


def _environments(bench: Bench) -> Iterator[tuple[str, Path]]:
    for tool, packages in PEERS.items():
        try:
            yield tool, environment(bench.cache / tool, PYTHON, packages)
        except Skipped as reason:
            print(f"{'conversion':<11} {tool} skipped: {reason}")


def _ours(bench: Bench, made: MadeSlide, cluster: Cluster, pixels: PixelsOption) -> float:
    """MP/s of the stage `chunk` (levels 0 to 3, 99.97 % of the pixels)."""
    run = prepare(str(made.path), str(bench.work / "ours"), Options(pixels=pixels), overwrite=True).run
    began = time.perf_counter()
    chunk.run(run, cluster, lambda _: None)
    return made.side_px**2 / 1e6 / (time.perf_counter() - began)


def _theirs(bench: Bench, made: MadeSlide, tool: str, python: Path) -> float:
    """MP/s, everything counted but imports."""
    out = bench.work / f"{tool}.{'tif' if tool == 'vips' else 'zarr'}"
    seconds = call(python, "convert_run.py", tool, str(made.path), str(out))[0]
    if out.is_dir():
        shutil.rmtree(out)
    else:
        out.unlink()
    return made.side_px**2 / 1e6 / seconds

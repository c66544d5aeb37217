"""chunk: the slide's pixels into level 0 and the three levels above it, shard by shard."""

from microtome.arrays import Pixels
from microtome.cluster import Cluster
from microtome.copying import CopiedJpeg, NotCopyable, check_tile
from microtome.errors import TileNotCopyable
from microtome.grid import Shard
from microtome.ngff import TASK_LEVELS, ArraySpec, image_arrays
from microtome.pyramid import halve_pixels
from microtome.records import StageReport
from microtome.shards import assemble_shard
from microtome.stages.levels import write_levels
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, Tally, stage_report, sweep

NAME = "chunk"


def run(run: Run, cluster: Cluster, on_shard: OnShard) -> StageReport:
    """Pixels of every shard that the manifest lacks; of none where the plan keeps no pixels."""
    specs = image_arrays(run.plan)
    calls = [(shard.index,) for shard in specs[0].grid] if specs else []

    def cost(index: int) -> float:
        return specs[0].grid[index].window.area_px / 1e6

    return stage_report(NAME, sweep(run, cluster, NAME, chunk_shard, calls, on_shard, cost=cost))


def chunk_shard(run: Run, index: int, tally: Tally) -> None:
    """One shard of the slide, copied and halved three times."""
    specs = image_arrays(run.plan)[: 1 + TASK_LEVELS]
    shard = specs[0].grid[index]
    known = run.slide.bad_tiles
    if run.plan.copied is None:
        with tally.timed("read"):
            pixels = run.slide.read(0, shard.window)
        above, block = specs, pixels
    else:
        pixels = _copy(run, run.plan.copied, specs[0], shard, tally)
        with tally.timed("halve"):
            above, block = specs[1:], halve_pixels(pixels)
    tally.bad_tiles.update(run.slide.bad_tiles - known)
    tally.pixels = shard.window.area_px
    tally.bytes_read = pixels.nbytes
    write_levels(run, above, (shard.row, shard.col), block, halve_pixels, tally)


def _copy(run: Run, copied: CopiedJpeg, spec: ArraySpec, shard: Shard, tally: Tally) -> Pixels:
    """Write the slide's tiles of a shard as they are; returns their pixels."""
    with tally.timed("read"):
        pixels, tiles = run.slide.read_with_jpeg(shard.window)
    with tally.timed("encode"):
        text = shard_of_tiles(run.plan.slide.uri, copied, spec, shard, tiles)
    if text is not None:
        with tally.timed("write"):
            tally.keys.append(run.store.put(spec.key(shard.row, shard.col), text))
    return pixels


def shard_of_tiles(
    uri: str, copied: CopiedJpeg, spec: ArraySpec, shard: Shard, tiles: dict[tuple[int, int], bytes]
) -> bytes | None:
    """A shard of tiles by row and column in the slide, a chunk each; None of none.

    Raises
    ------
    TileNotCopyable
        If one is of another kind than the plan took from some of them.
    """
    side = spec.chunks_per_side
    chunks: dict[tuple[int, ...], bytes] = {}
    for (row, col), stream in tiles.items():
        try:
            check_tile(stream, copied.tile_px)
        except NotCopyable as reason:
            raise TileNotCopyable(uri, row * copied.tile_px, col * copied.tile_px, str(reason)) from reason
        chunks[0, row - shard.row * side, col - shard.col * side] = stream
    return assemble_shard(chunks, (1, side, side))

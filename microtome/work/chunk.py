"""chunk, one shard: the slide's pixels into level 0 and the three levels above it."""

from microtome.arrays import Pixels
from microtome.copying import CopiedJpeg, NotCopyable, check_tile
from microtome.errors import TileNotCopyable
from microtome.grid import Shard
from microtome.ngff import TASK_LEVELS, ArraySpec, image_arrays
from microtome.pyramid import halve_pixels
from microtome.shards import assemble_shard
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.work.levels import encode_levels


def chunk_shard(run: Run, index: int, tally: Tally) -> None:
    """One shard of the slide, copied and halved three times; of nothing but white, nothing is written."""
    specs = image_arrays(run.plan)[: 1 + TASK_LEVELS]
    shard = specs[0].grid[index]
    if run.plan.copied is None:
        with tally.timed("read"):
            pixels = run.slide.read_unless_white(shard.window)
    else:
        pixels = _copy(run, run.plan.copied, specs[0], shard, tally)
    tally.bad_tiles.update(run.slide.bad_tiles_in(shard.window))
    tally.pixels = shard.window.area_px
    tally.bytes_read = 3 * shard.window.area_px
    if pixels is None:
        return
    if run.plan.copied is not None:
        with tally.timed("halve"):
            pixels = halve_pixels(pixels)
        specs = specs[1:]
    encoded = encode_levels(specs, (shard.row, shard.col), pixels, halve_pixels, tally)
    with tally.timed("write"):
        tally.keys += run.store.put_each(encoded)


def _copy(run: Run, copied: CopiedJpeg, spec: ArraySpec, shard: Shard, tally: Tally) -> Pixels | None:
    """Write the slide's tiles of a shard as they are; returns their pixels, unless all are white."""
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
    return assemble_shard(sorted(chunks.items()), (1, side, side))

"""A block of pixels or labels into the levels that one task makes of it."""

from collections.abc import Callable, Sequence

from microtome.arrays import Labels, Pixels
from microtome.ngff import ArraySpec
from microtome.shards import encode
from microtome.stages.run import Run
from microtome.stages.sweep import Tally


def write_levels[A: (Pixels, Labels)](
    run: Run,
    specs: Sequence[ArraySpec],
    place: tuple[int, int],
    block: A,
    halve: Callable[[A], A],
    tally: Tally,
) -> None:
    """Write a block as one shard of the first level, its half as one of the next, and so on."""
    encoded: dict[str, bytes] = {}
    for depth, spec in enumerate(specs):
        if depth:
            with tally.timed("halve"):
                block = halve(block)
        with tally.timed("encode"):
            encoded.update(encode(spec, *place, block))
    with tally.timed("write"):
        tally.keys += run.store.put_each(encoded)

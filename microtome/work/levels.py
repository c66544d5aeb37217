"""A block of pixels or labels as the levels that one task makes of it."""

from collections.abc import Callable, Sequence

from microtome.arrays import Labels, Pixels
from microtome.ngff import ArraySpec
from microtome.shards import encode
from microtome.stages.sweep import Tally


def encode_levels[A: (Pixels, Labels)](
    specs: Sequence[ArraySpec],
    place: tuple[int, int],
    block: A,
    halve: Callable[[A], A],
    tally: Tally,
) -> dict[str, bytes]:
    """A block as one shard of the first level, its half as one of the next, and so on, by key."""
    encoded: dict[str, bytes] = {}
    for depth, spec in enumerate(specs):
        if depth:
            with tally.timed("halve"):
                block = halve(block)
        with tally.timed("encode"):
            encoded.update(encode(spec, *place, block))
    return encoded

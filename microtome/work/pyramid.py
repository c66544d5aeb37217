"""pyramid, one block: the levels above those that `chunk` and `stitch` made, three at a time."""

from typing import Any

from microtome.ngff import TASK_LEVELS, image_arrays, label_arrays
from microtome.pyramid import halve_labels, halve_pixels
from microtome.shards import decode, keys_in
from microtome.stages.pyramid import Kind, blocks_of
from microtome.stages.run import Run
from microtome.stages.sweep import Tally
from microtome.work.levels import encode_levels
from microtome.work.network import drop_network


def pyramid_block(run: Run, number: int, tally: Tally, base: int, kind: Kind, index: int) -> None:
    """A block of level `base`, halved up to three times."""
    drop_network()
    arrays = image_arrays(run.plan) if kind == "pixels" else label_arrays(run.plan)
    block = blocks_of(arrays, base)[index]
    place, above = (block.row, block.col), arrays[base + 1 : base + 1 + TASK_LEVELS]
    tally.pixels = block.window.area_px
    with tally.timed("read"):
        texts = run.store.get_existing(list(keys_in(arrays[base], block.window)))
        finer: Any = decode(arrays[base], block.window, texts)  # Any: pixels or labels, as `kind` says
    if not texts:
        return
    tally.bytes_read = sum(map(len, texts.values()))
    if kind == "pixels":
        encoded = encode_levels(above, place, halve_pixels(finer), halve_pixels, tally)
    else:
        encoded = encode_levels(above, place, halve_labels(finer), halve_labels, tally)
    with tally.timed("write"):
        tally.keys += run.store.put_each(encoded)

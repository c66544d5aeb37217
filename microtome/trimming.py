"""Leaves out of a network what a tile's halo needs no more: the decoder shrinks to the core.

A halo is there for the encoder, which sees furthest. On its way up, each level of a U-Net needs
less context around the core than the one below it. Cutting the rest away saves 5 % of the time of
a tile of 2,240 px, 17 % at 1,216 and 33 % at 704 (int8), and changes no bit of the core.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microtome.grid import Sides

if TYPE_CHECKING:
    import openvino


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where the decoder goes up one level, and the context around the core that is kept there."""

    upsample: "openvino.Node"
    below_px: int
    """Network px per px of the level below the upsampling."""
    kept_px: int
    """Network px; a multiple of `below_px`."""


SIDES_INPUT = "trimmed_sides"
NO_SIDES = Sides(False, False, False, False)


def trim(model: "openvino.Model", *, halo_px: int, grid_px: int) -> int:
    """Cut the halo away, in place, as early as the core allows.

    Parameters
    ----------
    model
        A U-Net with a halo of `halo_px` on the trimmed sides of its input. It gets one more input
        that says which they are, `SIDES_INPUT`: int64 (4,), 0 or 1 for top, left, bottom, right.
    grid_px
        Network px per px of its output.

    Returns
    -------
    int
        Network px that its output lacks on each trimmed side: less than the halo.
    """
    from openvino import opset13 as op

    begins, ends = _side_nodes(model)
    rows_cols, steps = np.array([2, 3], np.int64), np.ones(2, np.int64)

    def cut(node_input: "openvino.Input", px: int) -> None:
        begin = op.multiply(begins, np.int64(px))
        uncut = np.full(2, np.iinfo(np.int32).max, np.int64)
        end = op.select(op.greater(ends, np.int64(0)), np.full(2, -px, np.int64), uncut)
        source = node_input.get_source_output()
        node_input.replace_source_output(op.slice(source, begin, end, steps, rows_cols).output(0))

    present_px = halo_px
    for level in _cuts(model, grid_px):
        if level.kept_px >= present_px:
            continue
        skip = _skip_of(level.upsample)
        cut(level.upsample.input(0), (present_px - level.kept_px) // level.below_px)
        cut(skip, (halo_px - level.kept_px) // (level.below_px // 2))
        present_px = level.kept_px
    model.validate_nodes_and_infer_types()
    return halo_px - present_px


def _side_nodes(model: "openvino.Model") -> tuple["openvino.Output", "openvino.Output"]:
    """Flags of top and left, and of bottom and right: int64 (2,) each."""
    import openvino as ov
    from openvino import opset13 as op

    flags = op.parameter([4], ov.Type.i64, name=SIDES_INPUT)
    flags.output(0).set_names({SIDES_INPUT})
    model.add_parameters([flags])
    return tuple(op.split(flags, np.int64(0), 2).outputs())


def _cuts(model: "openvino.Model", grid_px: int) -> list[_Cut]:
    """Every upsampling of the decoder, the coarsest first."""
    found: list[_Cut] = []
    needed_px, level_px = 0, grid_px
    for node in reversed(model.get_ordered_ops()):
        kind = node.get_type_name()
        if kind == "Convolution":
            needed_px += max(node.input_value(1).get_partial_shape()[2].get_length() // 2, 0) * level_px
        elif kind == "Interpolate":
            level_px *= 2
            needed_px = math.ceil(needed_px / level_px) * level_px
            found.append(_Cut(node, level_px, needed_px))
        elif kind == "MaxPool":  # the encoder begins: it needs its context
            break
    return found[::-1]


def _skip_of(upsample: "openvino.Node") -> "openvino.Input":
    """The other input of the concatenation that the upsampled pixels go to."""
    (consumer,) = upsample.output(0).get_target_inputs()
    while consumer.get_node().get_type_name() != "Concat":
        (consumer,) = consumer.get_node().output(0).get_target_inputs()
    inputs = consumer.get_node().inputs()
    return next(each for each in inputs if each.get_index() != consumer.get_index())

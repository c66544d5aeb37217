"""Reads a U-Net out of an OpenVINO model.

Understood are most networks that `microtome model import` makes of StarDist's: two convolutions of 3 x 3 px
or more a level, with ReLU; pools and enlargements by two; heads of 1 x 1 px. Others are left to OpenVINO.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from microtome.unet.layers import Convolution, Seen, Source

if TYPE_CHECKING:
    import openvino as ov

_HALVINGS = {Seen.SAME: 0, Seen.POOLED: 1, Seen.ENLARGED: -1}
COLOURS = 3


class _OtherKind(Exception):
    """The model is not one that is understood here."""


def read_unet(model: "ov.Model", *, align_px: int, grid_px: int) -> tuple[Convolution, ...] | None:
    """The convolutions of a model, each after those that it sees, the heads last.

    Parameters
    ----------
    align_px, grid_px
        As the model's card has them: tiles are multiples of the first, and the heads' px are as large as
        the second, px of the image.

    Returns
    -------
    tuple of Convolution, or None
        None if the model is of another kind than this package computes.
    """
    found: list[Convolution] = []
    outputs: dict[str, int] = {}
    try:
        for node in model.get_ordered_ops():
            if node.get_type_name() == "Convolution":
                convolution, output = _convolution(node, outputs, found)
                _require(output.get_friendly_name() not in outputs)
                outputs[output.get_friendly_name()] = len(found)
                found.append(convolution)
        _check(found, align_px, grid_px)
    except _OtherKind:
        return None
    return tuple(found)


def _require(*facts: bool) -> None:
    if not all(facts):
        raise _OtherKind


def _convolution(
    node: "ov.Node", outputs: Mapping[str, int], before: Sequence[Convolution]
) -> tuple[Convolution, "ov.Node"]:
    """A convolution, and the node that gives its output."""
    image, weights = (value.get_node() for value in node.input_values())
    added = _only_consumer(node)
    _require(added.get_type_name() == "Add", weights.get_type_name() == "Constant")
    bias, after = added.input_value(1).get_node(), _only_consumer(added)
    _require(after.get_type_name() in {"Relu", "Result"}, bias.get_type_name() == "Constant")
    side = 1 if after.get_type_name() == "Result" else 3
    outputs_of, _, *sides = weights.get_output_shape(0)
    _require(sides == [side, side], list(bias.get_output_shape(0)) == [1, outputs_of, 1, 1])
    _require_attributes(
        node,
        strides=[1, 1],
        dilations=[1, 1],
        pads_begin=[side // 2] * 2,
        pads_end=[side // 2] * 2,
        auto_pad="explicit",
    )
    sources = tuple(_sources(image, outputs))
    halvings = {
        _HALVINGS[source.seen] + (0 if source.index is None else before[source.index].halvings)
        for source in sources
    }
    _require(len(halvings) == 1)
    found = Convolution(
        sources=sources,
        kernel=np.array(weights.get_data(), np.float32),
        bias=np.array(bias.get_data(), np.float32).ravel(),
        halvings=halvings.pop(),
    )
    return found, after


def _sources(node: "ov.Node", outputs: Mapping[str, int]) -> Iterator[Source]:
    """What a node's output is made of."""
    kind, inputs = node.get_type_name(), [value.get_node() for value in node.input_values()]
    if kind == "Parameter":
        yield Source(None)
    elif kind == "Relu":
        yield Source(_index(node, outputs))
    elif kind == "MaxPool":
        none = [0, 0]
        _require_attributes(node, kernel=[2, 2], strides=[2, 2], pads_begin=none, pads_end=none)
        _require_attributes(node, rounding_type="floor", auto_pad="explicit")
        _require(node.get_attributes().get("dilations", [1, 1]) == [1, 1])
        yield Source(_index(inputs[0], outputs), Seen.POOLED)
    elif kind == "Interpolate":
        _require([each.get_type_name() for each in inputs[1:]] == ["Constant", "Constant"])
        _require([list(each.get_data()) for each in inputs[1:]] == [[2, 2], [2, 3]])
        _require_attributes(node, mode="nearest", nearest_mode="floor", shape_calculation_mode="scales")
        _require_attributes(node, coordinate_transformation_mode="asymmetric")
        pads = [node.get_attributes()[name] for name in ("pads_begin", "pads_end")]
        _require(not any(pad for each in pads for pad in each))
        yield Source(_index(inputs[0], outputs), Seen.ENLARGED)
    elif kind == "Concat":
        _require_attributes(node, axis=1)
        for each in inputs:
            yield from _sources(each, outputs)
    else:
        raise _OtherKind


def _require_attributes(node: "ov.Node", **wanted: object) -> None:
    attributes = node.get_attributes()
    _require(all(attributes.get(name) == value for name, value in wanted.items()))


def _only_consumer(node: "ov.Node") -> "ov.Node":
    consumers = [target.get_node() for target in node.output(0).get_target_inputs()]
    _require(len(consumers) == 1)
    return consumers[0]


def _index(node: "ov.Node", outputs: Mapping[str, int]) -> int:
    """Of the convolution whose output a node gives."""
    index = outputs.get(node.get_friendly_name())
    if index is None:
        raise _OtherKind
    return index


def _check(found: Sequence[Convolution], align_px: int, grid_px: int) -> None:
    """What the kernels take for granted."""
    _require(len(found) > 3)
    first, second, *others, heads = found
    before_heads = len(found) - 2
    _require(first.sources == (Source(None),), first.kernel.shape[1] == COLOURS)
    _require(second.sources == (Source(0),))
    _require(heads.sources == (Source(before_heads),), heads.kernel.shape[2] == 1)
    deepest = max(each.halvings for each in found)
    _require(deepest > 0, found[before_heads].halvings < deepest, align_px % 2**deepest == 0)
    _require(grid_px == 2**heads.halvings)
    for each in others:
        sights = [source.seen for source in each.sources]
        _require(not {None, 0, before_heads} & {source.index for source in each.sources})
        _require(sights in ([Seen.SAME], [Seen.POOLED], [Seen.ENLARGED, Seen.SAME]))
        _require(each.halvings < deepest or Seen.ENLARGED not in sights)

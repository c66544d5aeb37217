"""Reads a U-Net out of an OpenVINO model.

Understood are most networks that `microtome model import` makes of StarDist's: two convolutions of 3 x 3 px
or more a level, with ReLU; pools and enlargements by two; heads of 1 x 1 px. Others are left to OpenVINO.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from microtome.arrays import Doubles
from microtome.unet.convolutions import LARGEST_SUM, Convolution, Quantized, Seen, Source

if TYPE_CHECKING:
    import openvino as ov

_HALVINGS = {Seen.SAME: 0, Seen.POOLED: 1, Seen.ENLARGED: -1}
COLOURS = 3
LARGEST_INT = 2**31
"""Below it is what a kernel rounds to an int32, whatever the image."""


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
        return _requantized(found)
    except _OtherKind:
        return None


def _requantized(found: Sequence[Convolution]) -> tuple[Convolution, ...]:
    """With a table where others see the bytes of a map as other bytes, as of one enlarged beside another."""
    quantized = [each for each in found if isinstance(each, Quantized)]
    _require(len(quantized) in {0, len(found)})
    if not quantized:
        return tuple(found)
    done = []
    for index, each in enumerate(quantized):
        seen = {other.seen_step for other in quantized if index in {source.index for source in other.sources}}
        _require(len(seen) < 2)
        units = each.step / seen.pop() if seen else 1
        table = np.clip(np.rint(np.arange(256) * units), 0, 255).astype(np.uint8)
        done.append(each if units == 1 else replace(each, table=table))
    return tuple(done)


def _require(*facts: bool) -> None:
    if not all(facts):
        raise _OtherKind


def _convolution(
    node: "ov.Node", outputs: Mapping[str, int], before: Sequence[Convolution]
) -> tuple[Convolution, "ov.Node"]:
    """A convolution, and the node that gives its output."""
    image, weights = (value.get_node() for value in node.input_values())
    added = _only_consumer(node)
    _require(added.get_type_name() == "Add")
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
    sources, steps = zip(*_sources(image, outputs), strict=True)
    halvings = {
        _HALVINGS[source.seen] + (0 if source.index is None else before[source.index].halvings)
        for source in sources
    }
    _require(len(halvings) == 1, len(set(steps)) == 1)
    known = {"sources": sources, "halvings": halvings.pop()}
    return _with_numbers(known, (weights, bias), steps[0], after)


def _with_numbers(
    known: Mapping[str, Any],
    constants: tuple["ov.Node", "ov.Node"],
    seen_step: float | None,
    after: "ov.Node",
) -> tuple[Convolution, "ov.Node"]:
    """A convolution of weights and bias, and the node that gives its output: `after` or what quantizes it."""
    weights, bias = constants
    biases = np.array(bias.get_data(), np.float32).ravel()
    if seen_step is None:
        _require(weights.get_type_name() == "Constant")
        return Convolution(**known, kernel=np.array(weights.get_data(), np.float32), bias=biases), after
    kernel, scales = _int8_weights(weights)
    step = 1.0
    if after.get_type_name() == "Relu":
        after = _only_consumer(after)
        step = _step(after)
    found = Quantized(
        **known,
        kernel=kernel,
        bias=(biases / step).astype(np.float32),
        scales=(scales * seen_step / step).astype(np.float32),
        seen_step=seen_step,
        step=step,
    )
    largest = 255 * np.abs(kernel.astype(np.int64)).sum((1, 2, 3))
    _require(bool((largest < LARGEST_SUM).all()))
    _require(bool((largest * np.abs(found.scales) + np.abs(found.bias) < LARGEST_INT).all()))
    return found, after


def _int8_weights(node: "ov.Node") -> tuple[npt.NDArray[np.int8], Doubles]:
    """Whole numbers, (outputs, inputs, y, x), and what one unit of them is, (outputs,)."""
    _require(node.get_type_name() == "Multiply")
    converted, scales = (value.get_node() for value in node.input_values())
    _require(converted.get_type_name() == "Convert", scales.get_type_name() == "Constant")
    weights = converted.input_value(0).get_node()
    _require(weights.get_type_name() == "Constant", weights.get_element_type().get_type_name() == "i8")
    _require(list(scales.get_output_shape(0)) == [weights.get_output_shape(0)[0], 1, 1, 1])
    return np.array(weights.get_data(), np.int8), np.array(scales.get_data(), np.float64).ravel()


def _step(node: "ov.Node") -> float:
    """What one unit is of the bytes that a node makes of numbers from 0 on."""
    _require(node.get_type_name() == "FakeQuantize")
    ranges = [value.get_node() for value in node.input_values()[1:]]
    _require(all(each.get_type_name() == "Constant" for each in ranges))
    limits = [np.array(each.get_data(), np.float64).ravel() for each in ranges]
    _require(all(each.size == 1 for each in limits))
    low, high, *same = (float(each[0]) for each in limits)
    _require(low == 0, high > 0, same == [low, high])
    _require_attributes(node, levels=256)
    return high / 255


def _sources(node: "ov.Node", outputs: Mapping[str, int]) -> Iterator[tuple[Source, float | None]]:
    """What a node's output is made of; in int8, what one unit of its bytes is."""
    kind, inputs = node.get_type_name(), [value.get_node() for value in node.input_values()]
    if kind == "Parameter":
        yield Source(None), None
    elif kind == "FakeQuantize":
        # What a convolution gives is known by its quantization; the image's and enlarged px have another one.
        known = inputs[0].get_type_name() not in {"Parameter", "Interpolate"}
        for source, _ in [(Source(_index(node, outputs)), None)] if known else _sources(inputs[0], outputs):
            yield source, _step(node)
    elif kind == "Relu":
        yield Source(_index(node, outputs)), None
    elif kind == "MaxPool":
        none = [0, 0]
        _require_attributes(node, kernel=[2, 2], strides=[2, 2], pads_begin=none, pads_end=none)
        _require_attributes(node, rounding_type="floor", auto_pad="explicit")
        _require(node.get_attributes().get("dilations", [1, 1]) == [1, 1])
        for source, step in _sources(inputs[0], outputs):
            _require(source.seen is Seen.SAME, source.index is not None)
            yield Source(source.index, Seen.POOLED), step
    elif kind == "Interpolate":
        _require_twice(node)
        for source, step in _sources(inputs[0], outputs):
            _require(source.seen is Seen.SAME, source.index is not None)
            yield Source(source.index, Seen.ENLARGED), step
    elif kind == "Concat":
        _require_attributes(node, axis=1)
        for each in inputs:
            yield from _sources(each, outputs)
    else:
        raise _OtherKind


def _require_twice(node: "ov.Node") -> None:
    """That an `Interpolate` makes 2 x 2 px of each."""
    by = [value.get_node() for value in node.input_values()[1:]]
    _require([each.get_type_name() for each in by] == ["Constant", "Constant"])
    _require([list(each.get_data()) for each in by] == [[2, 2], [2, 3]])
    _require_attributes(node, mode="nearest", nearest_mode="floor", shape_calculation_mode="scales")
    _require_attributes(node, coordinate_transformation_mode="asymmetric")
    pads = [node.get_attributes()[name] for name in ("pads_begin", "pads_end")]
    _require(not any(pad for each in pads for pad in each))


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

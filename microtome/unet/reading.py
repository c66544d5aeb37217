"""Reads a U-Net out of the files of an OpenVINO model.

Understood are most networks that `microtome model import` makes of StarDist's: two convolutions of 3 x 3 px
or more a level, with ReLU; pools and enlargements by two; heads of 1 x 1 px. Others are left to OpenVINO.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from microtome.arrays import Doubles
from microtome.unet.convolutions import LARGEST_SUM, Convolution, Quantized, Seen, Source
from microtome.unet.ir import Layer, UnknownIr, read_layers

_HALVINGS = {Seen.SAME: 0, Seen.POOLED: 1, Seen.ENLARGED: -1}
COLOURS = 3
LARGEST_INT = 2**31
"""Below it is what a kernel rounds to an int32, whatever the image."""


class _OtherKind(Exception):
    """The model is not one that is understood here."""


def read_unet(xml: Path, weights: Path, *, align_px: int, grid_px: int) -> tuple[Convolution, ...] | None:
    """The convolutions of a model, each after those that it sees, the heads last.

    Parameters
    ----------
    xml, weights
        The two files of the model.
    align_px, grid_px
        As the model's card has them: tiles are multiples of the first, and the heads' px are as large as
        the second, px of the image.

    Returns
    -------
    tuple of Convolution, or None
        None if the model is of another kind than this package computes.
    """
    found: list[Convolution] = []
    outputs: dict[Layer, int] = {}
    try:
        for node in read_layers(xml, weights):
            if node.kind == "Convolution":
                convolution, output = _convolution(node, outputs, found)
                _require(output not in outputs)
                outputs[output] = len(found)
                found.append(convolution)
        _check(found, align_px, grid_px)
        return _requantized(found)
    except (_OtherKind, UnknownIr):
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
    node: Layer, outputs: Mapping[Layer, int], before: Sequence[Convolution]
) -> tuple[Convolution, Layer]:
    """A convolution, and the node that gives its output."""
    image, weights = node.inputs
    added = _only_consumer(node)
    _require(added.kind == "Add")
    bias, after = added.inputs[1], _only_consumer(added)
    _require(after.kind in {"ReLU", "Result"}, bias.kind == "Const")
    side = 1 if after.kind == "Result" else 3
    outputs_of, _, *sides = weights.shape
    _require(sides == [side, side], bias.shape == (1, outputs_of, 1, 1))
    pads = [side // 2] * 2
    _require(
        node.is_said(strides=[1, 1], dilations=[1, 1], pads_begin=pads, pads_end=pads, auto_pad="explicit")
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
    constants: tuple[Layer, Layer],
    seen_step: float | None,
    after: Layer,
) -> tuple[Convolution, Layer]:
    """A convolution of weights and bias, and the node that gives its output: `after` or what quantizes it."""
    weights, bias = constants
    biases = _numbers(bias).astype(np.float32).ravel()
    if seen_step is None:
        return Convolution(**known, kernel=_numbers(weights).astype(np.float32), bias=biases), after
    kernel, scales = _int8_weights(weights)
    step = 1.0
    if after.kind == "ReLU":
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


def _int8_weights(node: Layer) -> tuple[npt.NDArray[np.int8], Doubles]:
    """Whole numbers, (outputs, inputs, y, x), and what one unit of them is, (outputs,)."""
    _require(node.kind == "Multiply")
    converted, scales = node.inputs
    _require(converted.kind == "Convert")
    whole, units = _numbers(converted.inputs[0]), _numbers(scales)
    _require(whole.dtype == np.int8, units.shape == (whole.shape[0], 1, 1, 1))
    return whole.astype(np.int8), units.astype(np.float64).ravel()


def _numbers(node: Layer) -> npt.NDArray[Any]:
    """Of a constant."""
    if node.numbers is None:
        raise _OtherKind
    return node.numbers


def _step(node: Layer) -> float:
    """What one unit is of the bytes that a node makes of numbers from 0 on."""
    _require(node.kind == "FakeQuantize", node.is_said(levels=256))
    limits = [_numbers(each).astype(np.float64).ravel() for each in node.inputs[1:]]
    _require(all(each.size == 1 for each in limits))
    low, high, *same = (float(each[0]) for each in limits)
    _require(low == 0, high > 0, same == [low, high])
    return high / 255


def _sources(node: Layer, outputs: Mapping[Layer, int]) -> Iterator[tuple[Source, float | None]]:
    """What a node's output is made of; in int8, what one unit of its bytes is."""
    kind, inputs = node.kind, node.inputs
    if kind == "Parameter":
        yield Source(None), None
    elif kind == "FakeQuantize":
        # What a convolution gives is known by its quantization; the image's and enlarged px have another one.
        known = inputs[0].kind not in {"Parameter", "Interpolate"}
        for source, _ in [(Source(_index(node, outputs)), None)] if known else _sources(inputs[0], outputs):
            yield source, _step(node)
    elif kind == "ReLU":
        yield Source(_index(node, outputs)), None
    elif kind == "MaxPool":
        none = [0, 0]
        _require(node.is_said(kernel=[2, 2], strides=[2, 2], pads_begin=none, pads_end=none))
        _require(node.is_said(rounding_type="floor", auto_pad="explicit"))
        _require("dilations" not in node.attributes or node.is_said(dilations=[1, 1]))
        for source, step in _sources(inputs[0], outputs):
            _require(source.seen is Seen.SAME, source.index is not None)
            yield Source(source.index, Seen.POOLED), step
    elif kind == "Interpolate":
        _require_twice(node)
        for source, step in _sources(inputs[0], outputs):
            _require(source.seen is Seen.SAME, source.index is not None)
            yield Source(source.index, Seen.ENLARGED), step
    elif kind == "Concat":
        _require(node.is_said(axis=1))
        for each in inputs:
            yield from _sources(each, outputs)
    else:
        raise _OtherKind


def _require_twice(node: Layer) -> None:
    """That an `Interpolate` makes 2 x 2 px of each."""
    _require([_numbers(each).tolist() for each in node.inputs[1:]] == [[2, 2], [2, 3]])
    _require(node.is_said(mode="nearest", nearest_mode="floor", shape_calculation_mode="scales"))
    _require(node.is_said(coordinate_transformation_mode="asymmetric"))
    _require(all(node.is_said(**{pads: [0] * len(node.shape)}) for pads in ("pads_begin", "pads_end")))


def _only_consumer(node: Layer) -> Layer:
    _require(len(node.consumers) == 1)
    return node.consumers[0]


def _index(node: Layer, outputs: Mapping[Layer, int]) -> int:
    """Of the convolution whose output a node gives."""
    index = outputs.get(node)
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

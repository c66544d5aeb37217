"""The weights of a U-Net's convolutions as the kernels read them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from microtome.unet import int8_kernels, kernels
from microtome.unet.convolutions import GATHERED, Convolution, Kernel, Quantized, Seen
from microtome.unet.lanes import BLOCK


def layers_of(convolutions: tuple[Convolution, ...]) -> list[kernels.Layer] | list[int8_kernels.Layer]:
    """The convolutions as the kernels read them, in their order."""
    deepest = max(each.halvings for each in convolutions)
    floats, integers = [], []
    for index, each in enumerate(convolutions):
        directly = index == 0 or each.kernel.shape[2] == 1
        kernel, blocks = _in_blocks(each, convolutions)
        if isinstance(each, Quantized):
            integers.append(_int8_layer(each, kernel, blocks, directly=directly))
        else:
            # Where px are largest, tiles may begin between two quads.
            directly |= each.halvings == deepest
            floats.append(_layer(each, kernel, blocks, directly=directly))
    return integers or floats


def blocks_of(channels: int) -> int:
    return -(-channels // BLOCK)


def _in_blocks(
    convolution: Convolution, all_of_them: tuple[Convolution, ...]
) -> tuple[Kernel, dict[Seen, int]]:
    """The kernel, zeros where channels fill blocks, inputs of its own level first; and their blocks."""
    blocks = {Seen.SAME: 0, Seen.ENLARGED: 0}
    parts, start = {}, 0
    for source in convolution.sources:
        # A pooled map is as another map of the level.
        seen = Seen.ENLARGED if source.seen is Seen.ENLARGED else Seen.SAME
        channels = 3 if source.index is None else len(all_of_them[source.index].kernel)
        part = convolution.kernel[:, start : start + channels]
        if source.index is not None:
            blocks[seen] = blocks_of(channels)
            part = _fill(part, blocks[seen] * BLOCK, axis=1)
        parts[seen] = part
        start += channels
    ordered = [parts[seen] for seen in (Seen.SAME, Seen.ENLARGED) if seen in parts]
    return _filled(np.concatenate(ordered, axis=1)), blocks


def _layer(
    convolution: Convolution, kernel: Kernel, blocks: dict[Seen, int], *, directly: bool
) -> kernels.Layer:
    weights = kernel.transpose(2, 3, 1, 0) if directly else _points(kernel)
    return kernels.Layer(
        weights=_aligned(_interleaved(weights.astype(np.float32), 1)),
        bias=_filled(convolution.bias),
        same_blocks=blocks[Seen.SAME],
        enlarged_blocks=blocks[Seen.ENLARGED],
        out_blocks=len(kernel) // BLOCK,
    )


def _int8_layer(
    convolution: Quantized, kernel: Kernel, blocks: dict[Seen, int], *, directly: bool
) -> int8_kernels.Layer:
    scales, out_blocks = _filled(convolution.scales), len(kernel) // BLOCK
    if not directly:
        points = np.einsum("ay,oiyx,bx->abio", _INT8_SPREAD, kernel.astype(np.int64), _INT8_SPREAD)
        weights, scales = _interleaved(points.astype(np.int16), 2), scales / np.float32(GATHERED)
    elif kernel.shape[2] == 1:
        # The probability is the last one, and is never in a block.
        out_blocks = (len(convolution.kernel) - 1) // BLOCK
        whole, rest = np.split(kernel[: len(convolution.kernel)], [out_blocks * BLOCK])
        weights = np.concatenate([_interleaved(whole.transpose(2, 3, 1, 0), 4), rest.ravel()])
    else:
        # (colour, row, px) instead of (y, x, input), and a fourth px that counts nothing.
        weights = _interleaved(_fill(kernel.transpose(1, 2, 3, 0), 4, axis=2), 4)
    return int8_kernels.Layer(
        weights=_aligned(weights),
        scales=scales,
        bias=_filled(convolution.bias),
        same_blocks=blocks[Seen.SAME],
        enlarged_blocks=blocks[Seen.ENLARGED],
        out_blocks=out_blocks,
    )


_SPREAD = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


_INT8_SPREAD = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 6]])
"""24 times the method's fractions, but for the last row, whose 4 is in `gather`."""


def _points(kernel: Kernel) -> npt.NDArray[np.float64]:
    """(4, 4, inputs, outputs): the kernel at each of Winograd's points."""
    points: npt.NDArray[np.float64] = np.einsum(
        "ay,oiyx,bx->abio", _SPREAD, kernel.astype(np.float64), _SPREAD
    )
    return points


def _interleaved(weights: npt.NDArray[Any], together: int) -> npt.NDArray[Any]:
    """(a, b, inputs, outputs) as (block, a, b, inputs / together, outputs of the block, together), flat."""
    a, b, inputs, outputs = weights.shape
    blocks = weights.reshape(a, b, inputs // together, together, outputs // BLOCK, BLOCK)
    return blocks.transpose(4, 0, 1, 2, 5, 3).ravel()


def _aligned(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = int8_kernels.aligned(weights.nbytes).view(weights.dtype)
    found[:] = weights
    return found


def _filled[T: np.number](numbers: npt.NDArray[T]) -> npt.NDArray[T]:
    """Zeros for the outputs that fill the last block."""
    return _fill(numbers, blocks_of(len(numbers)) * BLOCK, axis=0)


def _fill[T: np.number](numbers: npt.NDArray[T], length: int, axis: int) -> npt.NDArray[T]:
    """Zeros at the end of an axis, up to a length."""
    widths = [(0, 0)] * numbers.ndim
    widths[axis] = (0, length - numbers.shape[axis])
    return np.pad(numbers, widths)

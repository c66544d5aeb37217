"""The convolutions of a U-Net: what each of them sees, and its weights as the kernels read them."""

from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from microtome.arrays import Floats
from microtome.unet.kernels import Layer, aligned
from microtome.unet.vectors import BLOCK

type Kernel = npt.NDArray[np.float32]
"""(outputs, inputs, y, x) float32."""


class Seen(Enum):
    """How a convolution sees what another one gives."""

    SAME = auto()
    POOLED = auto()
    """The largest of 2 x 2 px."""
    ENLARGED = auto()
    """Each px as 2 x 2 px."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a convolution sees."""

    index: int | None
    """Of the convolution that gives it; None is the image."""
    seen: Seen = Seen.SAME


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Convolution:
    """A convolution and its bias; with ReLU, but for the heads."""

    sources: tuple[Source, ...]
    """In the order of the kernel's inputs."""
    kernel: Kernel
    bias: Floats
    halvings: int
    """Its px are 2 ** halvings px of the image."""


def layers_of(convolutions: tuple[Convolution, ...]) -> list[Layer]:
    """The convolutions as the kernels read them, in their order."""
    deepest = max(each.halvings for each in convolutions)
    layers = []
    for index, each in enumerate(convolutions):
        # Where px are largest, tiles may begin between two quads.
        directly = index == 0 or each.halvings == deepest or each.kernel.shape[2] == 1
        layers.append(_layer(each, convolutions, directly=directly))
    return layers


def blocks_of(channels: int) -> int:
    return -(-channels // BLOCK)


def _layer(convolution: Convolution, all_of_them: tuple[Convolution, ...], *, directly: bool) -> Layer:
    outputs, blocks = len(convolution.kernel), {Seen.SAME: 0, Seen.ENLARGED: 0}
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
    kernel = _fill(np.concatenate(ordered, axis=1), blocks_of(outputs) * BLOCK, axis=0)
    return Layer(
        weights=_ordered(kernel.transpose(2, 3, 1, 0) if directly else _points(kernel)),
        bias=_fill(convolution.bias, blocks_of(outputs) * BLOCK, axis=0),
        same_blocks=blocks[Seen.SAME],
        enlarged_blocks=blocks[Seen.ENLARGED],
        out_blocks=blocks_of(outputs),
    )


_SPREAD = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def _points(kernel: Kernel) -> npt.NDArray[np.float64]:
    """(4, 4, inputs, outputs): the kernel at each of Winograd's points."""
    points: npt.NDArray[np.float64] = np.einsum(
        "ay,oiyx,bx->abio", _SPREAD, kernel.astype(np.float64), _SPREAD
    )
    return points


def _ordered(weights: npt.NDArray[np.floating]) -> Floats:
    """(y, x, inputs, outputs) as (block of outputs, y, x, inputs, outputs of the block), flat."""
    blocks = weights.reshape(*weights.shape[:3], -1, BLOCK).transpose(3, 0, 1, 2, 4)
    flat: Floats = aligned(blocks.size)
    flat[:] = blocks.ravel()
    return flat


def _fill[T: np.floating](numbers: npt.NDArray[T], length: int, axis: int) -> npt.NDArray[T]:
    """Zeros at the end of an axis, up to a length."""
    widths = [(0, 0)] * numbers.ndim
    widths[axis] = (0, length - numbers.shape[axis])
    return np.pad(numbers, widths)

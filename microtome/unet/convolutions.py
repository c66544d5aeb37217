"""The convolutions of a U-Net: what each of them sees, and its weights."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy.typing as npt

from microtome.arrays import Floats, Pixels

GATHERED = 64
"""Of a sum in int8, `gather` finds this many times: weights' points are 24 a side times the fractions of
Winograd's method, to be whole numbers, and only the ninths of 24 * 24 are taken out of a sum again."""
LARGEST_SUM = 2**31 // GATHERED
"""Sums that are restored are below this, of both signs: 64 times as much is known modulo 2 ** 32."""

type Kernel = npt.NDArray[Any]
"""(outputs, inputs, y, x) float32; int8 of what is `Quantized`."""


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Quantized(Convolution):
    """A convolution whose inputs, weights and outputs are whole numbers: bytes, but for what the heads give.

    An output is the nearest byte to sum * scales + bias, with the sum of bytes times `kernel`; the heads'
    is that number itself.
    """

    scales: Floats
    """(outputs,) float32."""
    seen_step: float
    """What one unit of its inputs is; of the image, where 0 and 1 are the limits."""
    step: float
    """What one unit of its output is."""
    table: Pixels | None = None
    """(256,) uint8: what others see for a byte of the output, if it is another one."""

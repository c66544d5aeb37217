"""The network of this process: tiles of pixels in, probability and distances out.

In f32, and in int8 where the CPU has AVX2 and no AMX, a U-Net is computed by `unet/`; everything else by
OpenVINO (`compiled.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from math import inf, log, prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from microtome.arrays import Band, Floats, Pixels
from microtome.compiled import Compiled
from microtome.cpu import InstructionSet, cores, this_instruction_set
from microtome.errors import BadModel, EngineUnsupported, OptionError
from microtome.grid import Sides
from microtome.model import Ir, ModelCard, Precision, ir_digest, read_card
from microtome.trimming import NO_SIDES
from microtome.unet.convolutions import Convolution
from microtome.unet.reading import read_unet

if TYPE_CHECKING:
    import openvino

COUNTED_PX = 512
LOGIT_MARGIN = 1e-3
_BY_UNET = {
    Precision.F32: frozenset(InstructionSet),
    # Its kernels are written for AVX2 at least.
    Precision.INT8: frozenset(InstructionSet) - {InstructionSet.OTHER},
    Precision.BF16: frozenset[InstructionSet](),
}
"""CPUs on which `unet/` computes each precision."""


class EngineName(StrEnum):
    """What computes a network: the last bits differ."""

    OPENVINO = "openvino"
    """`compiled.py`: any model, in any precision."""
    UNET = "unet"
    """`unet/`: most U-Nets, in f32 and int8."""


class Engine(Protocol):
    """What computes a network; for one thread at a time."""

    trimmed_px: int
    """Network px that an output lacks on each trimmed side of the tile."""

    def run(self, planes: Pixels, trimmed: Sides, least: float = -inf) -> Iterator[Band]:
        """The heads over a tile, from the top, some rows at a time.

        Parameters
        ----------
        planes
            (3, y, x) uint8, any layout of memory.
        trimmed
            Sides on which the result is smaller by `trimmed_px`.
        least
            Px whose logit is not larger need no distances: they may be any numbers.

        Yields
        ------
        Band
            Logits, which the probability is the sigmoid of, and distances, network px; float32. The heads
            have (y / grid, x / grid) px. Views that the next band overwrites.
        """
        ...

    def set_limits(self, limits: tuple[float, float]) -> None:
        """Pixel values seen as 0 and as 1 from now on."""
        ...


class Network:
    """A model ready to run on tiles of any shape; for one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def trimmed_px(self) -> int:
        """Network px that an output lacks on each trimmed side of the tile."""
        return self.engine.trimmed_px

    def set_limits(self, limits: tuple[float, float]) -> None:
        """Pixel values seen as 0 and as 1 from now on."""
        self.engine.set_limits(limits)

    def run(self, tile: Pixels, *, trimmed: Sides = NO_SIDES, threshold: float = 0) -> Iterator[Band]:
        """Probability and distances over a tile, from the top, some rows at a time.

        Parameters
        ----------
        tile
            (c, y, x) uint8, any layout of memory; c = R, G, B; sides are multiples of `align_px`.
        trimmed
            Sides on which the tile has the card's `halo_px`: what only the halo needs is left out.
            Outputs are smaller by `trimmed_px` there; the core's bits are the same.
        threshold
            Px that are less probable need no distances: they may be any numbers.

        Yields
        ------
        Band
            Probabilities, 0..1, and distances, network px, which may be negative; float32. They have
            (y / grid, x / grid) px. The distances are a view that the next band overwrites.
        """
        # A little less than the threshold's: the sigmoid of float32 is rounded.
        least = log(threshold / (1 - threshold)) - LOGIT_MARGIN if 0 < threshold < 1 else -inf
        bands = self.engine.run(tile, trimmed, least)
        del tile  # whoever gave it may let go of it
        for row, logits, dist in bands:
            yield row, _sigmoid(logits), dist


def _sigmoid(logits: Floats) -> Floats:
    """Here and not in the network, where it would cost a pass over all of its output."""
    found = np.maximum(logits, np.float32(-80))
    np.negative(found, out=found)
    np.exp(found, out=found)
    found += np.float32(1)
    return np.divide(np.float32(1), found, out=found)


def load_model(
    folder: Path,
    *,
    precision: Precision,
    threads: int,
    limits: tuple[float, float],
    engine: EngineName | None = None,
) -> Network:
    """A model, ready to run.

    Parameters
    ----------
    threads
        Threads that one tile is computed with; 0 is one for every core.
    limits
        Pixel values that the network sees as 0 and as 1.
    engine
        None is what `engine_of` says.

    Raises
    ------
    BadModel
        If the files are not those of the card, or OpenVINO cannot read them.
    EngineUnsupported
        If the engine cannot compute the model on this CPU.
    PrecisionMissing
        If the model has no network for this precision.
    OptionError
        If `limits` make no sense.
    """
    if not limits[0] < limits[1]:
        raise OptionError("limits", limits, "two pixel values, the lower one first")
    card = read_card(folder)
    files = checked_ir(folder, card.ir(precision))
    unet = _unet(files, card, precision, engine or _fastest(precision))
    if unet is None and engine is EngineName.UNET:
        raise EngineUnsupported(engine, precision, this_instruction_set())
    if unet is None:
        with _read(files) as model:
            return Network(
                Compiled(
                    model,
                    grid_px=card.grid,
                    halo_px=card.halo_px,
                    precision=precision,
                    limits=limits,
                    threads=threads,
                )
            )
    from microtome.unet.network import Unet  # numba: not for those who only plan

    return Network(
        Unet(unet, grid_px=card.grid, halo_px=card.halo_px, limits=limits, threads=threads or cores())
    )


def engine_of(folder: Path, precision: Precision) -> EngineName:
    """What computes a model best on this CPU.

    Raises
    ------
    BadModel
        If the files are not those of the card, or OpenVINO cannot read them.
    PrecisionMissing
        If the model has no network for this precision.
    """
    card = read_card(folder)
    files = checked_ir(folder, card.ir(precision))
    if _unet(files, card, precision, _fastest(precision)) is not None:
        return EngineName.UNET
    with _read(files):
        return EngineName.OPENVINO


def _fastest(precision: Precision) -> EngineName:
    """Of this CPU, for a U-Net."""
    # A cycle of AMX multiplies 16 times as many bytes as one of VNNI words, and OpenVINO has kernels for it.
    faster = precision is Precision.INT8 and this_instruction_set() is InstructionSet.AMX
    return EngineName.OPENVINO if faster else EngineName.UNET


def _unet(
    files: tuple[Path, Path], card: ModelCard, precision: Precision, engine: EngineName
) -> tuple[Convolution, ...] | None:
    if engine is EngineName.OPENVINO or this_instruction_set() not in _BY_UNET[precision]:
        return None
    return read_unet(*files, align_px=card.align_px, grid_px=card.grid)


def macs_px(folder: Path, precision: Precision) -> float:
    """Multiplications and additions that a model takes for a px of a large tile, nothing trimmed.

    Raises
    ------
    BadModel
        If the files are not those of the card, or OpenVINO cannot read them.
    PrecisionMissing
        If the model has no network for this precision.
    """
    with _read(checked_ir(folder, read_card(folder).ir(precision))) as model:
        model.reshape([1, 3, COUNTED_PX, COUNTED_PX])
    layers = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    # An output's size, times what goes into each of its numbers: (out, in, y, x) weights.
    macs = (prod(layer.get_output_shape(0)) * prod(layer.get_input_shape(1)[1:]) for layer in layers)
    return float(sum(macs)) / COUNTED_PX**2


@contextmanager
def _read(files: tuple[Path, Path]) -> "Iterator[openvino.Model]":
    """A network by OpenVINO; what that says of it meanwhile is a fault of its file."""
    import openvino as ov  # a tenth of a second, which the run of a U-Net does not need

    with refusing(files[0]):
        yield ov.Core().read_model(*files)


@contextmanager
def refusing(xml: Path) -> Iterator[None]:
    """What OpenVINO says of an IR, as a fault of that file."""
    try:
        yield
    except RuntimeError as error:
        raise BadModel(str(xml), str(error).strip().splitlines()[-1]) from error


def checked_ir(folder: Path, ir: Ir) -> tuple[Path, Path]:
    """The two files of an IR, their digest compared with the card's.

    Raises
    ------
    BadModel
        If they are not those of the card.
    """
    xml, weights = folder / ir.xml, folder / ir.bin
    try:
        found = ir_digest(xml, weights)
    except OSError as error:
        raise BadModel(str(error.filename), error.strerror or str(error)) from error
    if found != ir.digest:
        raise BadModel(str(xml), f"its digest is {found[:12]}…, but the card says {ir.digest[:12]}…")
    return xml, weights

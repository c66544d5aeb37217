"""The compiled model of this process: tiles of pixels in, probability and distances out."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microtome.arrays import Floats, Pixels
from microtome.errors import BadModel, OptionError
from microtome.grid import Sides
from microtome.model import Ir, Precision, ir_digest, read_card
from microtome.trimming import NO_SIDES, SIDES_INPUT, trim

if TYPE_CHECKING:
    import openvino

KERNELS_KEPT = 256
"""OpenVINO compiles some 16 for a new shape of tile, 1.7 MB, and would keep 5,000: memory that grows with
the slide. To compile them again takes one or two hundredths of a second, a tenth of what the tile takes."""

COUNTED_PX = 512


class Network:
    """A model ready to run on tiles of any shape; for one thread at a time.

    Pixels and results are planar: where shapes vary, OpenVINO turns channels around at the cost of
    a sixth of the network's time, and nobody needs it.
    """

    def __init__(
        self, compiled: "openvino.CompiledModel", *, limits: tuple[float, float], trimmed_px: int
    ) -> None:
        self.trimmed_px = trimmed_px
        """Network px that an output lacks on each trimmed side of the tile."""
        self._request = compiled.create_infer_request()
        self.set_limits(limits)

    def run(self, tile: Pixels, *, trimmed: Sides = NO_SIDES) -> tuple[Floats, Floats]:
        """Probability and distances over a tile.

        Parameters
        ----------
        tile
            (c, y, x) uint8, any layout of memory; c = R, G, B; sides are multiples of `align_px`.
        trimmed
            Sides on which the tile has the card's `halo_px`: what only the halo needs is left out.
            Outputs are smaller by `trimmed_px` there; the core's bits are the same.

        Returns
        -------
        prob
            (y / grid, x / grid) float32, 0..1.
        dist
            (n_rays, y / grid, x / grid) float32, network px; may be negative. A view that the next
            call overwrites.
        """
        import openvino as ov

        self._request.set_tensor(SIDES_INPUT, ov.Tensor(np.array(trimmed, np.int64)))
        planes = np.ascontiguousarray(tile[None])
        self._request.set_tensor("image", ov.Tensor(planes, shared_memory=True))
        # Shared: else the binding copies all outputs, 140 MB for a tile of 2,240 px.
        heads: Floats = self._request.infer(share_outputs=True)["heads"][0]
        # Here and not in the network, where it would cost a pass over all of its output.
        return 1 / (1 + np.exp(-np.maximum(heads[-1], -80))), heads[:-1]

    def set_limits(self, limits: tuple[float, float]) -> None:
        """Pixel values seen as 0 and as 1 from now on."""
        import openvino as ov

        for name, limit in zip(("low", "high"), limits, strict=True):
            self._request.set_tensor(name, ov.Tensor(np.full((1, 1, 1, 1), limit, np.float32)))


def load_model(folder: Path, *, precision: Precision, threads: int, limits: tuple[float, float]) -> Network:
    """A model, ready to run.

    Parameters
    ----------
    threads
        Threads that one tile is computed with.
    limits
        Pixel values that the network sees as 0 and as 1.

    Raises
    ------
    BadModel
        If the files are not those of the card, or OpenVINO cannot read them.
    PrecisionMissing
        If the model has no network for this precision.
    OptionError
        If `limits` make no sense.
    """
    import openvino as ov

    if not limits[0] < limits[1]:
        raise OptionError("limits", limits, "two pixel values, the lower one first")
    card = read_card(folder)
    xml, weights = checked_ir(folder, card.ir(precision))
    core = ov.Core()
    with refusing(xml):
        model = core.read_model(xml, weights)
        trimmed_px = trim(model, halo_px=card.halo_px, grid_px=card.grid)
        compiled = core.compile_model(prepare(model), "CPU", compile_options(precision, threads))
    return Network(compiled, limits=limits, trimmed_px=trimmed_px)


def macs_px(folder: Path, precision: Precision) -> float:
    """Multiplications and additions that a model takes for a px of a large tile, nothing trimmed.

    Raises
    ------
    BadModel
        If the files are not those of the card, or OpenVINO cannot read them.
    PrecisionMissing
        If the model has no network for this precision.
    """
    import openvino as ov

    xml, weights = checked_ir(folder, read_card(folder).ir(precision))
    with refusing(xml):
        model = ov.Core().read_model(xml, weights)
        model.reshape([1, 3, COUNTED_PX, COUNTED_PX])
    layers = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    # An output's size, times what goes into each of its numbers: (out, in, y, x) weights.
    macs = (prod(layer.get_output_shape(0)) * prod(layer.get_input_shape(1)[1:]) for layer in layers)
    return float(sum(macs)) / COUNTED_PX**2


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


def compile_options(precision: Precision, threads: int) -> dict[str, Any]:
    """Everything that OpenVINO would otherwise guess."""
    import openvino as ov

    # int8 layers are int8 because the IR quantizes them; the others compute in the hint's type.
    floats = ov.Type.bf16 if precision is Precision.BF16 else ov.Type.f32
    return {
        "INFERENCE_PRECISION_HINT": floats,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": KERNELS_KEPT,
    }


def prepare(model: "openvino.Model") -> "openvino.Model":
    """The network of an IR as `Network` runs it: bytes in, normalisation inside, any tile's shape.

    The limits stay inputs: as constants they would make a compiled model for every slide.
    """
    import openvino as ov
    from openvino import opset13 as op

    image = op.parameter([1, 3, -1, -1], ov.Type.u8, name="image")
    low = op.parameter([1, 1, 1, 1], ov.Type.f32, name="low")
    high = op.parameter([1, 1, 1, 1], ov.Type.f32, name="high")
    for parameter in (image, low, high):
        parameter.output(0).set_names({parameter.get_friendly_name()})
    pixels = op.divide(op.subtract(op.convert(image, "f32"), low), op.subtract(high, low))
    old, *others = model.get_parameters()
    for consumer in old.output(0).get_target_inputs():
        consumer.replace_source_output(pixels.output(0))
    (output,) = model.outputs
    heads = output.get_node().input_value(0)
    heads.set_names({"heads"})
    whole = ov.Model([op.result(heads)], [image, low, high, *others], model.get_friendly_name())
    whole.validate_nodes_and_infer_types()
    return whole

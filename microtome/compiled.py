"""A network as OpenVINO compiles it: any model, in any precision."""

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from microtome.arrays import Band, Floats, Pixels
from microtome.grid import Sides
from microtome.model import Precision
from microtome.trimming import SIDES_INPUT, trim

if TYPE_CHECKING:
    import openvino

KERNELS_KEPT = 256
"""OpenVINO compiles some 16 for a new shape of tile, 1.7 MB, and would keep 5,000: memory that grows with
the slide. To compile them again takes one or two hundredths of a second, a tenth of what the tile takes."""


class Compiled:
    """A model ready to run on tiles of any shape; for one thread at a time.

    Pixels and results are planar: where shapes vary, OpenVINO turns channels around at the cost of
    a sixth of the network's time, and nobody needs it.
    """

    def __init__(
        self,
        model: "openvino.Model",
        *,
        grid_px: int,
        halo_px: int,
        precision: Precision,
        limits: tuple[float, float],
        threads: int,
    ) -> None:
        """
        Parameters
        ----------
        model
            An IR as it was read; it is changed.
        grid_px, halo_px
            As the model's card has them.
        limits
            As for `set_limits`.
        threads
            That a tile is computed with; 0 is one for every core.

        Raises
        ------
        RuntimeError
            If OpenVINO cannot compile the model.
        """
        import openvino as ov

        self.trimmed_px = trim(model, halo_px=halo_px, grid_px=grid_px)
        compiled = ov.Core().compile_model(prepare(model), "CPU", compile_options(precision, threads))
        self._request = compiled.create_infer_request()
        self.set_limits(limits)

    def run(self, planes: Pixels, trimmed: Sides, least: float = -inf) -> Iterator[Band]:
        """The heads over a tile, as of `Engine`: all rows, all distances."""
        import openvino as ov

        self._request.set_tensor(SIDES_INPUT, ov.Tensor(np.array(trimmed, np.int64)))
        image = np.ascontiguousarray(planes)[None]
        self._request.set_tensor("image", ov.Tensor(image, shared_memory=True))
        # Shared: else the binding copies all outputs, 140 MB for a tile of 2,240 px.
        heads: Floats = self._request.infer(share_outputs=True)["heads"][0]
        yield 0, heads[-1], heads[:-1]

    def set_limits(self, limits: tuple[float, float]) -> None:
        """Pixel values seen as 0 and as 1 from now on."""
        import openvino as ov

        for name, limit in zip(("low", "high"), limits, strict=True):
            self._request.set_tensor(name, ov.Tensor(np.full((1, 1, 1, 1), limit, np.float32)))


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
    """The network of an IR as `Compiled` runs it: bytes in, normalisation inside, any tile's shape.

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

"""The compiled model of this process: tiles of pixels in, probability and distances out."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from microtome.arrays import Floats
from microtome.errors import BadModel, OptionError
from microtome.grid import Sides
from microtome.model import Ir, Precision, ir_digest, read_card
from microtome.trimming import NO_SIDES, SIDES_INPUT, trim

if TYPE_CHECKING:
    import openvino

type Shape = tuple[int, int]
"""(height, width) of a tile, halo included, network px; multiples of the card's `align_px`."""
type Kind = tuple[Shape, Sides]
"""Shape of a tile and which of its sides are trimmed."""

FIXED_BYTES = 640_000_000
"""What networks for single kinds of tiles may hold in memory, together."""
FIXED_AFTER_PX = 16_000_000
"""A kind of tile is worth a network of its own once so many px of it were seen: that network has
cost some 0.5 s before it saves 10 % (int8) of its time."""
BYTES_PER_PX: Mapping[Precision, int] = {Precision.F32: 290, Precision.BF16: 160, Precision.INT8: 105}
"""Memory of a network per px of its tile, measured."""


class Network:
    """A model ready to run on tiles of any shape; for one thread at a time.

    A network compiled for one shape is 5 % (f32) to 20 % (int8) faster on it than the one that
    takes any, but takes time to get going and memory of its own. So those shapes get one that most
    pixels come in, as many as `FIXED_BYTES` hold. The results have the same bits.
    """

    def __init__(
        self,
        compile_for: Callable[[Kind | None], "openvino.CompiledModel"],
        *,
        limits: tuple[float, float],
        bytes_per_px: int,
        trimmed_px: int,
    ) -> None:
        self._compile_for = compile_for
        self._limits = limits
        self._bytes_per_px = bytes_per_px
        self.trimmed_px = trimmed_px
        """Network px that an output lacks on each trimmed side of the tile."""
        self._any = self._ready(None)
        self._fixed: dict[Kind, openvino.InferRequest] = {}
        self._tiles: Counter[Kind] = Counter()

    def run(self, tile: npt.NDArray[np.uint8], *, trimmed: Sides = NO_SIDES) -> tuple[Floats, Floats]:
        """Probability and distances over a tile.

        Parameters
        ----------
        tile
            (y, x, c) uint8, C-contiguous; c = R, G, B; sides are multiples of `align_px`.
        trimmed
            Sides on which the tile has the card's `halo_px`: what only the halo needs is left out.
            Outputs are smaller by `trimmed_px` there; the core's bits are the same.

        Returns
        -------
        prob
            (y / grid, x / grid) float32, 0..1.
        dist
            (y / grid, x / grid, n_rays) float32, network px; may be negative. The rays of a px
            lie side by side in memory. A view that the next call overwrites.
        """
        import openvino as ov

        request = self._request_for(((tile.shape[0], tile.shape[1]), trimmed))
        if request is self._any:
            request.set_tensor(SIDES_INPUT, ov.Tensor(np.array(trimmed, np.int64)))
        request.set_tensor("image", ov.Tensor(tile[None], shared_memory=True))
        request.infer()
        heads = request.get_tensor("heads").data[0]
        # Here and not in the network, where it would cost a pass over all of its output.
        return 1 / (1 + np.exp(-np.maximum(heads[..., -1], -80))), heads[..., :-1]

    def set_limits(self, limits: tuple[float, float]) -> None:
        """Pixel values seen as 0 and as 1 from now on."""
        self._limits = limits
        for request in (self._any, *self._fixed.values()):
            _set_limits(request, limits)

    def _request_for(self, kind: Kind) -> "openvino.InferRequest":
        self._tiles[kind] += 1
        if kind not in self._fixed and self._seen_px(kind) >= FIXED_AFTER_PX and self._make_room(kind):
            self._fixed[kind] = self._ready(kind)
        return self._fixed.get(kind, self._any)

    def _make_room(self, kind: Kind) -> bool:
        """Give up networks of shapes that half as many pixels come in; whether that is enough."""
        losers = [other for other in self._fixed if 2 * self._seen_px(other) < self._seen_px(kind)]
        winners_px = sum(_area_px(other) for other in self._fixed if other not in losers)
        room_px = FIXED_BYTES // self._bytes_per_px - winners_px - _area_px(kind)
        if room_px < 0:
            return False
        for other in sorted(losers, key=self._seen_px):
            if sum(_area_px(each) for each in losers if each in self._fixed) > room_px:
                del self._fixed[other]
        return True

    def _seen_px(self, kind: Kind) -> int:
        return self._tiles[kind] * _area_px(kind)

    def _ready(self, kind: Kind | None) -> "openvino.InferRequest":
        request = self._compile_for(kind).create_infer_request()
        _set_limits(request, self._limits)
        return request


def _area_px(kind: Kind) -> int:
    return math.prod(kind[0])


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
    xml, weights = _checked(folder, card.ir(precision))
    core = ov.Core()

    def compile_for(kind: Kind | None) -> ov.CompiledModel:
        shape, sides = kind or (None, None)
        model = core.read_model(xml, weights)
        trim(model, sides, halo_px=card.halo_px, grid_px=card.grid)
        return core.compile_model(prepare(model, shape), "CPU", compile_options(precision, threads))

    try:
        trimmed_px = trim(core.read_model(xml, weights), NO_SIDES, halo_px=card.halo_px, grid_px=card.grid)
        return Network(
            compile_for, limits=limits, bytes_per_px=BYTES_PER_PX[precision], trimmed_px=trimmed_px
        )
    except RuntimeError as error:
        raise BadModel(str(xml), str(error).strip().splitlines()[-1]) from error


def _checked(folder: Path, ir: Ir) -> tuple[Path, Path]:
    """The two files of an IR, their digest compared with the card's."""
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
    }


def prepare(model: "openvino.Model", shape: Shape | None) -> "openvino.Model":
    """The network of an IR as `Network` runs it: bytes in, channels last, normalisation inside.

    The limits stay inputs: as constants they would make a compiled model for every slide.
    """
    import openvino as ov
    from openvino import opset13 as op

    height, width = shape or (-1, -1)
    image = op.parameter([1, height, width, 3], ov.Type.u8, name="image")
    low = op.parameter([1, 1, 1, 1], ov.Type.f32, name="low")
    high = op.parameter([1, 1, 1, 1], ov.Type.f32, name="high")
    for parameter in (image, low, high):
        parameter.output(0).set_names({parameter.get_friendly_name()})
    value = op.subtract(op.convert(image, "f32"), low)
    pixels = op.transpose(op.divide(value, op.subtract(high, low)), [0, 3, 1, 2])
    old, *others = model.get_parameters()
    for consumer in old.output(0).get_target_inputs():
        consumer.replace_source_output(pixels.output(0))
    (output,) = model.outputs
    heads = op.transpose(output.get_node().input_value(0), [0, 2, 3, 1])
    heads.output(0).set_names({"heads"})
    whole = ov.Model([op.result(heads)], [image, low, high, *others], model.get_friendly_name())
    whole.validate_nodes_and_infer_types()
    return whole


def _set_limits(request: "openvino.InferRequest", limits: tuple[float, float]) -> None:
    import openvino as ov

    for name, limit in zip(("low", "high"), limits, strict=True):
        request.set_tensor(name, ov.Tensor(np.full((1, 1, 1, 1), limit, np.float32)))

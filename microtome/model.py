"""A model on disk (OpenVINO IR + `model.json`) and the compiled model of this process.

A model is a folder: `model.json`, the card, and one IR (`.xml` and `.bin`) for floats and, where
it has been quantized, one for int8. What the card says is believed only where the digests of the
files agree with it. The choice of the precision is `cpu.py`'s, making a model `stardist_import.py`'s.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from microtome.arrays import Floats
from microtome.errors import BadModel, ModelNotFound, OptionError, PrecisionMissing

if TYPE_CHECKING:
    import openvino

CARD_FILE = "model.json"
DEFAULT_MODEL = "he-nuclei"


class Precision(StrEnum):
    """What the network computes in."""

    F32 = "f32"
    BF16 = "bf16"
    """The weights of the f32 IR, computed in bfloat16."""
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """Which pixel values of a slide become 0 and 1; measured once on its tissue."""

    low_percentile: float | None
    """None: pixel value 0 is 0, whatever the slide."""
    high_percentile: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Score on labelled validation images, none of them seen in training or calibration."""

    ap50: float
    """Average precision tp / (tp + fp + fn) at IoU 0.5, 0..1."""
    f1_50: float
    """F1 at IoU 0.5, 0..1."""
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ir:
    """The network for one precision: the names of its two files and what they are."""

    xml: str
    bin: str
    digest: str
    """sha256 of the xml file followed by the bin file, hex."""
    accuracy: Accuracy | None = None


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything that is known of a model, as `model.json` holds it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    kind: Literal["stardist-2d"] = "stardist-2d"
    name: str
    version: str
    stain: str
    mpp: float
    """Size of a network px, um/px."""
    n_rays: int
    grid: int
    """Network px per px of the output."""
    halo_px: int
    """Context that a px of the output depends on, on each side, rounded up to `align_px`."""
    align_px: int
    """Tiles begin and end at multiples of this."""
    prob_threshold: float
    nms_threshold: float
    normalisation: Normalisation
    precisions: Mapping[Precision, Ir]
    licence: str
    attribution: str
    source: str
    """Digest of the weights that it was made of: `sha256:` and hex."""
    assumptions: tuple[str, ...] = ()
    """What the source did not say and the importer took for granted, a sentence each."""

    def digest(self, precision: Precision) -> str:
        """sha256 of the IR that computes in this precision, hex."""
        return self.ir(precision).digest

    def ir(self, precision: Precision) -> Ir:
        try:
            return self.precisions[precision]
        except KeyError:
            have = ", ".join(sorted(self.precisions))
            raise PrecisionMissing(self.name, precision, have) from None

    def to_json(self) -> bytes:
        return _CARDS.dump_json(self, indent=1) + b"\n"


_CARDS: TypeAdapter[ModelCard] = TypeAdapter(ModelCard)


def read_card(folder: Path) -> ModelCard:
    """The card of the model in `folder`.

    Raises
    ------
    ModelNotFound
        If the folder has no card.
    BadModel
        If the card cannot be read, or says what no card says.
    """
    path = folder / CARD_FILE
    try:
        return _CARDS.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(str(folder)) from None
    except OSError as error:
        raise BadModel(str(path), error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadModel(str(path), f"{where}: {first['msg']}" if where else first["msg"]) from error


def write_card(card: ModelCard, folder: Path) -> None:
    (folder / CARD_FILE).write_bytes(card.to_json())


def ir_digest(xml: Path, weights: Path) -> str:
    """sha256 of the xml file followed by the bin file, hex."""
    return hashlib.sha256(xml.read_bytes() + weights.read_bytes()).hexdigest()


def models_folder() -> Path:
    """Where the models are that come with microtome: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(
        (f for f in (package / "models", package.parent / "models") if f.is_dir()), package / "models"
    )


def default_model() -> Path:
    return models_folder() / DEFAULT_MODEL


def find_model(name_or_path: str | None = None) -> Path:
    """The folder of a model: None is the default, else a folder, else one that comes with microtome.

    Raises
    ------
    ModelNotFound
        If there is no such model.
    """
    if name_or_path is None:
        return default_model()
    for folder in (Path(name_or_path), models_folder() / name_or_path):
        if (folder / CARD_FILE).is_file():
            return folder
    raise ModelNotFound(name_or_path)


type Shape = tuple[int, int]
"""(height, width) of a tile, halo included, network px; multiples of the card's `align_px`."""

FIXED_BYTES = 640_000_000
"""What networks for single shapes may hold in memory, together."""
FIXED_AFTER = 3
"""A shape is worth a network of its own once so many tiles of it were seen."""
BYTES_PER_PX: Mapping[Precision, int] = {Precision.F32: 290, Precision.BF16: 160, Precision.INT8: 105}
"""Memory of a network per px of its tile, measured."""


class Network:
    """A model ready to run on tiles of any shape; for one thread at a time.

    A network compiled for one shape is 5 % (f32) to 25 % (int8) faster on it than the one that
    takes any, but takes half a second to get going and memory of its own. So those shapes get one
    that most pixels come in, as many as `FIXED_BYTES` hold. The results have the same bits.
    """

    def __init__(
        self,
        compile_for: Callable[[Shape | None], "openvino.CompiledModel"],
        *,
        limits: tuple[float, float],
        bytes_per_px: int,
    ) -> None:
        self._compile_for = compile_for
        self._limits = limits
        self._bytes_per_px = bytes_per_px
        self._any = self._ready(None)
        self._fixed: dict[Shape, openvino.InferRequest] = {}
        self._tiles: Counter[Shape] = Counter()

    def run(self, tile: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Probability and distances over a tile.

        Parameters
        ----------
        tile
            (y, x, c) uint8, C-contiguous; c = R, G, B; sides are multiples of `align_px`.

        Returns
        -------
        prob
            (y / grid, x / grid) float32, 0..1.
        dist
            (y / grid, x / grid, n_rays) float32, network px; may be negative. The rays of a px
            lie side by side in memory. A view that the next call overwrites.
        """
        import openvino as ov

        request = self._request_for((tile.shape[0], tile.shape[1]))
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

    def _request_for(self, shape: Shape) -> "openvino.InferRequest":
        self._tiles[shape] += 1
        if shape not in self._fixed and self._tiles[shape] >= FIXED_AFTER and self._make_room(shape):
            # What any shape needs grew to the largest seen: let it go before more is taken.
            self._any = self._ready(None)
            self._fixed[shape] = self._ready(shape)
        return self._fixed.get(shape, self._any)

    def _make_room(self, shape: Shape) -> bool:
        """Give up networks of shapes that half as many pixels come in; whether that is enough."""
        losers = [other for other in self._fixed if 2 * self._seen_px(other) < self._seen_px(shape)]
        winners_px = sum(math.prod(other) for other in self._fixed if other not in losers)
        room_px = FIXED_BYTES // self._bytes_per_px - winners_px - math.prod(shape)
        if room_px < 0:
            return False
        for other in sorted(losers, key=self._seen_px):
            if sum(math.prod(each) for each in losers if each in self._fixed) > room_px:
                del self._fixed[other]
        return True

    def _seen_px(self, shape: Shape) -> int:
        return self._tiles[shape] * math.prod(shape)

    def _ready(self, shape: Shape | None) -> "openvino.InferRequest":
        request = self._compile_for(shape).create_infer_request()
        _set_limits(request, self._limits)
        return request


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
    ir = read_card(folder).ir(precision)
    xml, weights = _checked(folder, ir)
    core = ov.Core()

    def compile_for(shape: Shape | None) -> ov.CompiledModel:
        return core.compile_model(
            prepare(core.read_model(xml, weights), shape), "CPU", compile_options(precision, threads)
        )

    try:
        return Network(compile_for, limits=limits, bytes_per_px=BYTES_PER_PX[precision])
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
    (old,) = model.get_parameters()
    for consumer in old.output(0).get_target_inputs():
        consumer.replace_source_output(pixels.output(0))
    (output,) = model.outputs
    heads = op.transpose(output.get_node().input_value(0), [0, 2, 3, 1])
    heads.output(0).set_names({"heads"})
    whole = ov.Model([op.result(heads)], [image, low, high], model.get_friendly_name())
    whole.validate_nodes_and_infer_types()
    return whole


def _set_limits(request: "openvino.InferRequest", limits: tuple[float, float]) -> None:
    import openvino as ov

    for name, limit in zip(("low", "high"), limits, strict=True):
        request.set_tensor(name, ov.Tensor(np.full((1, 1, 1, 1), limit, np.float32)))

"""A model on disk (OpenVINO IR + `model.json`) and the compiled model of this process.

A model is a folder: `model.json`, the card, and one IR (`.xml` and `.bin`) for floats and, where
it has been quantized, one for int8. What the card says is believed only where the digests of the
files agree with it. The choice of the precision is `cpu.py`'s, making a model `stardist_import.py`'s.
"""

import hashlib
import os
import threading
from collections.abc import Mapping
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


class Network:
    """A compiled model. Threads may call `run` at once; each has its own request and outputs."""

    def __init__(self, compiled: "openvino.CompiledModel", limits: tuple[float, float]) -> None:
        self._compiled = compiled
        self._limits = [np.full((1, 1, 1, 1), limit, np.float32) for limit in limits]
        self._requests = threading.local()

    def run(self, tile: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Probability and distances over a tile.

        Parameters
        ----------
        tile
            (y, x, c) uint8, C-contiguous, of the compiled shape; c = R, G, B.

        Returns
        -------
        prob
            (y / grid, x / grid) float32, 0..1.
        dist
            (y / grid, x / grid, n_rays) float32, network px; may be negative. The rays of a px
            lie side by side in memory.

            A view that this thread's next call overwrites.
        """
        request = self._request()
        request.set_tensor("image", _tensor(tile[None]))
        request.infer()
        heads = request.get_tensor("heads").data[0]
        # Here and not in the network, where it would cost a pass over all of its output.
        return 1 / (1 + np.exp(-np.maximum(heads[..., -1], -80))), heads[..., :-1]

    def with_limits(self, limits: tuple[float, float]) -> "Network":
        """The same compiled model for a slide of other limits."""
        return Network(self._compiled, limits)

    def _request(self) -> "openvino.InferRequest":
        request = getattr(self._requests, "request", None)
        if request is None:
            request = self._requests.request = self._compiled.create_infer_request()
            for name, limit in zip(("low", "high"), self._limits, strict=True):
                request.set_tensor(name, _tensor(limit))
        return request


def load_model(
    folder: Path,
    *,
    precision: Precision,
    tile_shape: tuple[int, int] | None = None,
    threads: int,
    limits: tuple[float, float],
    cache: Path | None = None,
) -> Network:
    """Compile a model for tiles of one shape, or of any.

    Parameters
    ----------
    tile_shape
        (height, width) of tiles, halo included, network px; multiples of the card's `align_px`.
        None: tiles of any such shape, the first of each some tenths of a second slower.
    threads
        Threads that one tile is computed with.
    limits
        Pixel values that the network sees as 0 and as 1.
    cache
        Folder for compiled models, which makes the next start faster; `cache_folder()` by default.

    Raises
    ------
    BadModel
        If the files are not those of the card, or OpenVINO cannot read them.
    PrecisionMissing
        If the model has no network for this precision.
    OptionError
        If `tile_shape` or `limits` make no sense.
    """
    import openvino as ov

    card = read_card(folder)
    ir = card.ir(precision)
    if tile_shape is not None and any(side <= 0 or side % card.align_px for side in tile_shape):
        raise OptionError("tile_shape", tile_shape, f"multiples of {card.align_px} px")
    if not limits[0] < limits[1]:
        raise OptionError("limits", limits, "two pixel values, the lower one first")
    xml, weights = folder / ir.xml, folder / ir.bin
    try:
        found = ir_digest(xml, weights)
    except OSError as error:
        raise BadModel(str(error.filename), error.strerror or str(error)) from error
    if found != ir.digest:
        raise BadModel(str(xml), f"its digest is {found[:12]}…, but the card says {ir.digest[:12]}…")
    core = ov.Core()
    try:
        model = core.read_model(xml, weights)
    except RuntimeError as error:
        raise BadModel(str(xml), str(error).strip().splitlines()[-1]) from error
    options = compile_options(precision, threads) | {"CACHE_DIR": str(cache or cache_folder())}
    return Network(core.compile_model(prepare(model, tile_shape), "CPU", options), limits)


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


def cache_folder() -> Path:
    """Where compiled models are kept: `MICROTOME_CACHE`, or the user's cache folder."""
    base = os.environ.get("MICROTOME_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "microtome" / "openvino"


def prepare(model: "openvino.Model", tile_shape: tuple[int, int] | None) -> "openvino.Model":
    """The network of an IR as `Network` runs it: bytes in, channels last, normalisation inside.

    The limits stay inputs: as constants they would make a compiled model for every slide.
    """
    import openvino as ov
    from openvino import opset13 as op

    height, width = tile_shape or (-1, -1)
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


def _tensor(array: npt.NDArray[Any]) -> "openvino.Tensor":
    import openvino as ov

    return ov.Tensor(array, shared_memory=True)

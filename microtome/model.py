"""A model on disk: OpenVINO IR and `model.json`, its card.

A model is a folder: `model.json`, the card, and one IR (`.xml` and `.bin`) for floats and, where
it has been quantized, one for int8. What the card says is believed only where the digests of the
files agree with it. Running one is `network.py`'s job, the choice of the precision `cpu.py`'s, making a
model `stardist_import.py`'s.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from microtome.errors import BadModel, CannotWrite, ModelNotFound, PrecisionMissing
from microtome.model_bucket import CARD_FILE, fetch_model

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


def make_folder(out: Path) -> None:
    """The folder of a new model, unless it is there.

    Raises
    ------
    CannotWrite
        If it cannot be made, or nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise CannotWrite(str(out), str(error.strerror)) from error


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

    Of one in a bucket (`s3://…`), a local copy.

    Raises
    ------
    ModelNotFound
        If there is no such model.
    ModelUnreachable
        If its bucket cannot be asked.
    """
    if name_or_path is None:
        return default_model()
    if name_or_path.startswith("s3://"):
        return fetch_model(name_or_path)
    for folder in (Path(name_or_path), models_folder() / name_or_path):
        if (folder / CARD_FILE).is_file():
            return folder
    raise ModelNotFound(name_or_path)

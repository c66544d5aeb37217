"""The int8 twin of a model: made by NNCF from images, measured on others.

Every convolution becomes int8, the last ones too: they read the largest array of the network,
and in float they would take a quarter of the whole time. The scores stand in the card, and
`cpu.choose_precision` reads them there.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from microtome.arrays import Floats
from microtome.cpu import MAX_AP_LOSS
from microtome.errors import MissingExtra
from microtome.evaluation import score_all
from microtome.fields import limits_of
from microtome.labelled import LabelledImage, find_images
from microtome.model import (
    Accuracy,
    Ir,
    ModelCard,
    Normalisation,
    Precision,
    ir_digest,
    make_folder,
    read_card,
    write_card,
)
from microtome.network import checked_ir, refusing

CROPS = 300
CROP_PX = 256
SEED = 0


@dataclass(frozen=True, slots=True)
class Quantized:
    """A model with its int8 twin, and what every precision scores."""

    card: ModelCard
    folder: Path
    scores: Mapping[Precision, Accuracy]

    def __str__(self) -> str:
        exact, int8 = self.scores[Precision.F32], self.scores[Precision.INT8]
        gain = 100 * (int8.ap50 - exact.ap50)
        verdict = (
            "is chosen by --precision auto" if gain >= -100 * MAX_AP_LOSS else "only where it is asked for"
        )
        return (
            f"{self.card.name} {self.card.version} in {self.folder}: AP at IoU 0.5 {int8.ap50:.3f} in int8, "
            f"{exact.ap50:.3f} in f32 ({gain:+.1f} points on {exact.images} images); int8 {verdict}"
        )


def quantize(model_folder: Path, images: Path, out: Path, split: Path | None = None) -> Quantized:
    """Copy a model to the folder `out`, add its int8 twin, and score every precision.

    Parameters
    ----------
    images, split
        Images with known nuclei, at the model's um/px: see `labelled.find_images`. The twin is
        calibrated on those for training and scored on those for validation.

    Raises
    ------
    MissingExtra
        If NNCF is not installed.
    BadModel
        If the model's files are not those of its card, or OpenVINO cannot read them.
    CannotWrite
        If `out` cannot be made.
    NoLabelledImages
        If images are missing or cannot be read.
    """
    if find_spec("nncf") is None:  # before anything is written
        raise MissingExtra("making an int8 twin", extra="quantize")
    card = read_card(model_folder)
    train, _ = find_images(images, split)
    exact = checked_ir(model_folder, card.ir(Precision.F32))
    make_folder(out)
    if out.resolve() != model_folder.resolve():
        for path in exact:
            shutil.copyfile(path, out / path.name)
    _quantize_ir(exact[0], out / "int8.xml", list(crops(train, card.normalisation)))
    int8 = Ir(xml="int8.xml", bin="int8.bin", digest=ir_digest(out / "int8.xml", out / "int8.bin"))
    write_card(replace(card, precisions={**card.precisions, Precision.INT8: int8}), out)
    scores = {precision: found.accuracy for precision, found in score_all(out, images, split).items()}
    return Quantized(read_card(out), out, scores)


def crops(images: Sequence[LabelledImage], normalisation: Normalisation) -> Iterator[Floats]:
    """Calibration data: `CROPS` random squares, (1, c, y, x) float32, normalised by their image."""
    rng = np.random.default_rng(SEED)
    for index in rng.permutation(CROPS):
        pixels = images[index % len(images)].pixels()
        low, high = limits_of(pixels, normalisation)
        short = [max(0, CROP_PX - side) for side in pixels.shape[:2]]
        pixels = np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="symmetric")
        y, x = (rng.integers(0, side - CROP_PX + 1) for side in pixels.shape[:2])
        crop = pixels[y : y + CROP_PX, x : x + CROP_PX].astype(np.float32)
        yield np.ascontiguousarray(((crop - low) / (high - low)).transpose(2, 0, 1)[None], np.float32)


def _quantize_ir(exact: Path, out: Path, data: Sequence[Floats]) -> None:
    import nncf
    import openvino as ov
    from nncf.quantization import advanced_parameters as advanced

    with refusing(exact):
        model = ov.Core().read_model(exact)
    # SmoothQuant is for transformers; here it would only put multiplications between the layers.
    smooth = advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    model = nncf.quantize(
        model,
        nncf.Dataset(data),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(data),
        fast_bias_correction=True,
        advanced_parameters=advanced.AdvancedQuantizationParameters(smooth_quant_alphas=smooth),
    )
    ov.serialize(model, out, out.with_suffix(".bin"))

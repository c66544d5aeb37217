"""Trains the official StarDist package. A program of its own: `python train_stardist.py FOLDER`.

It runs in an environment that holds that package and TensorFlow, but not microtome (`make train-env`):
TensorFlow wants other versions of the libraries that both need. `training.py` starts it.

FOLDER holds `spec.json`, and as `train/SET/N.npz` and `validation/SET/N.npz` the images: `pixels`
(y, x, c) uint8, `truth` (y, x) int32 (negative: not judged), `limits` (2,), the values seen as 0 and
1. It makes `FOLDER/model`, a model folder of that package, and `FOLDER/history.json`, and prints a line that
begins with `epoch` after each.
"""

import json
import math
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import ndimage
from skimage.color import hed2rgb, rgb2hed
from stardist.models import Config2D, StarDist2D

MODEL = "model"
LAST_RATE = 0.01
"""Share of the learning rate that is left at the end."""
NOT_JUDGED, OUTSIDE = -1, -2

type Image = tuple[Any, Any]
"""Pixels (y, x, c) float32 and truth (y, x) int32."""


def main(folder: Path) -> None:
    """Train, keep the weights of the lowest validation loss, and choose the thresholds for them."""
    spec = json.loads((folder / "spec.json").read_text())
    np.random.seed(spec["seed"])  # noqa: NPY002 (patches are drawn by the package, from this generator)
    tf.random.set_seed(spec["seed"])
    model = _model(folder, spec)
    model.prepare_for_training()
    model.callbacks += [
        tf.keras.callbacks.LearningRateScheduler(partial(_rate, spec)),
        tf.keras.callbacks.LambdaCallback(on_epoch_end=partial(_tell, spec)),
    ]
    train, validation = _evened(_sets(folder / "train")), _joined(_sets(folder / "validation"))
    history = model.train(
        *train,
        validation_data=validation,
        augmenter=partial(_augment, np.random.default_rng(spec["seed"])),
        seed=spec["seed"],
        epochs=spec["epochs"],
        steps_per_epoch=spec["steps_per_epoch"],
    )
    # The package's own score knows no ground that is not judged: there, everything is background.
    model.optimize_thresholds(validation[0], [np.maximum(truth, 0) for truth in validation[1]])
    losses = {name: [float(value) for value in values] for name, values in history.history.items()}
    (folder / "history.json").write_text(json.dumps(losses))


def _model(folder: Path, spec: dict[str, Any]) -> StarDist2D:
    settings = {
        "train_patch_size": (spec["patch_px"], spec["patch_px"]),
        "train_batch_size": spec["batch"],
        "train_learning_rate": spec["learning_rate"],
        "train_reduce_lr": None,
        "train_tensorboard": False,
    }
    if spec["start"] is None:
        unet = {"unet_n_filter_base": spec["filters"], "unet_n_depth": spec["depth"]}
        config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, **unet, **settings)
        return StarDist2D(config, name=MODEL, basedir=str(folder))
    start = Path(spec["start"])
    # Without a configuration the package takes a folder as it is; it writes below, so into a copy.
    shutil.copytree(start, folder / MODEL)
    model = StarDist2D(None, name=MODEL, basedir=str(folder))
    model.config.update_parameters(**settings)
    return model


def _rate(spec: dict[str, Any], epoch: int, _before: float) -> float:
    """Half a cosine, down to next to nothing: Loshchilov and Hutter 2017, arXiv:1608.03983."""
    left = (1 + math.cos(math.pi * epoch / spec["epochs"])) / 2
    return float(spec["learning_rate"] * (LAST_RATE + (1 - LAST_RATE) * left))


def _tell(spec: dict[str, Any], epoch: int, logs: dict[str, float]) -> None:
    # On a line of its own: the bar of Keras does not end its last one.
    print(
        f"\nepoch {epoch + 1} of {spec['epochs']}: loss {logs['loss']:.3f}, "
        f"on the images for validation {logs['val_loss']:.3f}",
        flush=True,
    )


def _sets(folder: Path) -> list[list[Image]]:
    """Of each set its images: pixels, as the network sees them, and truth."""
    return [[_image(path) for path in sorted(kind.glob("*.npz"))] for kind in sorted(folder.iterdir())]


def _image(path: Path) -> Image:
    with np.load(path) as image:
        low, high = image["limits"]
        return ((image["pixels"] - low) / (high - low)).astype(np.float32), image["truth"]


def _evened(sets: list[list[Image]]) -> tuple[list[Any], list[Any]]:
    """As often an image of each set, so that the largest is not all that is learnt."""
    most = max(len(images) for images in sets)
    return _joined([images * max(1, round(most / len(images))) for images in sets if images])


def _joined(sets: list[list[Image]]) -> tuple[list[Any], list[Any]]:
    images = [image for images in sets for image in images]
    return [pixels for pixels, _ in images], [truth for _, truth in images]


def _augment(rng: np.random.Generator, pixels: Any, truth: Any) -> Image:
    """Another scan of other tissue: turned, mirrored, another size, stain, light and focus."""
    pixels, truth = _moved(rng, pixels, truth)
    return _seen(rng, _stained(rng, pixels)), truth


def _moved(rng: np.random.Generator, pixels: Any, truth: Any) -> Image:
    angle, is_mirrored = rng.uniform(0, 2 * np.pi), bool(rng.integers(2))
    scale = rng.uniform(0.7, 1.4) * rng.uniform(0.93, 1.07, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([-1.0, 1.0] if is_mirrored else [1.0, 1.0]) / scale
    middle = (np.array(truth.shape) - 1) / 2
    offset = middle - matrix @ middle
    planes = [
        ndimage.affine_transform(plane, matrix, offset, order=1, mode="mirror")
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    truth = ndimage.affine_transform(truth, matrix, offset, order=0, mode="constant", cval=OUTSIDE)
    # Of a nucleus that reaches outside nobody knows where it ends: the picture goes on, mirrored.
    cut = np.unique(truth[ndimage.binary_dilation(truth == OUTSIDE, np.ones((3, 3)))])
    truth[np.isin(truth, cut[cut != 0])] = NOT_JUDGED
    return np.stack(planes, axis=2), truth


def _stained(rng: np.random.Generator, pixels: Any) -> Any:
    """More or less of each stain: Tellez et al. 2018, doi:10.1109/TMI.2018.2820199."""
    stains = rgb2hed(np.clip(pixels, 0, 1)) * rng.uniform(0.65, 1.4, 3) + rng.uniform(-0.03, 0.03, 3)
    return hed2rgb(stains)


def _seen(rng: np.random.Generator, pixels: Any) -> Any:
    pixels = np.clip(pixels, 0, 1) ** rng.uniform(0.75, 1.33) * rng.uniform(0.82, 1.12)
    pixels = pixels * rng.uniform(0.95, 1.05, 3)
    blurred = ndimage.gaussian_filter(pixels, (1, 1, 0))
    # Below 0 it is sharpened instead.
    pixels = pixels + rng.uniform(-0.5, 0.7) * (blurred - pixels)
    return (pixels + rng.normal(0, rng.uniform(0, 0.03), pixels.shape)).astype(np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

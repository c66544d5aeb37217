"""Trains the official StarDist package. A program of its own: `python train_stardist.py FOLDER`.

It runs in an environment that holds that package and TensorFlow, but not microtome (`make train-env`):
TensorFlow wants other versions of the libraries that both need. `training.py` starts it.

FOLDER holds `spec.json`, and as `train/N.npz` and `validation/N.npz` the images: `pixels` (y, x, c)
uint8, `truth` (y, x) int32 (negative: not judged), `limits` (2,), the values seen as 0 and 1. It
makes `FOLDER/model`, a model folder of that package, and `FOLDER/history.json`.
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from stardist.models import Config2D, StarDist2D

MODEL = "model"


def main(folder: Path) -> None:
    """Train, keep the weights of the lowest validation loss, and choose the thresholds for them."""
    spec = json.loads((folder / "spec.json").read_text())
    np.random.seed(spec["seed"])  # noqa: NPY002 (patches are drawn by the package, from this generator)
    tf.random.set_seed(spec["seed"])
    model = _model(folder, spec)
    train, validation = _images(folder / "train"), _images(folder / "validation")
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
        "train_tensorboard": False,
    }
    if spec["start"] is None:
        config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, **settings)
        return StarDist2D(config, name=MODEL, basedir=str(folder))
    start = Path(spec["start"])
    # Without a configuration the package takes a folder as it is; it writes below, so into a copy.
    shutil.copytree(start, folder / MODEL)
    model = StarDist2D(None, name=MODEL, basedir=str(folder))
    model.config.update_parameters(**settings)
    return model


def _images(folder: Path) -> tuple[list[Any], list[Any]]:
    pixels, truths = [], []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as image:
            low, high = image["limits"]
            pixels.append(((image["pixels"] - low) / (high - low)).astype(np.float32))
            truths.append(image["truth"])
    return pixels, truths


def _augment(rng: np.random.Generator, pixels: Any, truth: Any) -> tuple[Any, Any]:
    """Turned and mirrored, a little brighter or darker."""
    turns, is_mirrored = int(rng.integers(4)), bool(rng.integers(2))
    pixels, truth = np.rot90(pixels, turns), np.rot90(truth, turns)
    if is_mirrored:
        pixels, truth = pixels[::-1], truth[::-1]
    return pixels * np.float32(rng.uniform(0.85, 1.1)), truth


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A candidate model from labelled images: trained, imported, scored, as people see it in Prefect."""

import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.logging import get_run_logger

from microtome.model import Normalisation
from microtome.stardist_import import About
from microtome.training import Training
from microtome.training import train as train_model
from tasks.scores import show_scores

ENVIRONMENT = Path(__file__).resolve().parent.parent / ".train-env"


@flow(name="train", flow_run_name="{name} {version}")
def train(
    images: str,
    output: str,
    name: str,
    version: str,
    split: str | None = None,
    start: str | None = None,
    epochs: int = 100,
    mpp: float = 0.25,
    licence: str = "not stated",
    attribution: str = "not stated",
) -> dict[str, Any]:
    """Train a StarDist model and write it, with its card and scores, as OUTPUT/NAME-VERSION.

    A candidate only: nothing uses it before somebody names it as a model.

    Args:
        images: Folder with images/NAME.png and masks/NAME.png, or one of such folders, at the um/px below.
        output: Folder in which the model's folder is made.
        name: Name of the model.
        version: Version of the model.
        split: JSON that names the images to train and to validate on; left out, every fourth validates.
        start: Folder of a StarDist model to go on from; left out, it begins with nothing.
        epochs: Of 100 steps each, some 45 s on two cores.
        mpp: um/px of the images.
        licence: Of the images and so of the model, for its card.
        attribution: Whom to name, for its card.
    """
    about = About(
        name=name,
        version=version,
        mpp=mpp,
        normalisation=Normalisation(low_percentile=None, high_percentile=99.8),
        licence=licence,
        attribution=attribution,
    )
    python = Path(os.environ.get("MICROTOME_TRAIN_ENV", str(ENVIRONMENT))) / "bin" / "python"
    training = Training(epochs=epochs, start=start)
    candidate = train_model(
        Path(images),
        Path(split) if split else None,
        Path(output) / f"{name}-{version}",
        about,
        training,
        python,
    )
    get_run_logger().info(f"{candidate.folder}\n{candidate.evaluation}")
    show_scores(candidate.evaluation)
    return candidate.evaluation.as_json()

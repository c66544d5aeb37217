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
    filters: int = 32,
    depth: int = 3,
    epochs: int = 100,
    patch_px: int = 224,
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
        filters: Of the first layers, where it begins with nothing; 16 make a network of a third of the time.
        depth: How often it halves what it sees, where it begins with nothing; 2 are enough from 0.5 um/px on.
        epochs: Of 100 steps each, some 45 s on two cores.
        patch_px: Side of the squares that are learnt from; about 56 um see enough.
        mpp: um/px of the images.
        licence: Of the images and so of the model, for its card.
        attribution: Whom to name, for its card.
    """
    log = get_run_logger()
    about = About(
        name=name,
        version=version,
        mpp=mpp,
        normalisation=Normalisation(low_percentile=None, high_percentile=99.8),
        licence=licence,
        attribution=attribution,
    )
    python = Path(os.environ.get("MICROTOME_TRAIN_ENV", str(ENVIRONMENT))) / "bin" / "python"
    training = Training(epochs=epochs, start=start, filters=filters, depth=depth, patch_px=patch_px)
    candidate = train_model(
        Path(images),
        Path(split) if split else None,
        Path(output) / f"{name}-{version}",
        about,
        training,
        python,
        log.info,
    )
    log.info(f"{candidate.folder}\n{candidate.evaluation}")
    show_scores(candidate.evaluation)
    return candidate.evaluation.as_json()

"""A new model: trained by the official StarDist package, imported, scored, written as a candidate.

The package runs in a process and an environment of its own (`train_stardist.py`). What it made
becomes OpenVINO IR here and is scored on images that it was not trained on.
"""

import json
import os
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from microtome.errors import OptionError, TrainingEnvironmentMissing, TrainingFailed
from microtome.evaluation import Evaluation, score_all
from microtome.fields import limits_of
from microtome.labelled import LabelledImage, find_sets
from microtome.model import ModelCard, Normalisation, Precision, read_card
from microtome.stardist_import import ASSUMED_NORMALISATION, About, import_stardist

PROGRAM = Path(__file__).with_name("train_stardist.py")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
LAST_LINES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a model is to be trained."""

    epochs: int = 100
    steps_per_epoch: int = 100
    start: str | None = None
    """Folder of a StarDist model to go on from; None: from nothing."""
    filters: int = 32
    """Of the network's first layers, where it begins with nothing: half as many take a third of the time."""
    depth: int = 3
    """How often it halves what it sees: each time doubles its context, and its halo with it."""
    learning_rate: float = 3e-4
    patch_px: int = 224
    batch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch", "filters", "depth"):
            if getattr(self, name) < 1:
                raise OptionError(name, getattr(self, name), "at least 1")
        step_px = 2 * 2**self.depth
        if self.patch_px < 64 or self.patch_px % step_px:
            raise OptionError("patch_px", self.patch_px, f"a multiple of {step_px} from 64")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that was trained; nobody has said yet that it is better."""

    folder: Path
    card: ModelCard
    evaluation: Evaluation


def train(
    images: Path,
    split: Path | None,
    out: Path,
    about: About,
    training: Training,
    python: Path,
    tell: Callable[[str], None] = print,
) -> Candidate:
    """Train on the training images of a folder and write the model to the new folder `out`.

    Parameters
    ----------
    images, split
        At the um/px that the model is to work at: see `labelled.find_sets`.
    about
        Its normalisation is that of the training too.
    python
        Of an environment with the package stardist.
    tell
        Is given a line after each epoch.

    Raises
    ------
    TrainingEnvironmentMissing
        If `python` is not there.
    NoLabelledImages
        If images are missing, or smaller than a patch.
    OptionError
        If `out` is there already.
    TrainingFailed
        If the package gives up.
    """
    if out.exists():
        raise OptionError("output", str(out), "a folder that is not there yet")
    if not python.is_file():
        raise TrainingEnvironmentMissing(str(python))
    sets = find_sets(images, split)
    with tempfile.TemporaryDirectory(prefix="microtome-train-") as temporary:
        work = Path(temporary)
        normalisation = about.normalisation or ASSUMED_NORMALISATION
        for number, found in enumerate(sets.values()):
            _write_images(found.train, work / "train" / str(number), training.patch_px, normalisation)
            _write_images(
                found.validation, work / "validation" / str(number), training.patch_px, normalisation
            )
        (work / "spec.json").write_text(json.dumps(asdict(training)))
        _run(python, work, tell)
        import_stardist(work / "model", out, about)
        history = json.loads((work / "history.json").read_text())
    evaluation = score_all(out, images, split)[Precision.F32]
    (out / "evaluation.json").write_text(evaluation.to_json())
    trained_on = [str(image.image) for found in sets.values() for image in found.train]
    unused = {"filters", "depth"} if training.start else set()  # that is for `start` to say
    how = {name: value for name, value in asdict(training).items() if name not in unused}
    told = {**how, "images": trained_on, "losses": history}
    (out / "training.json").write_text(json.dumps(told, indent=1))
    return Candidate(out, read_card(out), evaluation)


def _write_images(
    images: Sequence[LabelledImage], folder: Path, patch_px: int, normalisation: Normalisation
) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        pixels, truth = image.pixels(), image.truth()
        height, width = pixels.shape[:2]
        short = [max(0, patch_px - side) for side in (height, width)]
        truth = cv2.resize(truth, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int32)
        np.savez(
            folder / f"{number:05}.npz",
            limits=limits_of(pixels, normalisation),
            pixels=np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="symmetric"),
            truth=np.pad(truth, ((0, short[0]), (0, short[1])), mode="constant", constant_values=-1),
        )


def _run(python: Path, work: Path, tell: Callable[[str], None]) -> None:
    """The program, with its own libraries: ours must not get in its way."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONPATH")}
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        # -P: or our own stardist.py, beside the program, would be taken for the package.
        [python, "-P", PROGRAM, work],
        env={**environment, **QUIET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        try:
            for line in program.stdout or ():
                if line.startswith("epoch "):
                    tell(line.strip())
                if line.strip():
                    last.append(line.strip())
        except BaseException:
            program.kill()
            raise
    if program.returncode:
        raise TrainingFailed(" / ".join(last))

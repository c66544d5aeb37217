"""A model and images whose nuclei are known: how many it finds, by set and overlap."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from microtome.cpu import choose_precision, machine_record, runs
from microtome.fields import label_image, limits_of
from microtome.labelled import LabelledImage, find_sets
from microtome.model import Accuracy, Precision, find_model, read_card, write_card
from microtome.network import load_model
from microtome.scores import Agreement, Pair, agree

POOLED = "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What a model scores."""

    model: str
    version: str
    digest: str
    precision: Precision
    sets: Mapping[str, tuple[Agreement, ...]]
    """By set, an agreement an overlap; `all` is their sum."""

    @property
    def accuracy(self) -> Accuracy:
        """What the model's card says: the agreement of all sets together at an IoU of 0.5."""
        half, *_ = self.sets[POOLED] if POOLED in self.sets else next(iter(self.sets.values()))
        return Accuracy(ap50=round(half.ap, 4), f1_50=round(half.f1, 4), images=half.images)

    def rows(self) -> list[dict[str, str | int | float]]:
        """One a set and overlap; shares are 0..1."""
        return [
            {
                "set": name,
                "images": at.images,
                "IoU": at.iou,
                "AP": round(at.ap, 4),
                "F1": round(at.f1, 4),
                "precision": round(at.precision, 4),
                "recall": round(at.recall, 4),
                "found": at.tp + at.fp,
                "true": at.tp + at.fn,
            }
            for name, agreements in self.sets.items()
            for at in agreements
        ]

    def __str__(self) -> str:
        """A line a set: `he-nuclei 1.0 in f32: tnbc: AP 0.700, F1 0.823 at IoU 0.5 (7 images)`."""
        about = f"{self.model} {self.version} in {self.precision}"
        return "\n".join(
            f"{about}: {name}: AP {half.ap:.3f}, F1 {half.f1:.3f} at IoU {half.iou:g} ({half.images} images)"
            for name, (half, *_) in self.sets.items()
        )

    def as_json(self) -> dict[str, Any]:
        """Of strings, numbers and lists only."""
        about = {"model": self.model, "version": self.version, "digest": self.digest}
        return {**about, "precision": str(self.precision), "scores": self.rows()}

    def to_json(self) -> str:
        return json.dumps(self.as_json(), indent=1)


def evaluate(
    model: str | None, images: Path, split: Path | None = None, precision: Precision | None = None
) -> Evaluation:
    """Score a model on the validation images of every set.

    Parameters
    ----------
    model
        As `find_model` takes it.
    images, split
        At the model's um/px: see `labelled.find_sets`.
    precision
        The one that a run on this machine would take when None.

    Raises
    ------
    ModelNotFound, BadModel, PrecisionMissing
        If there is no such model, or not in this precision.
    NoLabelledImages
        If images are missing or cannot be read.
    """
    folder = find_model(model)
    card = read_card(folder)
    chosen, _ = choose_precision(card, precision, machine_record().instruction_set)
    sets = {
        name: agree(results(folder, chosen, found.validation))
        for name, found in find_sets(images, split).items()
        if found.validation
    }
    if len(sets) > 1:
        first, *others = sets.values()
        pooled = list(first)
        for agreements in others:
            pooled = [before + more for before, more in zip(pooled, agreements, strict=True)]
        sets[POOLED] = tuple(pooled)
    return Evaluation(
        model=card.name, version=card.version, digest=card.digest(chosen), precision=chosen, sets=sets
    )


def score_all(folder: Path, images: Path, split: Path | None = None) -> dict[Precision, Evaluation]:
    """Evaluate every precision of a model that this machine runs, and write the scores into its card.

    Raises
    ------
    NoLabelledImages
        If images are missing or cannot be read.
    """
    card, machine = read_card(folder), machine_record()
    found = {
        precision: evaluate(str(folder), images, split, precision)
        for precision in card.precisions
        if runs(precision, machine.instruction_set)
    }
    # A score of other images says nothing beside these: what was not measured has none.
    scored = {
        name: replace(ir, accuracy=found[name].accuracy if name in found else None)
        for name, ir in card.precisions.items()
    }
    write_card(replace(card, precisions=scored), folder)
    return found


def results(folder: Path, precision: Precision, images: Sequence[LabelledImage]) -> Iterator[Pair]:
    """(truth, labels found) of each image, at the image's own resolution."""
    card = read_card(folder)
    network = load_model(folder, precision=precision, threads=0, limits=(0.0, 255.0))
    for image in images:
        pixels, truth = image.pixels(), image.truth()
        network.set_limits(limits_of(pixels, card.normalisation))
        labels = label_image(network, card, pixels)
        rows, cols = (
            np.arange(side) * small // side for side, small in zip(truth.shape, labels.shape, strict=True)
        )
        yield truth, labels[rows[:, None], cols]

"""How well found nuclei agree with known ones, at several overlaps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from microtome.labelled import Truth

IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Nuclei of all images of a set together. A pair matches that shares more than `iou`."""

    iou: float
    images: int
    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        return self.tp / max(self.tp + self.fp, 1)

    @property
    def recall(self) -> float:
        return self.tp / max(self.tp + self.fn, 1)

    @property
    def f1(self) -> float:
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)

    @property
    def ap(self) -> float:
        """Average precision as StarDist's papers have it: tp / (tp + fp + fn)."""
        return self.tp / max(self.tp + self.fp + self.fn, 1)

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            iou=self.iou,
            images=self.images + other.images,
            tp=self.tp + other.tp,
            fp=self.fp + other.fp,
            fn=self.fn + other.fn,
        )


type Pair = tuple[Truth, npt.NDArray[np.integer]]
"""(truth, labels found) of an image, of one shape."""


def agree(pairs: Iterable[Pair], ious: Sequence[float] = IOUS) -> tuple[Agreement, ...]:
    """Agreement of results with the truth, pooled over all images, at each of the overlaps.

    Parameters
    ----------
    ious
        From 0.5 up: above it no two pairs share an object, so that matching is counting.
    """
    pooled = [Agreement(iou=iou, images=0, tp=0, fp=0, fn=0) for iou in ious]
    for truth, labels in pairs:
        one = _count(truth, labels, ious)
        pooled = [before + now for before, now in zip(pooled, one, strict=True)]
    return tuple(pooled)


def _count(truth: Truth, labels: npt.NDArray[np.integer], ious: Sequence[float]) -> list[Agreement]:
    """One image; what lies on ground that is not judged is left out."""
    ignored = truth < 0
    true_ids, true_map = np.unique(np.where(ignored, 0, truth), return_inverse=True)
    found_ids, found_map = np.unique(labels, return_inverse=True)
    shared = np.zeros((len(true_ids), len(found_ids)), np.int64)
    np.add.at(shared, (true_map.ravel(), found_map.ravel()), 1)
    on_ignored = np.bincount(found_map.ravel()[ignored.ravel()], minlength=len(found_ids))
    sizes = shared.sum(axis=0)
    judged = (found_ids > 0) & (on_ignored * 2 <= sizes)
    real = true_ids > 0
    union = shared.sum(axis=1)[:, None] + sizes[None, :] - shared
    shared, union = shared[np.ix_(real, judged)], union[np.ix_(real, judged)]
    tps = [int((shared > iou * union).sum()) for iou in ious]
    found, true = int(judged.sum()), int(real.sum())
    return [
        Agreement(iou=iou, images=1, tp=tp, fp=found - tp, fn=true - tp)
        for iou, tp in zip(ious, tps, strict=True)
    ]

"""Images whose nuclei are known: where they are, what is true of them, how well a result agrees.

A set is a folder with `images/NAME.png` and `masks/NAME.png`. Masks are label images, or binary
ones whose 4-connected components are the nuclei.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from microtome.errors import NoLabelledImages
from microtome.model import Accuracy

MIN_NUCLEUS_PX = 16
"""Smaller components of a binary mask are dirt."""
MIN_SOLIDITY = 0.9
"""Share of its convex hull that a component must fill to be taken for one nucleus, where masks merge."""

type Truth = npt.NDArray[np.int32]
"""(y, x) int32: 0 is background, negative is ground that is not judged, else a nucleus each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSet:
    """Images of one kind, by name, as a split file lists them."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    scale: float = 1.0
    """Network px per image px."""
    masks_merge: bool = False
    """Whether masks merge touching nuclei: components of low solidity are then not judged."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    image: Path
    mask: Path
    scale: float
    masks_merge: bool

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(y, x, c) uint8, c = R, G, B, at the network's resolution."""
        bgr = cv2.imread(str(self.image), cv2.IMREAD_COLOR)
        if bgr is None:
            raise NoLabelledImages(str(self.image), "cannot be read as an image")
        if self.scale != 1:
            bgr = cv2.resize(bgr, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)

    def truth(self) -> Truth:
        """Its nuclei, at the image's own resolution."""
        mask = cv2.imread(str(self.mask), cv2.IMREAD_UNCHANGED)
        if mask is None:
            raise NoLabelledImages(str(self.mask), "cannot be read as an image")
        plane = mask[..., 0] if mask.ndim == 3 else mask
        if len(np.unique(plane)) > 2:
            return plane.astype(np.int32)
        return _components(plane > 0, self.masks_merge)


def find_images(
    folder: Path, split: Path | None = None
) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]:
    """(training images, validation images).

    Parameters
    ----------
    folder
        A set; or, with a split file, the folder of its sets.
    split
        JSON of `{set: {train: [names], validation: [names], scale, masks_merge}}`. Without it,
        every fourth image of the set, by name, is for validation.

    Raises
    ------
    NoLabelledImages
        If there are none, or one that the split names is missing.
    """
    if split is None:
        names = sorted(path.name for path in (folder / "images").glob("*.png"))
        validation = tuple(names[3::4])
        sets = {".": ImageSet(train=tuple(n for n in names if n not in validation), validation=validation)}
    else:
        try:
            sets = _SPLITS.validate_json(split.read_bytes())
        except (OSError, ValidationError) as error:
            raise NoLabelledImages(str(split), f"is not a split file ({error})") from error
    train = tuple(
        image for name, chosen in sets.items() for image in _images(folder / name, chosen, chosen.train)
    )
    validation_images = tuple(
        image for name, chosen in sets.items() for image in _images(folder / name, chosen, chosen.validation)
    )
    if not train or not validation_images:
        raise NoLabelledImages(str(folder), "holds no images/NAME.png to train and to validate with")
    return train, validation_images


def score(pairs: Iterable[tuple[Truth, npt.NDArray[np.integer]]]) -> Accuracy:
    """Agreement of results with the truth, both (y, x) labels of one shape, pooled over all images.

    Above an IoU of a half no two pairs share an object, so that matching is counting.
    """
    tp = predicted = true = images = 0
    for truth, labels in pairs:
        images += 1
        matched, of_predicted, of_true = _count(truth, labels)
        tp, predicted, true = tp + matched, predicted + of_predicted, true + of_true
    found_or_true = predicted + true
    return Accuracy(
        ap50=round(tp / max(found_or_true - tp, 1), 4),
        f1_50=round(2 * tp / max(found_or_true, 1), 4),
        images=images,
    )


_SPLITS: TypeAdapter[dict[str, ImageSet]] = TypeAdapter(dict[str, ImageSet])


def _images(folder: Path, chosen: ImageSet, names: Iterable[str]) -> tuple[LabelledImage, ...]:
    images = tuple(
        LabelledImage(folder / "images" / name, folder / "masks" / name, chosen.scale, chosen.masks_merge)
        for name in names
    )
    for path in (path for image in images for path in (image.image, image.mask)):
        if not path.is_file():
            raise NoLabelledImages(str(path), "is missing")
    return images


def _components(mask: npt.NDArray[np.bool_], masks_merge: bool) -> Truth:
    """Each 4-connected component without its holes; -1 where it is not judged."""
    labels = np.zeros(mask.shape, np.int32)
    count, found = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    for label in range(1, count):
        component = (found == label).astype(np.uint8)
        contours, _ = cv2.findContours(component, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros_like(component), contours, -1, 1, cv2.FILLED) > 0
        if filled.sum() >= MIN_NUCLEUS_PX:
            labels[filled] = -1 if masks_merge and _solidity(filled) < MIN_SOLIDITY else label
    return labels


def _solidity(component: npt.NDArray[np.bool_]) -> float:
    """Area over that of the convex hull of its pixels' edge midpoints."""
    ys, xs = np.nonzero(component)
    steps = ((0, 0.5), (0, -0.5), (0.5, 0), (-0.5, 0))
    points = np.concatenate([np.stack([xs + dx, ys + dy], axis=1) for dy, dx in steps]).astype(np.float32)
    return len(ys) / max(cv2.contourArea(cv2.convexHull(points)), 1.0)


def _count(truth: Truth, labels: npt.NDArray[np.integer]) -> tuple[int, int, int]:
    """(pairs of IoU > 0.5, predicted objects, true objects), those on unjudged ground left out."""
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
    matches = (shared * 2 > union)[np.ix_(real, judged)]
    return int(matches.sum()), int(judged.sum()), int(real.sum())

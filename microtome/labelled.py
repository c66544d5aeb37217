"""Images whose nuclei are known: where they are, and what is true of them.

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


@dataclass(frozen=True, slots=True)
class Labelled:
    """The images of one set."""

    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]


def find_images(
    folder: Path, split: Path | None = None
) -> tuple[tuple[LabelledImage, ...], tuple[LabelledImage, ...]]:
    """(training images, validation images) of all sets: see `find_sets`."""
    sets = find_sets(folder, split).values()
    return (
        tuple(image for found in sets for image in found.train),
        tuple(image for found in sets for image in found.validation),
    )


def find_sets(folder: Path, split: Path | None = None) -> dict[str, Labelled]:
    """The sets of a folder by name.

    Parameters
    ----------
    folder
        A set; or a folder of sets.
    split
        JSON of `{set: {train: [names], validation: [names], scale, masks_merge}}`, or of
        `{train: {set: [names]}, validation: {set: [names]}}`. Without it, every fourth image of a
        set, by name, is for validation.

    Raises
    ------
    NoLabelledImages
        If there are none to train or none to validate with, or one that the split names is missing.
    """
    if split is None:
        places = {folder.name: folder} if (folder / "images").is_dir() else _sets_in(folder)
        chosen = {name: _every_fourth(place) for name, place in places.items()}
    else:
        try:
            found = _SPLITS.validate_json(split.read_bytes())
        except (OSError, ValidationError) as error:
            raise NoLabelledImages(str(split), f"is not a split file ({error})") from error
        chosen = found.by_set() if isinstance(found, _ByUse) else found
        places = {name: folder / name for name in chosen}
    sets = {
        name: Labelled(
            _images(places[name], images, images.train), _images(places[name], images, images.validation)
        )
        for name, images in chosen.items()
    }
    if not any(found.train for found in sets.values()) or not any(f.validation for f in sets.values()):
        raise NoLabelledImages(str(folder), "holds no images/NAME.png to train and to validate with")
    return sets


def _sets_in(folder: Path) -> dict[str, Path]:
    return {place.parent.name: place.parent for place in sorted(folder.glob("*/images"))}


def _every_fourth(place: Path) -> ImageSet:
    names = sorted(path.name for path in (place / "images").glob("*.png"))
    validation = tuple(names[3::4])
    return ImageSet(train=tuple(n for n in names if n not in validation), validation=validation)


@dataclass(frozen=True, slots=True)
class _ByUse:
    """A split file that says first what images are for, and then of which set they are."""

    train: dict[str, tuple[str, ...]]
    validation: dict[str, tuple[str, ...]]

    def by_set(self) -> dict[str, ImageSet]:
        return {
            name: ImageSet(train=self.train.get(name, ()), validation=self.validation.get(name, ()))
            for name in {**self.train, **self.validation}
        }


_SPLITS: TypeAdapter[dict[str, ImageSet] | _ByUse] = TypeAdapter(dict[str, ImageSet] | _ByUse)


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

"""Tissue that someone else has drawn: outlines in GeoJSON, or a mask image."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from microtome.arrays import Ints, Mask
from microtome.errors import TissueFileError
from microtome.slides.base import Slide
from microtome.tissue_mask import TissueMask, fit_cell

CELL_PX = 16
"""Outlines are rounded to cells of this side (larger on slides over 2e9 px), outwards."""
ASPECT_TOLERANCE = 0.01
"""A mask image may differ from the slide's ratio of sides by this much, or by the rounding to 1 px."""
FARTHEST_PX = 1e8
"""No coordinate of an outline is farther off."""
FIXED_POINT_BITS = 4
"""OpenCV draws with coordinates in sixteenths of a cell."""

type Ring = npt.NDArray[np.float64]


def read_tissue(path: str | Path, slide: Slide) -> TissueMask:
    """Read where the tissue is from a file.

    Parameters
    ----------
    path
        GeoJSON (`.geojson`, `.json`) with Polygon or MultiPolygon features in level-0 px, (x, y),
        as QuPath writes it; or an image that shows the whole slide at any size, where whatever
        is not 0 is tissue.

    Raises
    ------
    TissueFileError
        If it cannot be read, holds no tissue, lies off the slide, or is of another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise TissueFileError(str(path), "there is no such file", "check the path")
    if path.suffix.lower() in (".geojson", ".json"):
        mask = _from_polygons(path, slide)
    else:
        mask = _from_image(path, slide)
    if mask.is_empty:
        raise TissueFileError(str(path), "it holds no tissue", "mark some, or leave --tissue out")
    return mask


def _from_polygons(path: Path, slide: Slide) -> TissueMask:
    level = slide.levels[0]
    cell_px = fit_cell(level.height_px, level.width_px, CELL_PX)
    polygons = _read_polygons(path)
    cells = np.zeros((-(-level.height_px // cell_px), -(-level.width_px // cell_px)), np.uint8)
    for rings in polygons:
        # A cell's centre is at +0.5, where OpenCV has whole numbers.
        scaled = [
            np.rint((ring / cell_px - 0.5) * (1 << FIXED_POINT_BITS)).astype(np.int32) for ring in rings
        ]
        piece = np.zeros_like(cells)
        cv2.fillPoly(piece, scaled, 1, shift=FIXED_POINT_BITS)
        cells |= piece
    if polygons and not cells.any():
        size = f"{level.width_px:,} x {level.height_px:,} px"
        raise TissueFileError(
            str(path), f"its outlines lie off the slide ({size})", "give them in level-0 px, (x, y)"
        )
    return TissueMask.of(cells.astype(bool), cell_px, level.height_px, level.width_px)


def _read_polygons(path: Path) -> list[list[Ring]]:
    """Rings of every polygon: outer first, then holes; each (n, 2) float64, (x, y)."""
    try:
        return [
            [_ring(ring) for ring in polygon]
            for geometry in _geometries(json.loads(path.read_bytes()))
            for polygon in _polygons(geometry)
        ]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise TissueFileError(str(path), f"it is not GeoJSON ({error})", "export it again") from error


def _ring(positions: Any) -> Ring:
    ring = np.array(positions, np.float64)[:, :2]
    if not (np.abs(ring) <= FARTHEST_PX).all():
        raise ValueError(f"an outline with a coordinate beyond {FARTHEST_PX:.0e} px")
    return ring


def _geometries(found: Any) -> list[Any]:
    if isinstance(found, list):
        return [geometry for part in found for geometry in _geometries(part)]
    if found["type"] == "FeatureCollection":
        return _geometries(found["features"])
    if found["type"] == "GeometryCollection":
        return _geometries(found["geometries"])
    return [found["geometry"] if found["type"] == "Feature" else found]


def _polygons(geometry: Any) -> list[Any]:
    if geometry is None:  # allowed: a feature without a place
        return []
    if geometry["type"] == "MultiPolygon":
        return list(geometry["coordinates"])
    return [geometry["coordinates"]] if geometry["type"] == "Polygon" else []


def _from_image(path: Path, slide: Slide) -> TissueMask:
    level = slide.levels[0]
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if image is None:
        raise TissueFileError(
            str(path), "it is neither GeoJSON nor an image that can be read", "give .geojson, .png or .tif"
        )
    marked = image != 0 if image.ndim == 2 else (image[:, :, :3] != 0).any(axis=2)
    height, width = marked.shape
    fitting_px = height * level.width_px / level.height_px
    if abs(width - fitting_px) > max(1.0, ASPECT_TOLERANCE * fitting_px):
        raise TissueFileError(
            str(path),
            f"it is {width:,} x {height:,} px, of another shape than the slide "
            f"({level.width_px:,} x {level.height_px:,} px)",
            "give a mask of the whole slide, at any size",
        )
    cell_px = fit_cell(level.height_px, level.width_px, CELL_PX)
    return TissueMask.of(
        _cells_marked(marked, cell_px, level.height_px, level.width_px),
        cell_px,
        level.height_px,
        level.width_px,
    )


def _cells_marked(marked: Mask, cell_px: int, height_px: int, width_px: int) -> Mask:
    """(rows, cols) bool: which cells a marked pixel of the image reaches into."""
    before = cv2.integral(marked.astype(np.uint8), sdepth=cv2.CV_32S)
    top, bottom = _spans(marked.shape[0], cell_px, height_px)
    left, right = _spans(marked.shape[1], cell_px, width_px)
    inside = before[bottom][:, right] - before[top][:, right] - before[bottom][:, left] + before[top][:, left]
    return np.asarray(inside > 0)


def _spans(image_px: int, cell_px: int, slide_px: int) -> tuple[Ints, Ints]:
    """First and last + 1 image pixel that each cell of one axis reaches into."""
    starts = np.arange(0, slide_px, cell_px, dtype=np.int64)
    stops = np.minimum(starts + cell_px, slide_px)
    return starts * image_px // slide_px, -(-stops * image_px // slide_px)

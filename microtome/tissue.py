"""Where the tissue of a slide is: found on its overview, read from a file, or everywhere.

The record itself is `microtome.tissue_mask`, the colour range of a slide `microtome.stain`,
files of outlines `microtome.tissue_file`; their names are offered here too.

How it is found: stain has a hue and glass has none, so what counts is a pixel's chroma, the
spread of its three channels after the glass's own hue is taken off. Dust, shadows, seams
of the scanner, white and black filling and black ink are grey and fall out without a rule of
their own; pale and blurred tissue stays, as chroma falls with contrast but glass noise does too.
Coloured ink has a hue that stain has not. No learned part, integers only: the same pixels give
the same mask anywhere.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from microtome.arrays import Mask, Pixels
from microtome.slides import overview
from microtome.slides.base import Mpp, Slide
from microtome.stain import StainLimits, check_brightfield, find_limits
from microtome.tissue_file import read_tissue
from microtome.tissue_mask import TissueMask, all_tissue, fit_cell

__all__ = [
    "StainLimits",
    "TissueMask",
    "all_tissue",
    "check_brightfield",
    "find_limits",
    "find_tissue",
    "read_tissue",
]

DETAIL_UM = 4.0
"""Tissue is sought at about this many um/px: half a small nucleus, so that one alone still shows."""
USUAL_MPP = 0.25
"""Stands in for a resolution that nobody gave; it sets only how fine the overview is."""
MAX_OVERVIEW_PX = 110_000_000
"""330 MB as RGB; a slide of 163,000 px square stays at 4 um."""

FLAT_RANGE = 6
"""Glass varies by at most this in 3 x 3 px."""
GLASS_CHROMA = 10
"""Glass is no more coloured than this; a stronger tint is pale tissue."""
LEAST_GLASS = 0.005
"""Share of the slide that must look like glass before its hue is believed."""
LEAST_GLASS_PX = 64
"""And as many pixels of the overview."""
LEAST_CHROMA, MOST_CHROMA = 5, 10
"""Bounds of the chroma from which on a pixel is stained, 0..255; between them the glass decides."""
LEAST_STAIN_UM2 = 150.0
"""Chroma times area of a piece; less is debris or noise. The palest nucleus that was found has 300."""

INK_UM2 = 10_000.0
"""Ink is believed in pieces of at least this area."""
INK_RANGE = 12
"""Within 3 x 3 px ink varies by at most this; tissue under ink varies more."""

type Plane = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Glass:
    """The empty slide as the scanner shows it."""

    rgb: tuple[int, int, int]
    noise: int
    """Chroma that 99 % of the glass stays below."""

    @property
    def least_chroma(self) -> int:
        """Chroma from which on a pixel is stained."""
        return min(max(self.noise + 3, LEAST_CHROMA), MOST_CHROMA)


def find_tissue(slide: Slide, mpp: Mpp | None = None) -> TissueMask:
    """Find the stained tissue of a brightfield slide; pen marks beside it and filling are left out.

    Parameters
    ----------
    slide
        Any brightfield slide.
    mpp
        Its resolution where the slide does not say it; without either, 0.25 um/px is assumed.

    Returns
    -------
    TissueMask
        Cells of about 8 um (more on slides over 1e9 px), grown by one cell: a nucleus that
        straddles the edge of its cell keeps its context. Empty for a slide without tissue.
    """
    mpp = mpp or slide.mpp or Mpp(USUAL_MPP, USUAL_MPP)
    height_px, width_px = slide.levels[0].height_px, slide.levels[0].width_px
    wanted = 2 ** max(0, round(math.log2(DETAIL_UM / math.sqrt(mpp.y * mpp.x))))
    most_px = min(MAX_OVERVIEW_PX, math.ceil(height_px / wanted) * math.ceil(width_px / wanted))
    pixels, factor = overview(slide, most_px)
    stained = stained_pixels(pixels, mpp.y * mpp.x * factor**2)
    cell_px = fit_cell(height_px, width_px, 2 * factor)
    shape = -(-height_px // cell_px), -(-width_px // cell_px)
    cells = cv2.dilate(_any_in(stained, cell_px // factor, shape), np.ones((3, 3), np.uint8))
    return TissueMask(cells.astype(bool), cell_px, height_px, width_px)


def stained_pixels(pixels: Pixels, pixel_um2: float) -> Mask:
    """(y, x) bool: which pixels of an overview (c, y, x) are stained tissue.

    `pixel_um2` is the area of an overview pixel.
    """
    rgb = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    roughness = _range3(rgb[:, :, 1])
    glass = find_glass(rgb, roughness)
    chroma = _chroma(rgb, glass)
    stained: Plane = (chroma >= glass.least_chroma).astype(np.uint8)
    stained &= ~_ink_beside_tissue(rgb, roughness, glass, stained, pixel_um2) & 1
    return _without_specks(stained, chroma, LEAST_STAIN_UM2 / pixel_um2)


def find_glass(rgb: Plane, roughness: Plane) -> Glass:
    """The hue of the glass: of the brightest frequent kind of flat, nearly colourless pixels.

    The brightest, as flat pale tissue may cover more than glass does. Filling is not glass.
    A field without glass is judged against neutral white.
    """
    low, high = rgb.min(axis=2), rgb.max(axis=2)
    candidates = (roughness <= FLAT_RANGE) & (low >= 150) & (high - low <= GLASS_CHROMA) & (low < 254)
    green = rgb[:, :, 1][candidates]
    if len(green) < max(LEAST_GLASS * low.size, LEAST_GLASS_PX):
        return Glass((255, 255, 255), MOST_CHROMA)
    counts = np.bincount(green, minlength=256)
    near = np.convolve(counts, np.ones(5, np.int64), mode="same")
    brightest = int(np.flatnonzero(near >= len(green) // 10).max())
    mode = brightest - 8 + int(counts[brightest - 8 : brightest + 1].argmax())
    samples = rgb[candidates & (np.abs(rgb[:, :, 1].astype(np.int16) - mode) <= 4)].astype(np.int16)
    red, green_mode, blue = (int(np.percentile(samples[:, c], 50, method="lower")) for c in range(3))
    darker = np.array([red, green_mode, blue], np.int16) - samples
    spread = darker.max(axis=1) - darker.min(axis=1)
    return Glass((red, green_mode, blue), int(np.percentile(spread, 99, method="lower")))


def _range3(plane: Plane) -> Plane:
    """Greatest less smallest value in the 3 x 3 px around each pixel."""
    plane, square = np.ascontiguousarray(plane), np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(plane, square) - cv2.erode(plane, square), np.uint8)


def _chroma(rgb: Plane, glass: Glass) -> Plane:
    """How far the channels lie apart once the glass's hue is taken off, 0..255.

    Filling has no hue by nature, whatever the glass's: neutral pixels brighter or darker than
    any glass count as 0.
    """
    chroma = np.empty(rgb.shape[:2], np.uint8)
    offset = np.array(glass.rgb, np.int16)
    for y in range(0, len(rgb), 1024):  # in bands: int16 copies of a whole overview are large
        band = rgb[y : y + 1024]
        darker = offset - band
        spread = darker.max(axis=2) - darker.min(axis=2)
        spread[(band.min(axis=2) >= 254) | (band.max(axis=2) <= 16)] = 0
        chroma[y : y + 1024] = np.minimum(spread, 255)
    return chroma


def _ink_beside_tissue(rgb: Plane, roughness: Plane, glass: Glass, stained: Plane, pixel_um2: float) -> Plane:
    """1 where coloured pen marks lie on glass; tissue under a mark, or in doubt, is not ink.

    Ink is smooth, strong, and of a hue that H&E has not: less red than green (green and blue
    pens), far more blue than red (blue), or as little blue as green with all of its red (red).
    A piece must be large, and most of what lies around it must be glass.
    """
    ink = np.zeros(rgb.shape[:2], np.uint8)
    offset = np.array(glass.rgb, np.int16)
    for y in range(0, len(rgb), 1024):
        red, green, blue = np.moveaxis(offset - rgb[y : y + 1024], 2, 0)
        cold = (red - green >= 20) | ((red - blue >= 60) & (red - green >= -10))
        warm = (green >= 90) & (red <= 60) & (blue - red >= 90) & (np.abs(green - blue) <= 50)
        ink[y : y + 1024] = cold | warm
    smooth = ink & (roughness <= INK_RANGE)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(smooth, connectivity=4)
    if count == 1:
        return smooth
    square = np.ones((3, 3), np.uint8)
    beside = np.zeros(count, bool)
    for piece in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] * pixel_um2 >= INK_UM2):
        if piece:
            beside[piece] = _glass_around(pieces == piece, ink, stained) >= 0.5
    core = beside[pieces].astype(np.uint8)
    # The rim of a stroke is a mix of ink and glass: too rough for ink, too coloured for glass.
    rim = cv2.dilate(core, square, iterations=3) & ~cv2.dilate(stained & ~ink, square, iterations=2)
    return np.asarray(core | (rim & 1), np.uint8)


def _glass_around(piece: Mask, ink: Plane, stained: Plane) -> float:
    """Share of glass in what lies 5 to 6 px off a piece of ink, other ink left out."""
    near = cv2.dilate(piece.astype(np.uint8), np.ones((9, 9), np.uint8))
    ring = (cv2.dilate(near, np.ones((5, 5), np.uint8)) & ~near & ~ink & 1).astype(bool)
    return 1.0 - float(stained[ring].mean()) if ring.any() else 0.0


def _without_specks(stained: Plane, chroma: Plane, least: float) -> Mask:
    """Without the 8-connected pieces whose chroma adds up to less than `least`."""
    _, pieces = cv2.connectedComponents(stained, connectivity=8)
    kept = np.bincount(pieces.ravel(), weights=chroma.ravel()) >= least
    kept[0] = False
    return np.asarray(kept[pieces])


def _any_in(stained: Mask, block: int, shape: tuple[int, int]) -> Plane:
    """1 for each block of `block` x `block` pixels that holds a stained one; (rows, cols) as `shape`."""
    rows, cols = shape
    padded = np.zeros((rows * block, cols * block), np.uint8)
    padded[: stained.shape[0], : stained.shape[1]] = stained[: rows * block, : cols * block]
    return np.asarray(padded.reshape(rows, block, cols, block).max(axis=(1, 3)), np.uint8)

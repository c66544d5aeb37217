"""Where the tissue of a slide is, found on its overview.

The record itself is `microtome.tissue_mask`; tissue that someone has drawn is read by
`microtome.tissue_file`; the colour range of a slide is measured by `microtome.stain`.

How it is found: stain has a hue and glass has none, so what counts is a pixel's chroma, the
spread of its three channels after the glass's own hue is taken off. Dust, shadows, seams
of the scanner, white and black filling and black ink are grey and fall out without a rule of
their own; pale and blurred tissue stays, as chroma falls with contrast but glass noise does too.
Coloured ink has a hue that stain has not. No learned part, integers only: the same pixels give
the same mask anywhere.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from microtome.arrays import Ints, Mask, Pixels
from microtome.slides.base import Mpp, Slide
from microtome.slides.overview import averages, overview_downsample
from microtome.tissue_mask import TissueMask, fit_cell

CELL_UM = 16.0
"""About the side of a mask's cell: small beside a tile of the network (100 um and more)."""
DETAIL = 4
"""Tissue is sought at this many pixels a cell: at 4 um, half a small nucleus, one alone still shows."""
FINER = 4
"""And read up to so much finer: JPEG with halved chroma has no colours as fine as its pixels."""
MAX_OVERVIEW_PX = 10_240
"""On the longer side, as read, part by part. On slides over 40,000 px the above gives way to it."""
USUAL_MPP = 0.25
"""Stands in for a resolution that nobody gave; it sets only how fine the overview is."""
GROWN_PX = 2
"""Tissue is grown by about 8 um: a nucleus that straddles its edge keeps its context."""

EVEN_RANGE = 6
"""Glass varies by at most this in 3 x 3 px."""
GLASS_CHROMA = 10
"""Glass is hardly more coloured than this; a stronger tint is more often pale tissue."""
CALM_RANGE, CALM_CHROMA = 2, 24
"""Unless it is as even as no tissue is: tinted glass, or a scanner without white balance."""
LEAST_GLASS = 0.005
"""Share of the slide that must look like glass before its hue is believed."""
LEAST_GLASS_PX = 64
"""And as many pixels of the overview."""
LEAST_CHROMA, MOST_CHROMA = 5, 10
"""Bounds of the chroma from which on a pixel is stained, 0..255; between them the glass decides."""
SPECK_PX, LEAST_STAIN_UM2 = 64, 50.0
"""A piece of fewer pixels needs this area times chroma above the least; it is noise or debris else."""

INK_UM2 = 10_000.0
"""Ink is believed in pieces of at least this area."""
INK_RANGE = 12
"""Within 3 x 3 px ink varies by at most this; tissue under ink varies more."""

RIM_PX = 4
"""Ink runs out over at most so many pixels."""

BAND_PX = 256
"""Overviews are worked on in bands of so many rows, as int16 copies of a whole one are large."""
SPECK_BAND_PX = 1024
"""And specks are sought in bands of so many, with a margin: numbers of pieces take 105 MB of a whole one."""

type Plane = npt.NDArray[np.uint8]
"""(y, x) or (y, x, 3) uint8."""
type Planes = Sequence[npt.NDArray[Any]]
"""Red, green and blue apart: numpy works on them five times as fast as on pixels of three."""


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
        Cells of about 16 um (more on slides over 3e10 px). Empty for a slide without tissue.
    """
    mpp = mpp or slide.mpp or Mpp(USUAL_MPP, USUAL_MPP)
    height_px, width_px = slide.levels[0].height_px, slide.levels[0].width_px
    wanted_px = 2 ** max(0, round(math.log2(CELL_UM / math.sqrt(mpp.y * mpp.x))))
    finest_px = max(1, wanted_px // (DETAIL * FINER))
    downsample = overview_downsample(slide, min(MAX_OVERVIEW_PX, -(-max(height_px, width_px) // finest_px)))
    shrink = max(2, wanted_px // (DETAIL * downsample))
    factor = downsample * shrink
    stained = stained_pixels(averages(slide, factor, finer=shrink), mpp.y * mpp.x * factor**2)
    cell_px = fit_cell(height_px, width_px, max(wanted_px, factor))
    shape = -(-height_px // cell_px), -(-width_px // cell_px)
    cells = _any_in(_grow(stained, GROWN_PX), cell_px // factor, shape)
    return TissueMask.of(cells, cell_px, height_px, width_px)


def stained_pixels(pixels: Pixels, pixel_um2: float) -> Mask:
    """(y, x) bool: which pixels of an overview (c, y, x) are stained tissue.

    `pixel_um2` is the area of an overview pixel.
    """
    rgb = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    roughness = _roughness(rgb)
    glass = find_glass(rgb, roughness)
    chroma = _chroma(rgb, glass)
    chroma[roughness == 0] = 0  # filling, of whatever colour: the scanner has no two equal pixels
    ink = _has_hue_of_ink(rgb, glass)
    # On the largest slides a plane takes 26 MB, and the numbers of pieces of ink four times that.
    del pixels, rgb
    smooth_ink = roughness <= INK_RANGE
    smooth_ink &= ink
    del roughness
    core = _pieces_of_ink(ink, smooth_ink, chroma, glass, pixel_um2)
    del ink, smooth_ink
    stained = (chroma >= glass.least_chroma).view(np.uint8)
    stained[_with_rims(core, stained)] = 0
    del core
    np.maximum(chroma, glass.least_chroma, out=chroma)
    chroma -= np.uint8(glass.least_chroma)
    return _without_specks(stained, chroma, LEAST_STAIN_UM2 / pixel_um2)


def find_glass(rgb: Plane, roughness: Plane) -> Glass:
    """The hue of the glass: of the brightest frequent kind of even, nearly colourless pixels.

    The brightest, as even pale tissue may cover more than glass does. Filling is not glass.
    A field without glass is judged against neutral white.
    """
    bands = [slice(y, y + BAND_PX) for y in range(0, len(rgb), BAND_PX)]
    even = np.concatenate([_may_be_glass(rgb[band], roughness[band]) for band in bands])
    found = np.count_nonzero(even)
    if found < max(LEAST_GLASS * even.size, LEAST_GLASS_PX):
        return Glass((255, 255, 255), MOST_CHROMA)
    # Counted by value, never collected: glass may be most of the slide.
    counts = _counts(rgb[band][even[band], 1] for band in bands)
    near = np.convolve(counts, np.ones(5, np.int64), mode="same")
    brightest = int(np.flatnonzero(near >= found // 10).max())
    mode = brightest - 8 + int(counts[brightest - 8 : brightest + 1].argmax())
    for band in bands:
        even[band] &= np.abs(rgb[band, :, 1].astype(np.int16) - mode) <= 4
    red, green, blue = (
        _value_at(_counts(rgb[band][even[band], channel] for band in bands), 0.5) for channel in range(3)
    )
    glass = Glass((red, green, blue), 0)
    darker = (_darker(rgb[band][even[band]].T, glass) for band in bands)
    noise = _value_at(_counts(_most(band) - _least(band) for band in darker), 0.99)
    return replace(glass, noise=noise)


def _may_be_glass(rgb: Plane, roughness: Plane) -> Mask:
    """(y, x) bool: the pixels that are even, bright and nearly colourless, and no filling."""
    planes = cv2.split(rgb)
    low = _least(planes)
    tint = _most(planes) - low
    even = (roughness <= EVEN_RANGE) & (tint <= GLASS_CHROMA)
    even |= (roughness <= CALM_RANGE) & (tint <= CALM_CHROMA)
    return np.asarray(even & (roughness > 0) & (low >= 150) & (low < 254))


def _counts(bands: Iterable[npt.NDArray[Any]]) -> Ints:
    """(256,) int64: how often each value occurs in them."""
    counts = np.zeros(256, np.int64)
    for values in bands:
        counts += np.bincount(values, minlength=256)
    return counts


def _value_at(counts: Ints, share: float) -> int:
    """The value at that share, 0..1, of all counted ones in order; the lower one between two."""
    running = np.cumsum(counts)
    return int(np.searchsorted(running, int((running[-1] - 1) * share), side="right"))


def _roughness(rgb: Plane) -> Plane:
    """Greatest less smallest value in the 3 x 3 px around each pixel, in the channel with most of it."""
    roughness = np.empty(rgb.shape[:2], np.uint8)
    square = np.ones((3, 3), np.uint8)
    for y in range(0, len(rgb), BAND_PX):
        first = max(y - 1, 0)
        band = rgb[first : y + BAND_PX + 1]
        spread = _most(cv2.split(cv2.dilate(band, square) - cv2.erode(band, square)))
        roughness[y : y + BAND_PX] = spread[y - first :][:BAND_PX]
    return roughness


def _chroma(rgb: Plane, glass: Glass) -> Plane:
    """How far the channels lie apart once the glass's hue is taken off, 0..255.

    Filling has no hue by nature, whatever the glass's: neutral pixels brighter or darker than
    any glass count as 0.
    """
    chroma = np.empty(rgb.shape[:2], np.uint8)
    for y in range(0, len(rgb), BAND_PX):
        band = cv2.split(rgb[y : y + BAND_PX])
        darker = _darker(band, glass)
        spread = _most(darker) - _least(darker)
        spread[(_least(band) >= 254) | (_most(band) <= 16)] = 0
        chroma[y : y + BAND_PX] = np.minimum(spread, 255)
    return chroma


def _darker(planes: Planes, glass: Glass) -> Planes:
    """How much darker than the glass each channel is, -255..255."""
    return [np.int16(value) - plane for value, plane in zip(glass.rgb, planes, strict=True)]


def _least(planes: Planes) -> npt.NDArray[Any]:
    """The least channel of each pixel."""
    return np.asarray(reduce(np.minimum, planes))


def _most(planes: Planes) -> npt.NDArray[Any]:
    """The greatest channel of each pixel."""
    return np.asarray(reduce(np.maximum, planes))


def _with_rims(core: Mask, stained: Plane) -> Mask:
    """Pieces of ink with their rims.

    The rim of a stroke is a mix of ink and glass: too rough for ink, too coloured for glass.
    """
    if not core.any():
        return core
    # What is wider than a rim is tissue.
    wide = cv2.morphologyEx(stained & ~core, cv2.MORPH_OPEN, np.ones((2 * RIM_PX - 1,) * 2, np.uint8))
    return core | (_grow(core, RIM_PX) & ~_grow(wide.astype(bool), 1))


def _pieces_of_ink(ink: Mask, smooth_ink: Mask, chroma: Plane, glass: Glass, pixel_um2: float) -> Mask:
    """Where coloured pen marks lie on glass, without their rims.

    Tissue under a mark, or in doubt, is not ink. `ink` is what has its hue; a piece of it is large and
    smooth, and most of what lies around it is glass.
    """
    if np.count_nonzero(smooth_ink) * pixel_um2 < INK_UM2:
        return np.zeros(ink.shape, bool)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(smooth_ink.view(np.uint8), connectivity=4)
    beside = np.zeros(count, bool)
    for piece in range(1, count):
        if stats[piece, cv2.CC_STAT_AREA] * pixel_um2 >= INK_UM2:
            y0, x0 = (max(0, int(stats[piece, edge]) - 6) for edge in (cv2.CC_STAT_TOP, cv2.CC_STAT_LEFT))
            height, width = (int(stats[piece, size]) for size in (cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH))
            box = slice(y0, y0 + height + 12), slice(x0, x0 + width + 12)
            stained = chroma[box] >= glass.least_chroma
            beside[piece] = _glass_around(pieces[box] == piece, ink[box], stained) >= 0.5
    return np.asarray(beside[pieces])


def _has_hue_of_ink(rgb: Plane, glass: Glass) -> Mask:
    """Pixels of a strong hue that H&E has not.

    Less red than green (green and blue pens), far more blue than red (blue), or as little blue
    as green with nearly all of the red (red).
    """
    ink = np.zeros(rgb.shape[:2], bool)
    for y in range(0, len(rgb), BAND_PX):
        red, green, blue = _darker(cv2.split(rgb[y : y + BAND_PX]), glass)
        cold = (red - green >= 20) | ((red - blue >= 60) & (red - green >= -10))
        warm = (green >= 90) & (red <= 60) & (blue - red >= 90) & (np.abs(green - blue) <= 50)
        ink[y : y + BAND_PX] = cold | warm
    return ink


def _glass_around(piece: Mask, ink: Mask, stained: Mask) -> float:
    """Share of glass in what lies 5 to 6 px off a piece of ink, other ink left out."""
    near = _grow(piece, 4)
    ring = _grow(near, 2) & ~near & ~ink
    return 1.0 - float(stained[ring].mean()) if ring.any() else 0.0


def _grow(mask: Mask, by_px: int) -> Mask:
    side = 2 * by_px + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _without_specks(stained: Plane, excess: Plane, least: float) -> Mask:
    """Without the small 8-connected pieces whose excess chroma adds up to less than `least`."""
    kept = np.empty(stained.shape, bool)
    for y in range(0, len(stained), SPECK_BAND_PX):
        # A piece that reaches from a band beyond its margin has a pixel in each row: it is not small.
        top, bottom = max(0, y - SPECK_PX), y + SPECK_BAND_PX + SPECK_PX
        band = _without_specks_of(stained[top:bottom], excess[top:bottom], least)
        kept[y : y + SPECK_BAND_PX] = band[y - top :][:SPECK_BAND_PX]
    return kept


def _without_specks_of(stained: Plane, excess: Plane, least: float) -> Mask:
    # Memory of numpy's, which asks for large pages: most of OpenCV's time would go into small ones.
    count, numbers = cv2.connectedComponents(stained, np.empty(stained.shape, np.int32), connectivity=8)
    pieces = np.asarray(numbers)
    inside = stained.astype(bool)
    of_pieces, of_excess = pieces[inside], excess[inside]
    kept = np.bincount(of_pieces, minlength=count) >= SPECK_PX
    small = ~kept[of_pieces]
    kept |= np.bincount(of_pieces[small], weights=of_excess[small], minlength=count) >= least
    inside[inside] = kept[of_pieces]
    return inside


def _any_in(stained: Mask, block: int, shape: tuple[int, int]) -> Mask:
    """For each block of `block` x `block` pixels, whether one is stained; (rows, cols) as `shape`."""
    rows, cols = shape
    padded = np.zeros((rows * block, cols * block), bool)
    padded[: stained.shape[0], : stained.shape[1]] = stained[: rows * block, : cols * block]
    # One after the other: numpy takes eight times as long for both axes at once.
    return np.asarray(
        padded.reshape(rows, block, cols * block).any(axis=1).reshape(rows, cols, block).any(axis=2)
    )

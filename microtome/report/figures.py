"""Pictures of the report: the overview with density as colour, and fields at full resolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import cv2
import numpy as np
import simplejpeg
from pydantic import Base64Bytes

from microtome.arrays import Floats, Mask, Pixels
from microtome.grid import Window
from microtome.nuclei import Nuclei
from microtome.plan import Plan
from microtome.report.density import Density, Region, ticks
from microtome.slides.base import Level, Slide

type Rgb = Pixels
"""(y, x, 3) uint8."""

OVERVIEW_PX = 1280
"""Longer side of the overview, about."""
BAND_PX = 8_000_000
"""Pixels read at once for the overview."""
LEAST_CHROMA = 14
"""Of a stained pixel: the largest less the smallest of R, G, B."""
JPEG_QUALITY = 84
INK = (26, 26, 26)
LEGEND_PX = 96


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """The slide, small."""

    rgb: Rgb
    level0_px: float
    """Level-0 px per px of the picture."""

    def stained(self, window: Window) -> float:
        """Share of a window (level-0 px) that has colour, 0..1."""
        y0, x0 = int(window.y0 / self.level0_px), int(window.x0 / self.level0_px)
        y1, x1 = ceil(window.y1 / self.level0_px), ceil(window.x1 / self.level0_px)
        part = self._has_colour[y0:y1, x0:x1]
        return float(part.mean()) if part.size else 0.0

    @cached_property
    def _has_colour(self) -> Mask:
        red, green, blue = cv2.split(self.rgb)
        high, low = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
        return np.asarray(cv2.subtract(high, low) > LEAST_CHROMA)


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A region to show: pixels as JPEG, outlines as an SVG path in px of the region."""

    region: Region
    jpeg: Base64Bytes
    path: str
    nuclei: int
    """With their centre in the region."""
    per_mm2: float


def read_overview(slide: Slide, levels: Sequence[Level]) -> Overview:
    """The slide at some OVERVIEW_PX, read in bands from that of the levels which is next above that size."""
    longer = max(levels[0].height_px, levels[0].width_px)
    fine = [number for number, level in enumerate(levels) if longer / level.downsample >= OVERVIEW_PX]
    number = fine[-1] if fine else 0
    level = levels[number]
    step = max(1, round(max(level.height_px, level.width_px) / OVERVIEW_PX))
    rows = max(1, BAND_PX // level.width_px // step) * step
    bands = []
    for y0 in range(0, level.height_px // step * step, rows):
        y1 = min(y0 + rows, level.height_px // step * step)
        pixels = slide.read(number, Window(y0, 0, y1, level.width_px // step * step))
        rgb = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
        size = rgb.shape[1] // step, rgb.shape[0] // step
        bands.append(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))
    return Overview(rgb=np.concatenate(bands), level0_px=level.downsample * step)


def colours() -> Rgb:
    """(256, 3) uint8: viridis from yellow (few) to dark violet (many), monotone in lightness.

    Readable without colour vision and in black and white (van der Walt and Smith 2015).
    """
    ramp = cv2.applyColorMap(np.arange(255, -1, -1, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(ramp[:, 0, ::-1])


def draw_density(overview: Overview, density: Density) -> Rgb:
    """Density as colour over the slide in grey; glass stays white; a line around the tissue."""
    height, width = overview.rgb.shape[:2]
    grey = cv2.cvtColor(overview.rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    dark, bright = (float(level) for level in np.quantile(grey, (0.01, 0.98)))
    light = np.clip((grey - dark) / max(bright - dark, 0.1), 0, 1)[..., None]
    shade = np.clip(density.per_mm2 / density.top * 255, 0, 255)
    has_tissue = np.isfinite(shade)
    small = colours()[np.where(has_tissue, shade, 0).astype(np.uint8)]
    cells = overview.level0_px / density.cell_px
    colour = _enlarge(_spread(small, has_tissue), cells, (height, width))
    share = _enlarge(density.tissue.astype(np.float32), cells, (height, width))
    cover = np.clip(share * 5 - 1.4, 0, 1)[..., None]
    white = 255 * (0.45 + 0.55 * light)
    out = np.clip(white * (1 - cover) + colour * (0.55 + 0.45 * light) * cover, 0, 255).astype(np.uint8)
    contours, _ = cv2.findContours((share > 0.4).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(out, contours, -1, INK, 1, cv2.LINE_AA)
    return np.ascontiguousarray(out)


def draw_standalone(picture: Rgb, overview: Overview, regions: Sequence[Region], top: float) -> Rgb:
    """The overview as a file of its own: with numbered fields and a legend below it."""
    height, width = picture.shape[:2]
    sheet = np.full((height + LEGEND_PX, max(width, 420), 3), 255, np.uint8)
    sheet[:height, :width] = picture
    for number, region in enumerate(regions, 1):
        y0, x0, y1, x1 = (
            round(side / overview.level0_px)
            for side in (region.window.y0, region.window.x0, region.window.y1, region.window.x1)
        )
        cv2.rectangle(sheet, (x0, y0), (x1, y1), (255, 255, 255), 4)
        cv2.rectangle(sheet, (x0, y0), (x1, y1), INK, 2)
        cv2.rectangle(sheet, (x1, y0 - 24), (x1 + 22, y0), (255, 255, 255), -1)
        cv2.rectangle(sheet, (x1, y0 - 24), (x1 + 22, y0), INK, 1)
        _write(sheet, str(number), (x1 + 5, y0 - 5), 0.65)
    ramp = cv2.resize(colours()[None], (320, 18), interpolation=cv2.INTER_LINEAR)
    y = height + 40
    sheet[y : y + 18, 24:344] = ramp
    _write(sheet, "nuclei per mm2 of tissue", (24, y - 12), 0.55)
    for step, value in enumerate(ticks(top)):
        _write(sheet, f"{value:,.0f}", (24 + step * 80 - (0 if step == 0 else 14), y + 40), 0.5)
    return sheet


def _write(sheet: Rgb, text: str, place: tuple[int, int], size: float) -> None:
    cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)


def show_region(plan: Plan, region: Region, slide: Slide, nuclei: Nuclei) -> Field:
    """A field at full resolution; `nuclei` are those whose outline may reach into it, or more."""
    window = region.window
    nuclei = nuclei_within(nuclei, window)
    inside = sum(window.holds(y, x) for y, x in nuclei.centre_px.tolist())
    area_mm2 = window.area_px * plan.pixel_area_um2 / 1e6
    return Field(
        region=region,
        jpeg=jpeg(np.ascontiguousarray(np.moveaxis(slide.read(0, window), 0, 2))),
        path=outline_path(nuclei, window),
        nuclei=inside,
        per_mm2=inside / area_mm2,
    )


def nuclei_within(nuclei: Nuclei, window: Window) -> Nuclei:
    """Those whose outline's bounds meet the window, in their order."""
    if not len(nuclei):
        return nuclei
    low = np.minimum.reduceat(nuclei.outline_px, nuclei.offsets[:-1], axis=0)
    high = np.maximum.reduceat(nuclei.outline_px, nuclei.offsets[:-1], axis=0)
    meets = (high > (window.y0, window.x0)) & (low < (window.y1, window.x1))
    return nuclei.take(np.flatnonzero(meets.all(axis=1)))


def outline_path(nuclei: Nuclei, window: Window) -> str:
    """Data of an SVG path with every outline, px of the window to a tenth."""
    tenths = np.round((nuclei.outline_px - (window.y0, window.x0)) * 10).astype(np.int64)
    steps = np.diff(tenths, axis=0, prepend=0)
    parts = []
    for start, stop in zip(nuclei.offsets[:-1], nuclei.offsets[1:], strict=True):
        first = tenths[start]
        rest = " ".join(f"{x / 10:g},{y / 10:g}" for y, x in steps[start + 1 : stop].tolist())
        parts.append(f"M{first[1] / 10:g},{first[0] / 10:g}l{rest}z")
    return "".join(parts)


def jpeg(rgb: Rgb) -> bytes:
    return bytes(simplejpeg.encode_jpeg(rgb, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"))


def png(rgb: Rgb) -> bytes:
    _, text = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 6])
    return text.tobytes()


def _enlarge(cells: Rgb | Floats, scale: float, shape: tuple[int, int]) -> Floats:
    """Values of cells at every px of the overview, linear between their middles."""
    # cv2 has pixel centres at whole numbers: x_cell + 0.5 = (x + 0.5) * scale.
    shift = scale / 2 - 0.5
    matrix = np.array([[scale, 0, shift], [0, scale, shift]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    wide = cv2.warpAffine(cells, matrix, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return wide.astype(np.float32)


def _spread(colour: Rgb, known: Mask) -> Rgb:
    """Colours of the nearest known cell where there is none, so that edges do not fade to another's."""
    if not known.any() or known.all():
        return colour
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros((labels.max() + 1, 3), np.uint8)
    by_label[labels[known]] = colour[known]
    spread: Rgb = by_label[labels]
    return spread

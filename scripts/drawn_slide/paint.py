"""From a layout to pixels: any block alone, equal to the same pixels of its neighbours' blocks.

Colour by optical density: what haematoxylin and eosin take away from the lamp's light.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from drawn_slide.layout import BLOCK_PX, CELL_PX, MARGIN_CELLS, Field, Layout
from drawn_slide.truth import Truth

HALO_PX = 16
"""Around a block: reach of the blurs."""
SIDE_PX = BLOCK_PX + 2 * HALO_PX
STRIP_PX = 64
"""Rows at a time, so that what is between two steps stays in the cache."""
SHIFT = 4
"""cv2 takes vertices in 1/16 px."""
SURELY_GLASS = -0.4
"""Where the field of tissue is below this, no noise brings it to the surface."""
HAEMATOXYLIN = (0.62, 0.70, 0.36)
EOSIN = (0.09, 0.46, 0.22)
LAMP = (244.0, 243.0, 246.0)

type Rgb = npt.NDArray[np.uint8]
"""(y, x, 3) uint8."""
type Layer = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Textures:
    """Noise that repeats, with periods that have no common factor, so their sum does not."""

    grain: Field
    clump: Field
    mid: Field
    sensor: Field


def make_textures(seed: int) -> Textures:
    rng = np.random.default_rng([seed, 1])
    return Textures(
        grain=_texture(rng, 1091, 1.3),
        clump=_texture(rng, 1237, 2.2),
        mid=_texture(rng, 1423, 9.0),
        sensor=_repeat(rng.standard_normal((1103, 1103)).astype(np.float32) * 1.6),
    )


def paint(layout: Layout, textures: Textures, row: int, col: int) -> Rgb:
    """Block (row, col): (1024, 1024, 3) uint8, whole even where it leaves the slide."""
    y_px, x_px = row * BLOCK_PX - HALO_PX, col * BLOCK_PX - HALO_PX
    gland, lumen = _glands(layout, y_px, x_px)
    nucleus, dense, rough = _nuclei(layout.nuclei, y_px, x_px)
    inputs = _Inputs(
        grain=_cut(textures.grain, y_px, x_px),
        clump=_cut(textures.clump, y_px, x_px),
        mid=_cut(textures.mid, y_px, x_px),
        sensor=_cut(textures.sensor, y_px, x_px),
        tissue=_enlarge(layout.tissue, row, col),
        crowd=_enlarge(layout.crowd, row, col),
        fibre=_enlarge(layout.fibre, row, col),
        stain=_enlarge(layout.stain, row, col),
        gland=gland,
        lumen=lumen,
        nucleus=nucleus,
        dense=dense,
        rough=rough,
        dust=_dust(layout, y_px, x_px),
    )
    rgb = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    for y in range(0, SIDE_PX, STRIP_PX):
        part = inputs.rows(slice(y, y + STRIP_PX))
        _light(part, *_stains(part), rgb[y : y + STRIP_PX])
    return np.ascontiguousarray(cv2.GaussianBlur(rgb, (3, 3), 0.5)[HALO_PX:-HALO_PX, HALO_PX:-HALO_PX])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Inputs:
    """All that the colour of a pixel follows from, (y, x) float32 each."""

    grain: Field
    clump: Field
    mid: Field
    sensor: Field
    tissue: Field
    crowd: Field
    fibre: Field
    stain: Field
    gland: Field
    lumen: Field
    nucleus: Field
    dense: Field
    rough: Field
    dust: Field

    def rows(self, rows: slice) -> "_Inputs":
        return _Inputs(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def _stains(part: _Inputs) -> tuple[Field, Field]:
    """Amounts of eosin and of haematoxylin."""
    if part.tissue.max() < SURELY_GLASS and not part.nucleus.any():
        return np.zeros_like(part.tissue), np.zeros_like(part.tissue)
    cover = np.clip((part.tissue - 0.04 + 0.05 * part.mid + 0.012 * part.grain) * 14, 0, 1)
    cover *= 1 - 0.93 * part.lumen
    stroma = 1 - part.gland
    lymph = np.clip(part.crowd - 1.0, 0, 0.6) * stroma
    strands = np.sin(part.fibre * 150 + part.mid * 1.9) * stroma * (1 - lymph)
    eosin = 0.52 + 0.16 * strands + 0.11 * part.grain + 0.08 * part.mid - 0.14 * part.gland - 0.25 * lymph
    blue = 0.07 + 0.03 * part.clump + 0.02 * part.mid + 0.13 * part.gland + 0.22 * lymph
    # Collagen parts here and there: pale clefts along the fibres.
    cleft = np.clip((np.sin(part.fibre * 21 + 0.5 * part.mid) - 0.93) * 16, 0, 1)
    cleft *= stroma * np.clip(1 - 3 * lymph, 0, 1)
    eosin *= cover * (1 - 0.75 * cleft) * (1 - 0.45 * part.nucleus)
    blue *= cover * (1 - 0.6 * cleft) * (1 - part.nucleus)
    blue += part.dense * (1 + (0.30 * part.clump + 0.14 * part.grain) * part.rough) * part.nucleus
    return np.maximum(eosin, 0) * part.stain, np.maximum(blue, 0) * part.stain


def _light(part: _Inputs, eosin: Field, blue: Field, out: Rgb) -> None:
    """What is left of the lamp's light."""
    for channel, (h, e, lamp) in enumerate(zip(HAEMATOXYLIN, EOSIN, LAMP, strict=True)):
        light = np.exp(-h * blue - e * eosin - part.dust) * lamp + part.sensor
        out[..., channel] = np.clip(light + 0.5, 0, 255)


def _texture(rng: np.random.Generator, side: int, sigma: float) -> Field:
    """(side, side) noise of unit variance that continues at its edges."""
    wide = cv2.copyMakeBorder(
        rng.standard_normal((side, side)).astype(np.float32), 64, 64, 64, 64, cv2.BORDER_WRAP
    )
    smooth = cv2.GaussianBlur(wide, (0, 0), sigma)[64:-64, 64:-64]
    return _repeat(smooth / smooth.std())


def _repeat(texture: Field) -> Field:
    """Continued by a block's side, so that any block's part is a slice."""
    return cv2.copyMakeBorder(texture, 0, SIDE_PX, 0, SIDE_PX, cv2.BORDER_WRAP)


def _cut(texture: Field, y_px: int, x_px: int) -> Field:
    """The block's part of an endlessly repeated texture."""
    period = len(texture) - SIDE_PX
    y, x = y_px % period, x_px % period
    return texture[y : y + SIDE_PX, x : x + SIDE_PX]


def _enlarge(field: Field, row: int, col: int) -> Field:
    """The block's part of a slow field, at every pixel."""
    cells, spare = BLOCK_PX // CELL_PX, 3
    y, x = row * cells + MARGIN_CELLS - spare, col * cells + MARGIN_CELLS - spare
    part = field[y : y + cells + 2 * spare, x : x + cells + 2 * spare]
    wide = cv2.resize(part, None, fx=CELL_PX, fy=CELL_PX, interpolation=cv2.INTER_CUBIC)
    cut = spare * CELL_PX - HALO_PX
    return wide[cut : cut + SIDE_PX, cut : cut + SIDE_PX]


def _fill(layer: Layer, outline_px: npt.NDArray[np.float64], value: int) -> None:
    """Paint a polygon (y, x), block px; cv2 has pixel centres at whole numbers."""
    vertices = np.round((outline_px[:, ::-1] - 0.5) * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(layer, [vertices], value, cv2.LINE_AA, SHIFT)


def _glands(layout: Layout, y_px: int, x_px: int) -> tuple[Field, Field]:
    """Share of epithelium and of lumen at every pixel."""
    gland, lumen = np.zeros((2, SIDE_PX, SIDE_PX), np.uint8)
    glands = layout.glands
    centre = glands.centre_px - (y_px, x_px)
    near = ((centre > -260) & (centre < SIDE_PX + 260)).all(1)
    as_truth = Truth(
        point_px=centre[near],
        radii_px=(glands.shape * glands.radius_px[:, None])[near].astype(np.float32),
        kind=np.zeros(near.sum(), np.uint8),
    )
    middles = as_truth.point_px[:, None]
    for outline, middle, share in zip(as_truth.outlines_px(), middles, glands.lumen[near], strict=True):
        _fill(gland, outline, 255)
        _fill(lumen, middle + (outline - middle) * share, 255)
    return _soft(gland, 4.0), _soft(lumen, 3.0)


def _soft(layer: Layer, sigma: float) -> Field:
    if not layer.any():
        return np.zeros(layer.shape, np.float32)
    return cv2.GaussianBlur(layer, (0, 0), sigma).astype(np.float32) * np.float32(1 / 255)


def _nuclei(nuclei: Truth, y_px: int, x_px: int) -> tuple[Field, Field, Field]:
    """Share of nucleus, its haematoxylin and how coarse its chromatin is, at every pixel."""
    shape, dense, rough = np.zeros((3, SIDE_PX, SIDE_PX), np.uint8)
    near = (
        (nuclei.point_px > (y_px - 40, x_px - 40))
        & (nuclei.point_px < (y_px + SIDE_PX + 40, x_px + SIDE_PX + 40))
    ).all(1)
    part = nuclei.take(np.flatnonzero(near))
    middles = part.point_px - (y_px, x_px)
    # Looks follow from the place, so that every block that shows a nucleus shows it alike.
    looks = np.modf(np.abs(np.sin(part.point_px @ ((12.9898, 78.233), (39.346, 11.135)) * 43.5)) * 977)[0].T
    strength, bright = looks
    for outline, middle, kind, force, pale in zip(
        part.outlines_px() - (y_px, x_px), middles, part.kind, strength, bright, strict=True
    ):
        darkness = int((150, 190, 120, 160)[kind] + 60 * force)
        _fill(shape, outline, 255)
        _fill(dense, outline, darkness)
        if kind in (0, 2) and pale > 0.35:
            # Open chromatin: a dark membrane, a paler middle and a nucleolus.
            _fill(dense, middle + (outline - middle) * 0.82, int(darkness * 0.8))
            spot = middle + (outline[int(pale * 31)] - middle) * 0.35
            cv2.circle(
                dense,
                _fixed(spot),
                int(16 * (1.6 + 1.2 * force)),
                min(255, darkness + 50),
                -1,
                cv2.LINE_AA,
                SHIFT,
            )
        _fill(rough, outline, int(90 + 120 * pale))
    return _soft(shape, 0.7), _soft(dense, 0.8) * np.float32(1.55), rough.astype(np.float32) * (1 / 255)


def _fixed(point_px: npt.NDArray[np.float64]) -> tuple[int, int]:
    return round((point_px[1] - 0.5) * (1 << SHIFT)), round((point_px[0] - 0.5) * (1 << SHIFT))


def _dust(layout: Layout, y_px: int, x_px: int) -> Field:
    """Optical density of specks on the glass."""
    layer = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    for y, x, radius in layout.dust_px - (y_px, x_px, 0):
        if -20 < y < SIDE_PX + 20 and -20 < x < SIDE_PX + 20:
            cv2.circle(
                layer, _fixed(np.array([y, x])), round(radius * (1 << SHIFT)), 90, -1, cv2.LINE_AA, SHIFT
            )
    return _soft(layer, 1.8)

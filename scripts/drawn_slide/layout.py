"""What is drawn where: tissue, glands, nuclei, dust. Numbers only; `paint.py` makes pixels of them.

Slow fields are kept on a grid of 32 px, so a slide of 40,960 px needs some 20 MB for them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from drawn_slide.truth import RAYS, Truth

CELL_PX = 32
MARGIN_CELLS = 4
BLOCK_PX = 1024
TISSUE_SHARE = 0.6
KINDS = ("gland", "lymphocyte", "epithelium", "stroma")

type Field = npt.NDArray[np.float32]
type Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Glands:
    """Rings of epithelium around a lumen."""

    centre_px: Doubles
    radius_px: Doubles
    lumen: Doubles
    """Radius of the lumen, share of the gland's."""
    shape: Doubles
    """(n, 32): radius at each ray, share of `radius_px`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """A whole slide, before it is painted."""

    size_px: int
    seed: int
    tissue: Field
    """> 0 is tissue. This and the next: on the grid of `CELL_PX`, with a margin all around."""
    crowd: Field
    """High: many lymphocytes."""
    fibre: Field
    """Collagen runs along its contour lines."""
    stain: Field
    """Strength of the stain, some 0.85 to 1.15."""
    glands: Glands
    nuclei: Truth
    dust_px: Doubles
    """(n, 3): y, x, radius of specks."""


def make_layout(size_px: int, seed: int) -> Layout:
    """The slide of that size (square) and seed; other sizes are other slides."""
    rng = np.random.default_rng([seed, size_px])
    cells = -(-size_px // BLOCK_PX) * (BLOCK_PX // CELL_PX) + 2 * MARGIN_CELLS
    tissue = _tissue(rng, cells, size_px)
    crowd = _noise(rng, cells, 28) + 0.4 * _noise(rng, cells, 9)
    fibre = _noise(rng, cells, 26) + 0.3 * _noise(rng, cells, 8)
    stain = (1 + 0.06 * _noise(rng, cells, 40) + 0.03 * _noise(rng, cells, 6)).astype(np.float32)
    glands = _glands(rng, size_px, tissue, crowd)
    nuclei = _nuclei(rng, size_px, tissue, crowd, fibre, glands)
    specks = max(3, int(size_px**2 * 4e-6))
    dust = np.column_stack([rng.uniform(0, size_px, (specks, 2)), rng.gamma(2.0, 1.6, specks) + 1.0])
    return Layout(
        size_px=size_px,
        seed=seed,
        tissue=tissue,
        crowd=crowd,
        fibre=fibre,
        stain=stain,
        glands=glands,
        nuclei=nuclei,
        dust_px=dust,
    )


def sample(field: Field, points_px: Doubles) -> Doubles:
    """Bilinear values of a field at points (y, x), px of level 0."""
    y, x = (points_px / CELL_PX - 0.5 + MARGIN_CELLS).T
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = y - y0, x - x0
    upper = field[y0, x0] * (1 - fx) + field[y0, x0 + 1] * fx
    lower = field[y0 + 1, x0] * (1 - fx) + field[y0 + 1, x0 + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy, np.float64)


def _noise(rng: np.random.Generator, cells: int, pitch_cells: int) -> Field:
    """(cells, cells) smooth noise, about unit variance; details of `pitch_cells`."""
    knots = cells // pitch_cells + 4
    grid = rng.standard_normal((knots, knots)).astype(np.float32)
    wide = cv2.resize(grid, (knots * pitch_cells,) * 2, interpolation=cv2.INTER_CUBIC)
    return (
        np.ascontiguousarray(wide[pitch_cells : pitch_cells + cells, pitch_cells : pitch_cells + cells]) * 1.3
    )


def _tissue(rng: np.random.Generator, cells: int, size_px: int) -> Field:
    """Pieces of tissue with some glass between them and at most of the edge."""
    inner = size_px / CELL_PX
    place = (np.arange(cells) + 0.5 - MARGIN_CELLS) / inner * 2 - 1
    distance = np.maximum(np.abs(place)[:, None], np.abs(place)[None])
    edge = np.clip((distance - 0.86) / 0.14, 0, 1.5) * 2.2
    field = _noise(rng, cells, 72) + 0.5 * _noise(rng, cells, 24) + 0.16 * _noise(rng, cells, 6) - edge
    end = MARGIN_CELLS + max(1, round(inner))
    level = np.quantile(field[MARGIN_CELLS:end, MARGIN_CELLS:end], 1 - TISSUE_SHARE)
    return (field - level).astype(np.float32)


def _jittered(rng: np.random.Generator, size_px: int, pitch_px: float, jitter: float) -> Doubles:
    """(n, 2) points of a staggered grid, each moved by up to `jitter` of the pitch."""
    rows, cols = int(size_px / (pitch_px * 0.87)) + 1, int(size_px / pitch_px) + 1
    row, col = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    points = np.stack([row * 0.87, col + 0.5 * (row % 2)], -1).reshape(-1, 2) + 0.3
    points = (points + rng.uniform(-jitter, jitter, points.shape)) * pitch_px
    return np.asarray(points[((points > 6) & (points < size_px - 6)).all(1)])


def _wobble(rng: np.random.Generator, count: int, amount: float) -> Doubles:
    """(count, 32) radii around 1: a few harmonics, so outlines are irregular but star-shaped."""
    angle = np.arange(RAYS) * (2 * np.pi / RAYS)
    wave = np.ones((count, RAYS))
    for order in (2, 3, 4, 5):
        size = rng.normal(0, amount / order, (count, 1))
        wave += size * np.cos(order * angle + rng.uniform(0, 2 * np.pi, (count, 1)))
    return np.clip(wave, 0.7, 1.3)


def _glands(rng: np.random.Generator, size_px: int, tissue: Field, crowd: Field) -> Glands:
    centre = _jittered(rng, size_px, 400, 0.17)
    kept = (sample(tissue, centre) > 0.22) & (sample(crowd, centre) < -0.1)
    centre = centre[kept]
    return Glands(
        centre_px=centre,
        radius_px=rng.uniform(95, 165, len(centre)),
        lumen=rng.uniform(0.3, 0.5, len(centre)),
        shape=_wobble(rng, len(centre), 0.16),
    )


def _nuclei(
    rng: np.random.Generator, size_px: int, tissue: Field, crowd: Field, fibre: Field, glands: Glands
) -> Truth:
    """All nuclei: those of glands first, and no later one upon an earlier one."""
    ring, ring_axes, ring_angle = _ring(rng, glands)
    parts = [(ring, ring_axes, ring_angle, 0)]
    for population, pitch, share in ((1, 27.0, 0.93), (2, 45.0, 0.9), (3, 74.0, 0.8)):
        points = _jittered(rng, size_px, pitch, 0.24)
        points = points[rng.random(len(points)) < share]
        points = points[_belongs(population, sample(crowd, points))]
        axes, angle = _axes(rng, population, len(points)), _angles(rng, population, fibre, points)
        parts.append((points, axes, angle, population))
    points = np.concatenate([part[0] for part in parts])
    axes = np.concatenate([part[1] for part in parts])
    angle = np.concatenate([part[2] for part in parts])
    kind = np.concatenate([np.full(len(part[0]), part[3], np.uint8) for part in parts])
    fits = (sample(tissue, points) > 0.09) & ((points > 4) & (points < size_px - 4)).all(1)
    fits &= ~((kind > 0) & _in_gland(glands, points))
    fits[fits] = _apart(points[fits], axes[fits], angle[fits])
    points, axes, angle, kind = points[fits], axes[fits], angle[fits], kind[fits]
    turn = np.arange(RAYS) * (2 * np.pi / RAYS) - angle[:, None]
    ellipse = axes.prod(1, keepdims=True) / np.hypot(axes[:, 1:] * np.cos(turn), axes[:, :1] * np.sin(turn))
    radii = (ellipse * _wobble(rng, len(points), 0.11)).astype(np.float32)
    return Truth(point_px=points, radii_px=radii, kind=kind)


def _belongs(kind: int, crowd: Doubles) -> npt.NDArray[np.bool_]:
    low, high = {1: (1.25, 99.0), 2: (0.35, 1.25), 3: (-99.0, 1.25)}[kind]
    return np.asarray((crowd >= low) & (crowd < high))


def _axes(rng: np.random.Generator, kind: int, count: int) -> Doubles:
    """(count, 2): half axes, px; 15 to 40 px across."""
    low, high, ratio_low, ratio_high = {
        1: (8.5, 11.0, 0.85, 1.0),
        2: (12.5, 18.5, 0.68, 0.95),
        3: (13.0, 17.5, 0.52, 0.7),
    }[kind]
    long = rng.uniform(low, high, count)
    return np.stack([long, long * rng.uniform(ratio_low, ratio_high, count)], axis=1)


def _angles(rng: np.random.Generator, kind: int, fibre: Field, points: Doubles) -> Doubles:
    """Direction of the long axis: along the fibres in stroma, any elsewhere."""
    if kind != KINDS.index("stroma"):
        return rng.uniform(0, np.pi, len(points))
    step = np.array([CELL_PX / 2, 0.0])
    slope_y = sample(fibre, points + step) - sample(fibre, points - step)
    slope_x = sample(fibre, points + step[::-1]) - sample(fibre, points - step[::-1])
    return np.asarray(np.arctan2(slope_x, -slope_y) + rng.normal(0, 0.2, len(points)))


def _ring(rng: np.random.Generator, glands: Glands) -> tuple[Doubles, Doubles, Doubles]:
    """Nuclei near the outer edge of each gland, long axis towards its lumen."""
    points, angles = [], []
    for centre, radius, shape in zip(glands.centre_px, glands.radius_px, glands.shape, strict=True):
        count = int(2 * np.pi * 0.76 * radius / rng.uniform(26, 32))
        turn = (np.arange(count) + rng.uniform(-0.12, 0.12, count)) * (2 * np.pi / count)
        reach = np.interp(turn, np.arange(RAYS + 1) * (2 * np.pi / RAYS), np.append(shape, shape[0]))
        reach = reach * radius * rng.uniform(0.7, 0.82, count)
        points.append(centre + reach[:, None] * np.stack([np.sin(turn), np.cos(turn)], 1))
        angles.append(turn + rng.normal(0, 0.15, count))
    if not points:
        return np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)
    total = sum(map(len, points))
    long = rng.uniform(13.5, 18.0, total)
    axes = np.stack([long, long * rng.uniform(0.58, 0.75, total)], axis=1)
    return np.concatenate(points), axes, np.concatenate(angles)


def _in_gland(glands: Glands, points: Doubles) -> npt.NDArray[np.bool_]:
    if not len(glands.centre_px):
        return np.zeros(len(points), bool)
    from scipy.spatial import KDTree

    distance, nearest = KDTree(glands.centre_px).query(points)
    return np.asarray(distance < glands.radius_px[nearest] * 1.2)


def _apart(points: Doubles, axes: Doubles, angle: Doubles) -> npt.NDArray[np.bool_]:
    """Which nuclei keep clear of every earlier one that is kept."""
    from scipy.spatial import KDTree

    pairs = KDTree(points).query_pairs(2 * axes.max() + 2, output_type="ndarray")
    first, second = pairs.min(1), pairs.max(1)
    way = points[second] - points[first]
    direction = np.arctan2(way[:, 0], way[:, 1])
    needed = _reach(axes[first], direction - angle[first]) + _reach(axes[second], direction - angle[second])
    close = np.hypot(*way.T) < needed * 1.04 + 1.0
    first, second = first[close], second[close]
    order = np.argsort(second, kind="stable")
    kept = np.ones(len(points), bool)
    # By the later of each pair, so that the earlier one's fate is settled when it is asked for.
    for early, late in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if kept[early]:
            kept[late] = False
    return kept


def _reach(axes: Doubles, angle: Doubles) -> Doubles:
    """Extent of an ellipse in a direction (its support), which is at least its radius there."""
    return np.asarray(np.hypot(axes[:, 0] * np.cos(angle), axes[:, 1] * np.sin(angle)))

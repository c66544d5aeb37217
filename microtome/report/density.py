"""Nuclei per mm2 over the slide, and which fields are worth a look."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from microtome.arrays import Doubles, Mask
from microtome.grid import Window
from microtome.plan import Plan
from microtome.report.shard_stats import ShardStats, cell_px_of, cells_shape

type Stained = Callable[[Window], float]
"""Share of a window that is stained, 0..1."""

REGION_PX = 640
RANDOM_REGIONS = "abcd"
RANDOM_TISSUE = 0.5
LEAST_TISSUE = 0.05
"""Cells with less tissue than this have no density: their few nuclei would show as extremes."""
FULL_TISSUE = 0.8
"""A field of so much tissue can be called dense or sparse; else it is the most there is."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Density:
    """The map of densities."""

    cell_px: int
    per_mm2: Doubles
    """(rows, cols) float64: nuclei per mm2 of tissue, smoothed over some 2 cells; nan on glass."""
    tissue: Doubles
    """(rows, cols) float64 in 0..1: share of tissue."""

    @property
    def top(self) -> float:
        """The scale's end: a round number that 99 in 100 cells stay below."""
        values = self.per_mm2[np.isfinite(self.per_mm2)]
        return round_up(float(np.quantile(values, 0.99))) if len(values) and values.max() > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Region:
    """A field shown at full resolution."""

    title: str
    window: Window


def measure_density(plan: Plan, stats: ShardStats) -> Density:
    """Density from the counts of merged statistics."""
    tissue = tissue_shares(plan)
    cell_px = cell_px_of(plan)
    cell_mm2 = cell_px**2 * plan.pixel_area_um2 / 1e6
    counts = _smooth(stats.cells.astype(np.float64))
    area_mm2 = _smooth(tissue * cell_mm2)
    has_tissue = tissue >= LEAST_TISSUE
    per_mm2 = np.where(has_tissue, counts / np.where(has_tissue, area_mm2, 1), np.nan)
    return Density(cell_px=cell_px, per_mm2=per_mm2, tissue=tissue)


def tissue_shares(plan: Plan) -> Doubles:
    """(rows, cols) float64: share of tissue in each cell of the map of densities."""
    mask, cell_px = plan.tissue_mask.mask, cell_px_of(plan)
    rows, cols = cells_shape(plan)
    finer = cell_px // plan.tissue.cell_px
    if finer <= 1:
        repeat = plan.tissue.cell_px // cell_px
        wide = mask.repeat(repeat, axis=0).repeat(repeat, axis=1)
        return np.asarray(wide[:rows, :cols], np.float64)
    whole = np.zeros((rows * finer, cols * finer))
    whole[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(whole.reshape(rows, finer, cols, finer).mean(axis=(1, 3)))


def choose_regions(plan: Plan, density: Density, stained: Stained) -> tuple[Region, ...]:
    """The densest field, the sparsest one with tissue, and four at random: the same on every run.

    Fields do not overlap; fewer where the slide has not room for six. `stained` tells fields full
    of tissue from those at its rim, which a tissue mask includes.
    """
    windows, values, shares = _fields(plan, density, stained)
    chosen: list[Region] = []

    def take(title: str, order: Doubles) -> bool:
        """The first in falling order that overlaps none taken before."""
        for index in np.argsort(-order, kind="stable"):
            if not np.isfinite(order[index]):
                return False
            window = windows[int(index)]
            if all(window.intersect(region.window).is_empty for region in chosen):
                chosen.append(Region(title, window))
                return True
        return False

    if windows:
        full: Mask = (shares >= min(FULL_TISSUE, shares.max())) & np.isfinite(values)
        take("densest", np.where(full, values, -np.inf))
        take("sparsest", np.where(full, -values, -np.inf))
        seed = int.from_bytes(hashlib.sha256(plan.fingerprint.encode()).digest()[:8])
        chance = np.random.default_rng(seed).random(len(windows))
        for letter in RANDOM_REGIONS:
            take(
                f"at random, {letter}",
                np.where(shares >= min(RANDOM_TISSUE, shares.max()), chance, -np.inf),
            )
    return tuple(chosen)


def _fields(plan: Plan, density: Density, stained: Stained) -> tuple[list[Window], Doubles, Doubles]:
    """Candidate windows around the cells with tissue, their density and how much of them is stained."""
    rows, cols = np.nonzero(density.tissue >= LEAST_TISSUE)
    windows = [
        _window_around(plan, density.cell_px, row, col)
        for row, col in zip(rows.tolist(), cols.tolist(), strict=True)
    ]
    values = density.per_mm2[rows, cols]
    return windows, values, np.array([stained(window) for window in windows])


def _window_around(plan: Plan, cell_px: int, row: int, col: int) -> Window:
    """REGION_PX around a cell's middle, moved onto the slide; all of a slide that is smaller."""
    height, width = min(REGION_PX, plan.height_px), min(REGION_PX, plan.width_px)
    y0 = min(max(0, row * cell_px + cell_px // 2 - height // 2), plan.height_px - height)
    x0 = min(max(0, col * cell_px + cell_px // 2 - width // 2), plan.width_px - width)
    return Window(y0, x0, y0 + height, x0 + width)


def _smooth(values: Doubles) -> Doubles:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), 0.9, borderType=cv2.BORDER_CONSTANT))


def round_up(value: float) -> float:
    """The next round number whose quarters are round too."""
    power = 10 ** np.floor(np.log10(value))
    return float(
        next(
            step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if value <= step * power * 1.0001
        )
    )


def ticks(top: float, count: int = 4) -> Iterator[float]:
    """Evenly spaced values from 0 to the scale's end."""
    return (top * step / count for step in range(count + 1))

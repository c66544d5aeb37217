"""The nuclei that were drawn, and how many of them someone found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

RAYS = 32
NEIGHBOURS = 6
"""Drawn nuclei around a point that can hold it: they hardly overlap, so six is plenty."""

type Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """n drawn nuclei: star-shaped polygons of 32 vertices, level-0 px, (y, x), corner-based."""

    point_px: Doubles
    """(n, 2) float64: where the rays begin; not the centroid."""
    radii_px: npt.NDArray[np.float32]
    """(n, 32) float32: ray k goes in direction 2 pi k / 32, (sin, cos) in (y, x)."""
    kind: npt.NDArray[np.uint8]
    """(n,) uint8: index into `layout.KINDS`."""

    def __len__(self) -> int:
        return len(self.point_px)

    def outlines_px(self) -> Doubles:
        """(n, 32, 2) float64: vertices, not closed."""
        angle = np.arange(RAYS) * (2 * np.pi / RAYS)
        rays = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        return self.point_px[:, None] + self.radii_px[:, :, None].astype(np.float64) * rays

    def measure(self) -> tuple[Doubles, Doubles]:
        """Centroids (n, 2) and areas (n,), level-0 px, of the outlines."""
        y, x = np.moveaxis(self.outlines_px() - self.point_px[:, None], 2, 0)
        y_next, x_next = np.roll(y, -1, 1), np.roll(x, -1, 1)
        cross = y * x_next - y_next * x
        area = cross.sum(1) / 2
        centroid = np.stack([((y + y_next) * cross).sum(1), ((x + x_next) * cross).sum(1)], 1)
        return self.point_px + centroid / (6 * area[:, None]), np.abs(area)

    def take(self, rows: npt.NDArray[np.intp]) -> Self:
        return type(self)(point_px=self.point_px[rows], radii_px=self.radii_px[rows], kind=self.kind[rows])

    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        partial = path.with_name("partial." + path.name)
        np.savez(partial, point_px=self.point_px, radii_px=self.radii_px, kind=self.kind)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path) as file:
            return cls(point_px=file["point_px"], radii_px=file["radii_px"], kind=file["kind"])


def score(truth: Truth, centre_px: Doubles) -> tuple[float, float]:
    """How well found nuclei match the drawn ones.

    Parameters
    ----------
    truth
        Drawn nuclei.
    centre_px
        (m, 2) float64, (y, x): centres of the found nuclei.

    Returns
    -------
    tuple of float
        Share of the drawn nuclei with a found centre inside of their outline, and share of
        the found ones that are not drawn: outside of every outline, or inside of one that
        another centre had taken already.
    """
    if not len(truth) or not len(centre_px):
        return (0.0 if len(truth) else 1.0), (1.0 if len(centre_px) else 0.0)
    from scipy.spatial import KDTree

    near = min(NEIGHBOURS, len(truth))
    _, rows = KDTree(truth.point_px).query(centre_px, k=near)
    rows = np.asarray(rows).reshape(len(centre_px), near)
    inside = np.stack([_holds(truth, rows[:, k], centre_px) for k in range(near)], axis=1)
    owner = np.where(inside.any(1), rows[np.arange(len(rows)), inside.argmax(1)], -1)
    found = len(np.unique(owner[owner >= 0]))
    return found / len(truth), 1 - found / len(centre_px)


def _holds(truth: Truth, rows: npt.NDArray[np.intp], points_px: Doubles) -> npt.NDArray[np.bool_]:
    """Whether point i is inside of drawn nucleus `rows[i]`."""
    dy, dx = (points_px - truth.point_px[rows]).T
    turn = np.arctan2(dy, dx) % (2 * np.pi) * (RAYS / (2 * np.pi))
    before = turn.astype(np.int64) % RAYS
    after = (before + 1) % RAYS
    r0, r1 = truth.radii_px[rows, before], truth.radii_px[rows, after]
    step = 2 * np.pi / RAYS
    part = (turn - np.floor(turn)) * step
    # Distance to the edge between the two vertices, along the direction of the point.
    edge = r0 * r1 * np.sin(step) / (r0 * np.sin(part) + r1 * np.sin(step - part))
    return np.asarray(np.hypot(dy, dx) < edge)

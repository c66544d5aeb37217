"""Statistics of nuclei that add up: a small record a shard, merged into that of the slide.

Neither a report nor whoever makes it holds all nuclei of a slide: counts in fixed bins and in
cells of the slide are enough for quartiles, histograms and the map of densities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Self

import numpy as np

from microtome.arrays import Doubles, Ints
from microtome.grid import Shard
from microtome.nuclei import Nuclei
from microtome.plan import Plan

AREA_EDGES_UM2: Doubles = np.arange(0.0, 501.0)
"""Bins of 1 um2; the last one takes all that is larger."""
PROB_EDGES: Doubles = np.linspace(0, 1, 101)
LEAST_CELL_PX = 256
MOST_CELLS = 192
"""Cells of the map of densities along the slide's longer side."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShardStats:
    """Nuclei of a shard, or of several merged, as counts."""

    counts: dict[int, int]
    """Nuclei by index of the shard."""
    area: Ints
    """(500,) int64: nuclei by area, bins of `AREA_EDGES_UM2`."""
    prob: Ints
    """(100,) int64: nuclei by probability, bins of `PROB_EDGES`."""
    row0: int
    col0: int
    """Where `cells` begins in the slide's grid of cells."""
    cells: Ints
    """(rows, cols) int64: nuclei by place of their centre, cells of `cell_px_of(plan)`."""

    @property
    def nuclei(self) -> int:
        return sum(self.counts.values())

    @classmethod
    def of(cls, plan: Plan, shard: Shard, nuclei: Nuclei) -> Self:
        """Of the nuclei that the shard owns: those whose centre it holds."""
        cell_px, window = cell_px_of(plan), shard.window
        row0, col0 = window.y0 // cell_px, window.x0 // cell_px
        shape = -(-window.y1 // cell_px) - row0, -(-window.x1 // cell_px) - col0
        cells = np.zeros(shape, np.int64)
        rows, cols = (nuclei.centre_px // cell_px).astype(np.int64).T - ((row0,), (col0,))
        np.add.at(cells, (rows.clip(0, shape[0] - 1), cols.clip(0, shape[1] - 1)), 1)
        area_um2 = (nuclei.area_px * plan.pixel_area_um2).clip(0, AREA_EDGES_UM2[-1])
        return cls(
            counts={shard.index: len(nuclei)},
            area=np.histogram(area_um2, AREA_EDGES_UM2)[0].astype(np.int64),
            prob=np.histogram(nuclei.prob, PROB_EDGES)[0].astype(np.int64),
            row0=row0,
            col0=col0,
            cells=cells,
        )

    @classmethod
    def merge(cls, plan: Plan, parts: Sequence[Self]) -> Self:
        """Of the whole slide; shards that are not among the parts have no nuclei."""
        cells = np.zeros(cells_shape(plan), np.int64)
        for part in parts:
            rows, cols = part.cells.shape
            cells[part.row0 : part.row0 + rows, part.col0 : part.col0 + cols] += part.cells
        return cls(
            counts={shard: count for part in parts for shard, count in part.counts.items()},
            area=sum((part.area for part in parts), np.zeros(len(AREA_EDGES_UM2) - 1, np.int64)),
            prob=sum((part.prob for part in parts), np.zeros(len(PROB_EDGES) - 1, np.int64)),
            row0=0,
            col0=0,
            cells=cells,
        )

    def to_bytes(self) -> bytes:
        """A few kB; the same counts give the same bytes."""
        file = BytesIO()
        shards = np.array(sorted(self.counts), np.int64)
        np.savez_compressed(
            file,
            shards=shards,
            counts=np.array([self.counts[int(shard)] for shard in shards], np.int64),
            area=self.area,
            prob=self.prob,
            origin=np.array([self.row0, self.col0], np.int64),
            cells=self.cells,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        with np.load(BytesIO(text)) as file:
            row0, col0 = file["origin"].tolist()
            return cls(
                counts=dict(zip(file["shards"].tolist(), file["counts"].tolist(), strict=True)),
                area=file["area"],
                prob=file["prob"],
                row0=row0,
                col0=col0,
                cells=file["cells"],
            )


def cell_px_of(plan: Plan) -> int:
    """Side of a cell of the map of densities, level-0 px: a power of two."""
    cell_px = LEAST_CELL_PX
    while max(plan.height_px, plan.width_px) > cell_px * MOST_CELLS:
        cell_px *= 2
    return cell_px


def cells_shape(plan: Plan) -> tuple[int, int]:
    """Rows and columns of the slide's grid of cells."""
    cell_px = cell_px_of(plan)
    return -(-plan.height_px // cell_px), -(-plan.width_px // cell_px)


def quantiles(counts: Ints, edges: Doubles, at: Sequence[float]) -> tuple[float, ...] | None:
    """Quantiles of binned values, linear within a bin (so exact to its width); None of nothing."""
    total = int(counts.sum())
    if not total:
        return None
    below = np.concatenate([[0], np.cumsum(counts)]) / total
    # Of edges with the same share below, a quantile lies at the last: that begins the next full bin.
    kept = np.append(np.diff(below) > 0, True)
    kept[1:] |= np.diff(below) > 0
    return tuple(float(np.interp(q, below[kept], edges[kept])) for q in at)

"""Network output -> candidates -> which of them are nuclei, in one window at a time.

Everything here is in network px, and a candidate's point is the index of a pixel, as in the
official StarDist package; `outlines` alone turns to the corner-based level-0 px of the rest of
the project. Candidates do not remember tiles: the same point has the same radii in all of them.

What differs from the official package, and why:

* radii are rounded to 1/64 px, so that they take two bytes and noise in the last bits is lost;
* radii end at `MAX_RADIUS_PX`: what lies further off cannot change a candidate's fate, so a
  shard can be settled without the whole slide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
import numpy.typing as npt

from microtome import overlap
from microtome.arrays import Band, Doubles, Floats, Ints
from microtome.grid import Scale, Window
from microtome.nuclei import Nuclei
from microtome.polygons import to_nuclei

MAX_RADIUS_PX = 96
"""Longest radius, network px: 24 um at 0.25 um/px, several times that of a nucleus."""

RADIUS_STEPS_PER_PX = 64
"""Radii are rounded to 1/64 px, once, before anything is decided by them."""

LOT = 8192
"""Candidates that are decoded at once: 1 MB of radii."""

OUTLINED_AT_ONCE = 2048
"""Candidates whose outlines are made at once: 1 MB of vertices."""

BORDER_CELLS = 2
"""Cells of the network's output that the official package leaves out along the image's edge."""

type States = npt.NDArray[np.uint8]
"""(n,) uint8, values of `State`."""


class State(IntEnum):
    """What is known of a candidate."""

    KEPT = overlap.KEPT
    SUPPRESSED = overlap.SUPPRESSED
    UNDECIDED = overlap.UNDECIDED
    """Candidates that were not seen may still decide."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """n candidates, in any order."""

    prob: Floats
    """(n,) float32, 0..1."""
    points_px: npt.NDArray[np.int32]
    """(n, 2) int32, (y, x): index of the network pixel."""
    radii_steps: npt.NDArray[np.uint16]
    """(n, n_rays) uint16, 1/64 network px: a worker holds all of a shard's beside the network's maps."""

    @property
    def radii_px(self) -> Floats:
        """(n, n_rays) float32, network px, multiples of 1/64; made anew each time."""
        return np.divide(self.radii_steps, np.float32(RADIUS_STEPS_PER_PX), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.prob)

    def take(self, rows: Ints | npt.NDArray[np.bool_] | slice) -> Self:
        """The given rows, in the given order; or those where a mask is true."""
        return type(self)(
            prob=self.prob[rows], points_px=self.points_px[rows], radii_steps=self.radii_steps[rows]
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All rows of one or more parts, in order."""
        return cls(
            prob=np.concatenate([part.prob for part in parts]),
            points_px=np.concatenate([part.points_px for part in parts]),
            radii_steps=np.concatenate([part.radii_steps for part in parts]),
        )

    @classmethod
    def empty(cls, n_rays: int = 32) -> Self:
        return cls(
            prob=np.zeros(0, np.float32),
            points_px=np.zeros((0, 2), np.int32),
            radii_steps=np.zeros((0, n_rays), np.uint16),
        )


def decode(
    band: Band,
    *,
    origin_px: tuple[int, int],
    core: Window,
    slide: Window,
    threshold: float,
    grid_px: int = 2,
    align_px: int = 16,
) -> Candidates:
    """The candidates of a tile's core, as far as they lie in some rows of what the network gives.

    Parameters
    ----------
    band
        Its probabilities are 0..1, its distances network px.
    origin_px
        (y, x) of the tile's first pixel, network px, multiples of `grid_px`.
    core
        The window whose points this tile owns, network px.
    slide
        The whole image, network px. Two cells at its edge have no candidates, as in the official
        package; at the bottom and right the edge is that of the padded image.
    threshold
        Points with more than this are candidates.
    align_px
        The package pads images at the bottom and right to a multiple of this: the model's.

    Returns
    -------
    Candidates
        In raster order. Radii are clipped to 1/64..`MAX_RADIUS_PX`.
    """
    row, prob, dist = band
    origin_px = origin_px[0] + row * grid_px, origin_px[1]
    cells = _cells(core.intersect(_candidate_window(slide, grid_px, align_px)), origin_px, grid_px)
    cells = cells.intersect(Window(0, 0, *prob.shape))
    if cells.is_empty:
        return Candidates.empty(len(dist))
    window = cells.within(Window(0, 0, *prob.shape))
    ys, xs = np.nonzero(prob[window] > np.float32(threshold))
    ys, xs = ys + cells.y0, xs + cells.x0
    radii_steps = np.empty((len(ys), len(dist)), np.uint16)
    # A few at a time: what the network has returned is still there, the most that a worker needs.
    for first in range(0, len(ys), LOT):
        lot = slice(first, first + LOT)
        steps = np.rint(dist[:, ys[lot], xs[lot]].T * np.float32(RADIUS_STEPS_PER_PX))
        radii_steps[lot] = np.clip(steps, 1, MAX_RADIUS_PX * RADIUS_STEPS_PER_PX)
    points = np.stack([ys * grid_px + origin_px[0], xs * grid_px + origin_px[1]], axis=1)
    return Candidates(prob=prob[ys, xs], points_px=points.astype(np.int32), radii_steps=radii_steps)


def _candidate_window(slide: Window, grid_px: int, align_px: int) -> Window:
    """Where the official package has candidates: off the padded image's edge, on the slide."""
    border_px = BORDER_CELLS * grid_px
    padded_height = -(-slide.height // align_px) * align_px
    padded_width = -(-slide.width // align_px) * align_px
    padded = Window(slide.y0, slide.x0, slide.y0 + padded_height, slide.x0 + padded_width)
    return padded.grow(-border_px).intersect(slide)


def _cells(window: Window, origin_px: tuple[int, int], grid_px: int) -> Window:
    """The output cells whose points lie in the window."""
    y, x = origin_px
    return Window(
        -(-(window.y0 - y) // grid_px),
        -(-(window.x0 - x) // grid_px),
        -(-(window.y1 - y) // grid_px),
        -(-(window.x1 - x) // grid_px),
    )


def settle(
    candidates: Candidates,
    max_overlap: float,
    *,
    complete: Window,
    slide: Window,
    max_radius_px: int = MAX_RADIUS_PX,
) -> States:
    """Greedy suppression, as far as it can be told from the candidates that are known.

    The result of the official greedy suppression of all candidates of the slide is certain where
    this says so, whatever lies outside of `complete`.

    Parameters
    ----------
    candidates
        n rows, none of them suppressed elsewhere; radii of at most `max_radius_px`.
    max_overlap
        A candidate is suppressed by a kept one of higher priority (higher probability, ties by
        (y, x)) if they share more than this part of the smaller outline's area, 0..1.
    complete
        Network px. Candidates with points in it are all there, but for suppressed ones.
    slide
        The whole image, network px: nothing lies beyond its edges.

    Returns
    -------
    States
        (n,) uint8. KEPT and SUPPRESSED are final.

    Notes
    -----
    Schmidt et al. 2018, doi:10.1007/978-3-030-00934-2_30, and `c_non_max_suppression_inds` of the
    package stardist 0.9.2.
    """
    safe = np.array(
        [
            complete.y0 + max_radius_px if complete.y0 > slide.y0 else -_FAR_PX,
            complete.x0 + max_radius_px if complete.x0 > slide.x0 else -_FAR_PX,
            complete.y1 - max_radius_px if complete.y1 < slide.y1 else _FAR_PX,
            complete.x1 - max_radius_px if complete.x1 < slide.x1 else _FAR_PX,
        ],
        np.int64,
    )
    sine, cosine = overlap.rays(candidates.radii_steps.shape[1])
    # Rows in the order that they are met in: one that the cache has not is waited for.
    order = by_priority(candidates)
    states: States = np.empty(len(order), np.uint8)
    states[order] = overlap.settle_rows(
        candidates.points_px[order],
        candidates.radii_steps[order],
        sine / RADIUS_STEPS_PER_PX,
        cosine / RADIUS_STEPS_PER_PX,
        float(max_overlap),
        safe,
        max_radius_px,
    )
    return states


_FAR_PX = 1 << 40


def suppress(candidates: Candidates, max_overlap: float) -> Candidates:
    """The nuclei among all candidates of an image, by falling priority."""
    everywhere = Window(-_FAR_PX, -_FAR_PX, _FAR_PX, _FAR_PX)
    states = settle(candidates, max_overlap, complete=everywhere, slide=everywhere)
    order = by_priority(candidates)
    return candidates.take(order[states[order] == State.KEPT])


def by_priority(candidates: Candidates) -> Ints:
    """Rows by falling probability, ties by (y, x)."""
    if len(candidates) == 0:
        return np.zeros(0, np.int64)
    y, x = (candidates.points_px - candidates.points_px.min(axis=0)).T
    raster = y.astype(np.int64) * (int(x.max()) + 1)
    raster += x
    # Non-negative floats sort like their bits; one integer key sorts ten times faster than three.
    bits = np.ascontiguousarray(candidates.prob).view(np.uint32).astype(np.int64)
    room = int(raster.max()).bit_length()
    if room + int(bits.max() - bits.min()).bit_length() > 63:
        return np.lexsort((raster, -bits)).astype(np.int64)
    return np.argsort(((bits.max() - bits) << room) | raster)


def outlines(candidates: Candidates, scale: Scale, slide: Window) -> Nuclei:
    """The candidates as nuclei with valid outlines, in their order.

    Parameters
    ----------
    candidates
        n rows, network px.
    scale
        Network px per level-0 px.
    slide
        The whole slide, level-0 px: outlines end at its edges.

    Returns
    -------
    Nuclei
        At most n rows: one whose outline has no area is left out.
    """
    # Some at a time: else a shard's took 40 MB, and malloc kept the room among what lasts.
    lots = [slice(first, first + OUTLINED_AT_ONCE) for first in range(0, len(candidates), OUTLINED_AT_ONCE)]
    return Nuclei.concatenate([_outlines_of(candidates.take(lot), scale, slide) for lot in lots])


def _outlines_of(candidates: Candidates, scale: Scale, slide: Window) -> Nuclei:
    sine, cosine = overlap.rays(candidates.radii_steps.shape[1])
    rays = np.stack([sine, cosine], axis=1)
    vertices: Doubles = candidates.radii_px[:, :, None].astype(np.float64) * rays
    # A point is the index of a pixel; its centre lies half a pixel from the corner.
    vertices += candidates.points_px[:, None, :] + 0.5
    vertices /= scale.factor
    return to_nuclei(candidates.prob, vertices, slide)

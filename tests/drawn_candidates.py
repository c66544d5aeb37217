"""Candidates as a network gives them, drawn: dense clusters around nuclei, some far too large."""

import numpy as np

from microtome.grid import Window
from microtome.stardist import RADIUS_STEPS_PER_PX, Candidates

N_RAYS = 32


def draw(seed, count, side_px, *, prob_steps=None, max_radius_px=24):
    """At most `count` candidates of a square image; `prob_steps` makes many ties."""
    rng = np.random.default_rng(seed)
    nuclei = max(1, count // 12)
    angles = 2 * np.pi * np.arange(N_RAYS) / N_RAYS + rng.uniform(0, 6, (nuclei, 1))
    shapes = rng.uniform(4, 13, (nuclei, 1)) * (1 + 0.3 * np.cos(2 * angles))
    which = rng.integers(0, nuclei, count)
    points = rng.uniform(0, side_px, (nuclei, 2))[which] + rng.normal(0, 3, (count, 2))
    points = np.clip(points, 0, side_px - 1).astype(np.int32) // 2 * 2
    first = np.unique(points, axis=0, return_index=True)[1]
    radii = shapes[which[first]] * rng.uniform(0.85, 1.15, (len(first), N_RAYS))
    radii[rng.random(len(first)) < 0.005] = max_radius_px
    prob = rng.uniform(0.55, 1, len(first)).astype(np.float32)
    if prob_steps:
        prob = (np.round(prob * prob_steps) / prob_steps).astype(np.float32)
    steps = np.rint(np.clip(radii, 0, max_radius_px) * RADIUS_STEPS_PER_PX)
    return Candidates(prob=prob, points_px=points[first], radii_steps=steps.astype(np.uint16))


def candidates_of(*, prob, points_px, radii_px):
    """With radii in network px, multiples of 1/64."""
    steps = np.rint(radii_px * RADIUS_STEPS_PER_PX).astype(np.uint16)
    return Candidates(prob=prob, points_px=points_px, radii_steps=steps)


def in_window(candidates: Candidates, window: Window) -> Candidates:
    y, x = candidates.points_px.T
    return candidates.take((y >= window.y0) & (y < window.y1) & (x >= window.x0) & (x < window.x1))


def points_of(candidates: Candidates) -> set[tuple[int, int]]:
    return {tuple(point) for point in candidates.points_px.tolist()}

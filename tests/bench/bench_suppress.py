"""Suppression alone: candidates a second on one thread, by density and with an absurd candidate.

    python -m tests.bench.bench_suppress

Drawn candidates, seeded; CPU seconds of the thread, the best and the median of several rounds.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

from microtome.grid import Window
from microtome.stardist import MAX_RADIUS_PX, RADIUS_STEPS_PER_PX, Candidates, State, settle

SIDE_PX = 2048
ROUNDS = 7
DENSITIES_PER_MP = (3_000, 10_000, 30_000)
CANDIDATES_PER_NUCLEUS = 25
MAX_OVERLAP = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class SuppressTiming:
    workload: str
    candidates: int
    kept: int
    best_s: float
    median_s: float

    @property
    def candidates_per_s(self) -> float:
        return self.candidates / self.median_s


def workloads() -> Iterator[tuple[str, Candidates]]:
    """Elliptic nuclei at several densities; then the densest again, with one huge candidate."""
    for density in DENSITIES_PER_MP:
        candidates = draw_tissue(density)
        yield f"{density:,} per MP", candidates
    candidates.radii_steps[0], candidates.prob[0] = MAX_RADIUS_PX * RADIUS_STEPS_PER_PX, 1.0
    yield f"{density:,} per MP and one of {MAX_RADIUS_PX} px", candidates


def draw_tissue(per_mp: int) -> Candidates:
    """Candidates as a network gives them: some 25 in the middle of each ellipse, each seeing its edge."""
    rng = np.random.default_rng(1)
    across = round(np.sqrt(per_mp / CANDIDATES_PER_NUCLEUS * SIDE_PX**2 / 1e6))
    pitch = SIDE_PX / across
    centres = (np.stack(np.divmod(np.arange(across**2), across), axis=1) + 0.5) * pitch
    centres += rng.uniform(-0.3, 0.3, centres.shape) * pitch
    axes = rng.uniform(6, 13, centres.shape)
    offsets = rng.uniform(-0.55, 0.55, (len(centres), 4 * CANDIDATES_PER_NUCLEUS, 2)) * axes[:, None]
    points = np.clip((centres[:, None] + offsets) // 2 * 2, 0, SIDE_PX - 2).astype(np.int32).reshape(-1, 2)
    first = np.unique(points, axis=0, return_index=True)[1]
    first = rng.permutation(first)[: round(per_mp * SIDE_PX**2 / 1e6)]
    owner, points = first // (4 * CANDIDATES_PER_NUCLEUS), points[first]
    angles = 2 * np.pi * np.arange(32) / 32
    rays = np.stack([np.sin(angles), np.cos(angles)], axis=1) / axes[owner][:, None]
    start = ((points - centres[owner]) / axes[owner])[:, None]
    # |start + r * ray| = 1, solved for the positive r: from inside an ellipse there is one.
    a, b, c = (rays**2).sum(-1), (rays * start).sum(-1), (start**2).sum(-1) - 1
    radii = (np.sqrt(np.maximum(b * b - a * c, 0)) - b) / a * rng.uniform(0.93, 1.07, a.shape)
    prob = 0.95 - 0.3 * np.sqrt(c[:, 0] + 1) + rng.normal(0, 0.02, len(points))
    steps = np.rint(np.clip(radii, 1 / 64, MAX_RADIUS_PX) * RADIUS_STEPS_PER_PX)
    return Candidates(
        prob=np.clip(prob, 0, 1).astype(np.float32), points_px=points, radii_steps=steps.astype(np.uint16)
    )


def time_suppression(name: str, candidates: Candidates) -> SuppressTiming:
    slide = Window(0, 0, SIDE_PX, SIDE_PX)
    settle(candidates, MAX_OVERLAP, complete=slide, slide=slide)
    seconds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        states = settle(candidates, MAX_OVERLAP, complete=slide, slide=slide)
        seconds.append(time.thread_time() - began)
    return SuppressTiming(
        workload=name,
        candidates=len(candidates),
        kept=int(np.count_nonzero(states == State.KEPT)),
        best_s=min(seconds),
        median_s=median(seconds),
    )


def run() -> list[SuppressTiming]:
    return [time_suppression(name, candidates) for name, candidates in workloads()]


if __name__ == "__main__":
    timings = run()
    for timing in timings:
        print(
            f"{timing.workload:45} {timing.candidates:8,} candidates, {timing.kept:6,} kept, "
            f"{timing.candidates_per_s:10,.0f} /s, {timing.median_s / SIDE_PX**2 * 1e9:6.1f} ms/MP"
        )
    print(json.dumps([asdict(timing) for timing in timings]))

"""Where shards meet: what neighbours decide together, and who owns a nucleus.

A shard alone leaves candidates near its edges undecided (`stardist.settle`); they travel to the
next stage in a `Part`, with those that are kept for certain. There the parts of a block of shards
settle what one shard needs, exactly as one suppression of the whole slide would; where the block
is too small to be certain, it grows.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import zstandard

from microtome.arrays import Ints, Mask
from microtome.grid import Grid, Scale, Shard, Window
from microtome.nuclei import Nuclei
from microtome.polygons import bounds, visible_px
from microtome.stardist import (
    MAX_RADIUS_PX,
    RADIUS_STEPS_PER_PX,
    Candidates,
    State,
    States,
    by_priority,
    outlines,
    settle,
    suppress,
)

_HEADER = struct.Struct("<4sIII4q")
_MAGIC = b"MTP1"
_COUNT = struct.Struct("<q")
_ROUNDING_PX = 2
"""How far, network px, rounding and pixel centres can move an outline."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """What the candidates of one shard leave to the next stage: those kept and those undecided."""

    candidates: Candidates
    """In raster order, so that the tiles they come from cannot show."""
    window: Window
    """The shard, network px: no candidate outside of it."""

    @classmethod
    def of(cls, candidates: Candidates, states: States, window: Window) -> Self:
        """The part of a settled shard."""
        rows = np.flatnonzero(states != State.SUPPRESSED)
        points = candidates.points_px[rows]
        return cls(candidates=candidates.take(rows[np.lexsort((points[:, 1], points[:, 0]))]), window=window)


def part_to_bytes(part: Part) -> bytes:
    """The part for a file: the same part gives the same bytes."""
    candidates, window = part.candidates, part.window
    count, n_rays = candidates.radii_steps.shape
    # High bytes apart from low ones: they repeat, and compress.
    columns = candidates.radii_steps.astype("<u2").T.copy().view(np.uint8).reshape(-1, 2).T
    header = _HEADER.pack(_MAGIC, count, n_rays, 0, window.y0, window.x0, window.y1, window.x1)
    body = b"".join(
        [
            candidates.prob.astype("<f4").tobytes(),
            candidates.points_px.astype("<i4").T.tobytes(),
            columns.tobytes(),
        ]
    )
    return header + zstandard.ZstdCompressor(level=1, write_checksum=True).compress(body)


def part_from_bytes(content: bytes) -> Part:
    """The part that `part_to_bytes` wrote.

    Raises
    ------
    ValueError
        If the bytes are not a part.
    zstandard.ZstdError
        If they are damaged.
    """
    if content[:4] != _MAGIC:
        raise ValueError(f"not a part: begins with {content[:4]!r}, expected {_MAGIC!r}")
    _, count, n_rays, _, y0, x0, y1, x1 = _HEADER.unpack_from(content)
    body = zstandard.ZstdDecompressor().decompress(content[_HEADER.size :])
    prob = np.frombuffer(body, "<f4", count)
    points = np.frombuffer(body, "<i4", 2 * count, 4 * count).reshape(2, count).T
    columns = np.frombuffer(body, np.uint8, 2 * count * n_rays, 12 * count).reshape(2, -1)
    radii = columns.T.copy().view("<u2").reshape(n_rays, count).T
    candidates = Candidates(
        prob=prob.astype(np.float32),
        # Copied also where one candidate makes it contiguous: numba would compile anew for what is read-only.
        points_px=np.array(points, np.int32, order="C"),
        radii_steps=np.ascontiguousarray(radii, np.uint16),
    )
    return Part(candidates=candidates, window=Window(y0, x0, y1, x1))


def settle_shard(
    read_parts: Callable[[Sequence[Shard]], Sequence[Part]],
    grid: Grid,
    shard: Shard,
    scale: Scale,
    *,
    max_overlap: float,
    max_radius_px: int = MAX_RADIUS_PX,
) -> Candidates:
    """The nuclei that touch a shard, and those that may hide a part of them.

    Parameters
    ----------
    read_parts
        The parts of some shards; called for the shards around, for those further off only where needed.
    grid
        The shards of the slide, level-0 px.
    scale
        Network px per level-0 px.

    Returns
    -------
    Candidates
        By falling priority; the same ones that a suppression of the whole slide keeps there.
    """
    slide, window = scale.to_network(grid.window), scale.to_network(shard.window)
    parts: dict[int, Part] = {}
    reach = 0
    while True:
        reach += 1
        around = grid.around(shard, reach)
        new = [other for other in around if other.index not in parts]
        parts.update(zip((other.index for other in new), read_parts(new), strict=True))
        complete = scale.to_network(_hull([other.window for other in around]))
        settled = settle_block(
            list(parts.values()),
            window,
            complete=complete,
            slide=slide,
            max_overlap=max_overlap,
            max_radius_px=max_radius_px,
        )
        if settled is not None:
            return settled


def settle_block(
    parts: Sequence[Part],
    window: Window,
    *,
    complete: Window,
    slide: Window,
    max_overlap: float,
    max_radius_px: int = MAX_RADIUS_PX,
) -> Candidates | None:
    """The nuclei that touch a window, and those that may hide a part of them, from some parts.

    Parameters
    ----------
    parts
        Those of all shards in `complete`.
    window, complete, slide
        What is asked for, what the parts cover, and the whole image, network px.

    Returns
    -------
    Candidates or None
        By falling priority. None if that cannot be told from these parts: more are needed.
    """
    candidates = Candidates.concatenate([part.candidates for part in parts])
    margin_px = max_radius_px
    while True:
        margin_px *= 2
        seen = window.grow(margin_px).intersect(complete)
        settled = _settle_seen(candidates, window, seen, slide, max_overlap, max_radius_px)
        if settled is not None or seen == complete:
            return settled


def _settle_seen(
    candidates: Candidates,
    window: Window,
    seen: Window,
    slide: Window,
    max_overlap: float,
    max_radius_px: int,
) -> Candidates | None:
    inside = candidates.take(_in_window(candidates.points_px, seen))
    states = settle(inside, max_overlap, complete=seen, slide=slide, max_radius_px=max_radius_px)
    present = inside.take(states != State.SUPPRESSED)
    boxes = _boxes(present)
    touching = boxes[_touch(boxes, window)]
    # Whatever overlaps one of those lies within their common bounds.
    whole = _hull([window, *_around(touching)])
    if not _covers(seen, whole.grow(max_radius_px + _ROUNDING_PX).intersect(slide)):
        return None
    rows = np.flatnonzero(_touch(boxes, whole))
    if np.any(states[states != State.SUPPRESSED][rows] == State.UNDECIDED):
        return None
    wanted = present.take(rows)
    return wanted.take(by_priority(wanted))


def _in_window(points: npt.NDArray[np.int32], window: Window) -> Mask:
    y, x = points.T
    inside: Mask = (y >= window.y0) & (y < window.y1) & (x >= window.x0) & (x < window.x1)
    return inside


def _boxes(candidates: Candidates) -> Ints:
    """(n, 4) y0, x0, y1, x1 that hold the outlines, rounding included."""
    longest = -(-candidates.radii_steps.max(axis=1, initial=0).astype(np.int64) // RADIUS_STEPS_PER_PX)
    longest += _ROUNDING_PX
    points = candidates.points_px.astype(np.int64)
    return np.concatenate([points - longest[:, None], points + longest[:, None]], axis=1)


def _touch(boxes: Ints, window: Window) -> Mask:
    y0, x0, y1, x1 = boxes.T
    touch: Mask = (y1 >= window.y0) & (y0 <= window.y1) & (x1 >= window.x0) & (x0 <= window.x1)
    return touch


def _hull(windows: Sequence[Window]) -> Window:
    return Window(
        min(window.y0 for window in windows),
        min(window.x0 for window in windows),
        max(window.y1 for window in windows),
        max(window.x1 for window in windows),
    )


def _around(boxes: Ints) -> list[Window]:
    """The one window that holds all boxes; none of no boxes."""
    if not len(boxes):
        return []
    return [Window(*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())]


def _covers(outer: Window, inner: Window) -> bool:
    return outer.intersect(inner) == inner


def own(nuclei: Nuclei, window: Window) -> Ints:
    """Rows whose centroid lies in the window (level-0 px): each nucleus is in one shard."""
    y, x = nuclei.centre_px.T
    return np.flatnonzero((y >= window.y0) & (y < window.y1) & (x >= window.x0) & (x < window.x1))


def own_nuclei(settled: Candidates, window: Window, scale: Scale, slide: Window) -> Nuclei:
    """The nuclei of a shard, in the order of their ids.

    Parameters
    ----------
    settled
        From `settle_shard`.
    window, slide
        The shard and the whole slide, level-0 px.

    Returns
    -------
    Nuclei
        Those whose centroid lies in the window and that have at least one visible pixel anywhere,
        by (y, x) of their centroid.
    """
    nuclei = outlines(settled, scale, slide)
    rows = own(nuclei, window)
    rows = rows[visible_px(nuclei)[rows] > 0]
    y, x = nuclei.centre_px[rows].T
    return nuclei.take(rows[np.lexsort((x, y))])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Crossing:
    """Those of a shard's nuclei that reach out of it: all that its neighbours need of it to paint."""

    rows: Ints
    """(n,) int64: their rows among all of the shard's nuclei."""
    nuclei: Nuclei

    @classmethod
    def of(cls, nuclei: Nuclei, window: Window) -> Self:
        """Of the nuclei that a shard owns. `window` is the shard, level-0 px."""
        y0, x0, y1, x1 = bounds(nuclei).T
        rows = np.flatnonzero((y0 < window.y0) | (x0 < window.x0) | (y1 > window.y1) | (x1 > window.x1))
        return cls(rows=rows, nuclei=nuclei.take(rows))

    def into(self, window: Window) -> Self:
        """Those that may have pixels in a window (level-0 px)."""
        y0, x0, y1, x1 = bounds(self.nuclei).T
        near = np.flatnonzero((y1 > window.y0) & (x1 > window.x0) & (y0 < window.y1) & (x0 < window.x1))
        return type(self)(rows=self.rows[near], nuclei=self.nuclei.take(near))

    def to_bytes(self) -> bytes:
        """For a file: the same nuclei give the same bytes."""
        return _COUNT.pack(len(self.rows)) + self.rows.astype("<u4").tobytes() + self.nuclei.to_bytes()

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """Those that `to_bytes` wrote."""
        (count,) = _COUNT.unpack_from(text)
        rows = np.frombuffer(text, "<u4", count, _COUNT.size).astype(np.int64)
        return cls(rows=rows, nuclei=Nuclei.from_bytes(text[_COUNT.size + 4 * count :]))


def count_seam_conflicts(part: Part, settled: Candidates, max_overlap: float) -> int:
    """How many nuclei the shard alone would have kept that its neighbours suppress."""
    alone = suppress(part.candidates, max_overlap)
    return int(np.count_nonzero(~np.isin(_places(alone), _places(settled))))


def _places(candidates: Candidates) -> Ints:
    """(n,) int64: one number for each point."""
    y, x = candidates.points_px.astype(np.int64).T
    places: Ints = (y << 32) + x
    return places

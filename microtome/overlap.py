"""Compiled kernels of the suppression: outlines on whole pixels, exact overlaps, one greedy pass.

As the official package does before it clips polygons, vertices are rounded down to whole network
px. So no vertex lies inside a pixel column, and within one column an outline is a set of straight
crossings, as many to the right as to the left. The area that outlines A and B share in a column is

    1/2 * integral of |Ra - Lb| + |La - Rb| - |Ra - Rb| - |La - Lb|

summed over their crossings (R to the right, L to the left), exact and without any case for shared
vertices or edges. All numbers are relative to the candidates' points, which are integers, so a
pair is judged alike wherever it lies on a slide and whoever judges it.
"""

import math

import numpy as np
from numba import njit

from microtome.arrays import Doubles

KEPT, SUPPRESSED, UNDECIDED = 0, 1, 2

CELL_PX = 32
"""Side of a cell of the search grid, network px: about one nucleus."""


def rays(n_rays: int) -> tuple[Doubles, Doubles]:
    """Sine and cosine of the official ray angles, (n_rays,) float64: y = sin, x = cos.

    Rounded, so that the last bits of a platform's mathematical library cannot show.
    """
    angles: Doubles = 2 * np.pi * np.arange(n_rays) / np.float64(n_rays)
    sine: Doubles = np.round(np.sin(angles), 12) + np.float64(0)
    cosine: Doubles = np.round(np.cos(angles), 12) + np.float64(0)
    return sine, cosine


@njit(nogil=True, cache=True)
def _corners(radii, sine, cosine, ys, xs):  # type: ignore[no-untyped-def]
    """Vertices on whole px around the point, into `ys`, `xs`; their bounds and twice the area."""
    n = len(radii)
    y0 = x0 = 1 << 30
    y1 = x1 = -(1 << 30)
    for k in range(n):
        y = math.floor(radii[k] * sine[k])
        x = math.floor(radii[k] * cosine[k])
        ys[k] = y
        xs[k] = x
        y0 = min(y0, y)
        y1 = max(y1, y)
        x0 = min(x0, x)
        x1 = max(x1, x)
    twice = xs[n - 1] * ys[0] - xs[0] * ys[n - 1]
    for k in range(1, n):
        twice += xs[k - 1] * ys[k] - xs[k] * ys[k - 1]
    return y0, x0, y1, x1, abs(twice)


@njit(nogil=True, cache=True)
def _profile(ys, xs, x0, width, inverse, counts, crossings):  # type: ignore[no-untyped-def]
    """Crossings of every column: `crossings[slot, side, col]`; the number of slots in use.

    Sides: to the right at the column's left and right border, to the left likewise.
    `counts[0]` and `counts[1]` (2, width) say how many there are, right and left.
    """
    for c in range(width):
        counts[0, c] = 0
        counts[1, c] = 0
    n = len(ys)
    for k in range(n):
        after = k + 1 if k + 1 < n else 0
        xa, ya, xb, yb = xs[k], ys[k], xs[after], ys[after]
        if xa == xb:
            continue
        side = 0
        if xa > xb:
            side = 1
            xa, ya, xb, yb = xb, yb, xa, ya
        slope = (yb - ya) * inverse[xb - xa]
        y_left = float(ya)
        for x in range(xa, xb):
            y_right = float(yb) if x + 1 == xb else ya + slope * (x + 1 - xa)
            col = x - x0
            slot = counts[side, col]
            counts[side, col] = slot + 1
            crossings[slot, 2 * side, col] = y_left
            crossings[slot, 2 * side + 1, col] = y_right
            y_left = y_right
    slots = 0
    for c in range(width):
        slots = max(slots, counts[0, c])
    return slots


@njit(nogil=True, cache=True, inline="always")
def _between(a0, a1, b0, b1):  # type: ignore[no-untyped-def]
    """Twice the area between two straight crossings of one column."""
    d0 = a0 - b0
    d1 = a1 - b1
    if d0 * d1 >= 0.0:
        return abs(d0 + d1)
    return (d0 * d0 + d1 * d1) / abs(d0 - d1)


@njit(nogil=True, cache=True)
def _shared4(pool, at, width, col, slots, crossings, counts, c, dy):  # type: ignore[no-untyped-def]
    """Four times the area shared in one column: `pool[at:]` against `crossings`, `dy` lower."""
    total = 0.0
    for i in range(slots):
        base = at + 4 * width * i + col
        r0 = pool[base] + dy
        r1 = pool[base + width] + dy
        l0 = pool[base + 2 * width] + dy
        l1 = pool[base + 3 * width] + dy
        for j in range(counts[0, c]):
            s0, s1 = crossings[j, 0, c], crossings[j, 1, c]
            m0, m1 = crossings[j, 2, c], crossings[j, 3, c]
            total += _between(r0, r1, m0, m1) + _between(l0, l1, s0, s1)
            total -= _between(r0, r1, s0, s1) + _between(l0, l1, m0, m1)
    return total


@njit(nogil=True, cache=True)
def _overlaps(record, pool, point_y, point_x, box, twice, counts, crossings, max_overlap):  # type: ignore[no-untyped-def]
    """Whether the record's outline and the profiled one share more than `max_overlap` of the smaller."""
    limit = 2.0 * max_overlap * min(record[6], twice)
    high = min(record[4], box[2]) - max(record[2], box[0])
    left = max(record[3], box[1])
    right = min(record[5], box[3])
    if high <= 0 or right <= left or 4.0 * high * (right - left) <= limit:
        return False
    dy = float(record[0] - point_y)
    at, width, slots = record[7], record[5] - record[3], record[8]
    total = 0.0
    # From the middle outwards, to be done early with outlines that clearly overlap.
    middle = (left + right) // 2
    for step in range(right - left):
        x = middle + (step + 1) // 2 * (1 if step % 2 else -1)
        if x < left or x >= right:
            continue
        total += _shared4(pool, at, width, x - record[3], slots, crossings, counts, x - box[1], dy)
        if total > limit:
            return True
    return False


@njit(nogil=True, cache=True)
def _register(row, origin, shape, heads, nexts, owners, used, record):  # type: ignore[no-untyped-def]
    """Enter the record into every cell that its bounds touch; the entry lists, grown if needed."""
    for cy in range((record[2] - origin[0]) // CELL_PX, (record[4] - origin[0]) // CELL_PX + 1):
        for cx in range((record[3] - origin[1]) // CELL_PX, (record[5] - origin[1]) // CELL_PX + 1):
            if used == len(nexts):
                nexts = np.concatenate((nexts, np.empty_like(nexts)))
                owners = np.concatenate((owners, np.empty_like(owners)))
            cell = cy * shape[1] + cx
            nexts[used] = heads[cell]
            owners[used] = row
            heads[cell] = used
            used += 1
    return nexts, owners, used


@njit(nogil=True, cache=True)
def settle_rows(order, points, radii, sine, cosine, max_overlap, safe, reach_px):  # type: ignore[no-untyped-def]
    """One greedy pass in the given order; see `microtome.stardist.settle`.

    `safe` (4,) int64: bounds (y0, x0, y1, x1) within which no unseen candidate can reach.
    Radii are at most `reach_px`. Returns (n,) uint8.
    """
    n, n_rays = radii.shape
    states = np.empty(n, np.uint8)
    if n == 0:
        return states
    origin = np.array([points[:, 0].min() - reach_px - 1, points[:, 1].min() - reach_px - 1])
    far = np.array([points[:, 0].max() + reach_px + 1, points[:, 1].max() + reach_px + 1])
    shape = (far - origin) // CELL_PX + 1
    heads = np.full(shape[0] * shape[1], -1, np.int32)
    nexts, owners, entries = np.empty(4096, np.int32), np.empty(4096, np.int32), 0
    # point y, x; bounds y0, x0, y1, x1; twice the area; place in the pool; slots; state
    records, filled = np.empty((1024, 10), np.int64), 0
    pool, poured = np.empty(1 << 16, np.float64), 0
    widest = 2 * reach_px + 3
    inverse = 1.0 / np.maximum(np.arange(widest + 1), 1)
    counts = np.empty((2, widest), np.int64)
    crossings = np.zeros((n_rays // 2 + 1, 4, widest))
    ys, xs = np.empty(n_rays, np.int64), np.empty(n_rays, np.int64)
    box = np.empty(4, np.int64)
    for row in order:
        py, px = np.int64(points[row, 0]), np.int64(points[row, 1])
        y0, x0, y1, x1, twice = _corners(radii[row], sine, cosine, ys, xs)
        box[0], box[1], box[2], box[3] = py + y0, px + x0, py + y1, px + x1
        if twice == 0:
            states[row] = KEPT  # a line shares no area with anything
            continue
        slots = _profile(ys, xs, x0, x1 - x0, inverse, counts, crossings)
        open_fate = box[0] < safe[0] or box[1] < safe[1] or box[2] > safe[2] or box[3] > safe[3]
        suppressed = False
        # First the cell of the point: most candidates are suppressed there.
        entry = heads[(py - origin[0]) // CELL_PX * shape[1] + (px - origin[1]) // CELL_PX]
        while entry >= 0 and not suppressed:
            record = records[owners[entry]]
            entry = nexts[entry]
            if record[9] == UNDECIDED and open_fate:
                continue
            if record[2] <= py < record[4] and record[3] <= px < record[5]:
                if _overlaps(record, pool, py, px, box, twice, counts, crossings, max_overlap):
                    suppressed = record[9] == KEPT
                    open_fate = True
        if not suppressed:
            for cy in range((box[0] - origin[0]) // CELL_PX, (box[2] - origin[0]) // CELL_PX + 1):
                for cx in range((box[1] - origin[1]) // CELL_PX, (box[3] - origin[1]) // CELL_PX + 1):
                    entry = heads[cy * shape[1] + cx]
                    while entry >= 0 and not suppressed:
                        record = records[owners[entry]]
                        entry = nexts[entry]
                        if record[9] == UNDECIDED and open_fate:
                            continue
                        if record[2] <= py < record[4] and record[3] <= px < record[5]:
                            continue
                        # Of the cells that two bounds share, the first one alone sees the pair.
                        if (max(record[2], box[0]) - origin[0]) // CELL_PX != cy:
                            continue
                        if (max(record[3], box[1]) - origin[1]) // CELL_PX != cx:
                            continue
                        if _overlaps(record, pool, py, px, box, twice, counts, crossings, max_overlap):
                            suppressed = record[9] == KEPT
                            open_fate = True
        if suppressed:
            states[row] = SUPPRESSED
            continue
        states[row] = UNDECIDED if open_fate else KEPT
        if filled == len(records):
            records = np.concatenate((records, np.empty_like(records)))
        width = x1 - x0
        size = 4 * width * slots
        while poured + size > len(pool):
            pool = np.concatenate((pool, np.empty_like(pool)))
        for i in range(slots):
            for side in range(4):
                base = poured + (4 * i + side) * width
                for c in range(width):
                    pool[base + c] = crossings[i, side, c] if i < counts[side // 2, c] else 0.0
        record = records[filled]
        record[0], record[1] = py, px
        record[2], record[3], record[4], record[5] = box[0], box[1], box[2], box[3]
        record[6], record[7], record[8], record[9] = twice, poured, slots, states[row]
        nexts, owners, entries = _register(filled, origin, shape, heads, nexts, owners, entries, record)
        filled += 1
        poured += size
    return states

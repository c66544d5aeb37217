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

import numba
import numpy as np
import numpy.typing as npt

from microtome.arrays import Doubles, Ints

KEPT, SUPPRESSED, UNDECIDED = 0, 1, 2

CELL_PX = 32
"""Side of a cell of the search grid, network px: about one nucleus."""

# Division by zero gives infinity, as in numpy: checks for it would keep loops from being vectorised.
_kernel = numba.njit(nogil=True, cache=True, error_model="numpy")
_inlined = numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")


def rays(n_rays: int) -> tuple[Doubles, Doubles]:
    """Sine and cosine of the official ray angles, (n_rays,) float64: y = sin, x = cos.

    Rounded, so that the last bits of a platform's mathematical library cannot show.
    """
    angles: Doubles = 2 * np.pi * np.arange(n_rays) / np.float64(n_rays)
    sine: Doubles = np.round(np.sin(angles), 12) + np.float64(0)
    cosine: Doubles = np.round(np.cos(angles), 12) + np.float64(0)
    return sine, cosine


@_kernel
def measure(points, radii, sine, cosine):  # type: ignore[no-untyped-def]
    """Of every outline: bounds (n, 4) int64 y0, x0, y1, x1; twice its area (n,) int64."""
    n, n_rays = radii.shape
    boxes, twice = np.empty((n, 4), np.int64), np.empty(n, np.int64)
    ys, xs = np.empty(n_rays), np.empty(n_rays)
    for i in range(n):
        for k in range(n_rays):
            ys[k] = math.floor(radii[i, k] * sine[k])
            xs[k] = math.floor(radii[i, k] * cosine[k])
        y0, x0, y1, x1 = ys[0], xs[0], ys[0], xs[0]
        doubled = xs[n_rays - 1] * ys[0] - xs[0] * ys[n_rays - 1]
        for k in range(1, n_rays):
            y0, y1 = min(y0, ys[k]), max(y1, ys[k])
            x0, x1 = min(x0, xs[k]), max(x1, xs[k])
            doubled += xs[k - 1] * ys[k] - xs[k] * ys[k - 1]
        boxes[i, 0], boxes[i, 1] = points[i, 0] + y0, points[i, 1] + x0
        boxes[i, 2], boxes[i, 3] = points[i, 0] + y1, points[i, 1] + x1
        twice[i] = abs(doubled)
    return boxes, twice


@_inlined
def _profile(radii, j, sine, cosine, x0, width, inverse, corners, counts, crossings):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """Crossings of every column of outline `j`, `x0` and y relative to its point; how many slots.

    `crossings[slot, side, col]`: to the right at the column's left and right border, then to the
    left likewise. An empty slot goes right and left on the same line, so it has no area.
    """
    n = len(sine)
    for k in range(n):
        corners[0, k] = math.floor(radii[j, k] * sine[k])
        corners[1, k] = math.floor(radii[j, k] * cosine[k])
    for col in range(width):
        counts[0, col] = counts[1, col] = 0
    slots = 0
    yb, xb = corners[0, n - 1], corners[1, n - 1]
    for k in range(n):
        ya, xa = yb, xb
        yb, xb = corners[0, k], corners[1, k]
        side, low, high, y = (0, xa, xb, ya) if xa < xb else (1, xb, xa, yb)
        slope = (yb - ya) * inverse[high - low] * (1 if xa < xb else -1)
        for step in range(high - low):
            col = low + step - x0
            slot = counts[side, col]
            counts[side, col] = slot + 1
            if slot == slots:
                for line in range(4):
                    for empty in range(width):
                        crossings[slot, line, empty] = 0.0
                slots += 1
            crossings[slot, 2 * side, col] = y + slope * step
            crossings[slot, 2 * side + 1, col] = y + slope * (step + 1)
    return slots


@_inlined
def _between(a0, a1, b0, b1):  # type: ignore[no-untyped-def]
    """Twice the area between two straight crossings of one column."""
    d0 = a0 - b0
    d1 = a1 - b1
    crossed = (d0 * d0 + d1 * d1) / abs(d0 - d1)
    return abs(d0 + d1) if d0 * d1 >= 0.0 else crossed


@_inlined
def _shared4(pool, at, slots, width, crossings, used, start, stop, dy, columns):  # type: ignore[no-untyped-def]  # noqa: PLR0913
    """Four times the area that two outlines share.

    One is in the pool, its first column that lies on the other at `at`, and `dy` lower; of the other, in
    `crossings`, columns from `start` on lie on those.
    """
    total = 0.0
    for c in range(stop):
        columns[c] = 0.0
    for i in range(slots):
        first = at + 4 * i * width
        for j in range(used):
            for c in range(stop):
                r0 = pool[first + c] + dy
                r1 = pool[first + width + c] + dy
                l0 = pool[first + 2 * width + c] + dy
                l1 = pool[first + 3 * width + c] + dy
                s0, s1 = crossings[j, 0, start + c], crossings[j, 1, start + c]
                m0, m1 = crossings[j, 2, start + c], crossings[j, 3, start + c]
                more = _between(r0, r1, m0, m1) + _between(l0, l1, s0, s1)
                less = _between(r0, r1, s0, s1) + _between(l0, l1, m0, m1)
                columns[c] += more - less
    for c in range(stop):
        total += columns[c]
    return total


def settle_rows(
    points: npt.NDArray[np.int32],
    radii: npt.NDArray[np.uint16],
    sine: Doubles,
    cosine: Doubles,
    max_overlap: float,
    safe: Ints,
    reach_px: int,
) -> npt.NDArray[np.uint8]:
    """One greedy pass over rows by falling priority, (n,) uint8; see `microtome.stardist.settle`.

    Parameters
    ----------
    points, radii
        (n, 2) int32, network px; (n, n_rays) uint16.
    sine, cosine
        (n_rays,): radii times these are network px, at most `reach_px`.
    safe
        (4,) int64: bounds (y0, x0, y1, x1) within which no unseen candidate can reach.
    """
    n, n_rays = radii.shape
    states = np.empty(n, np.uint8)
    if n == 0:
        return states
    boxes, twice = measure(points, radii, sine, cosine)
    origin = boxes[:, :2].min(axis=0)
    rows, cols = ((boxes[:, 2:].max(axis=0) - origin) // CELL_PX + 1).tolist()
    widest = 2 * reach_px + 3
    heads = np.full((2, rows, cols), -1, np.int32)
    # Mostly enough; memory that nothing is written to costs nothing.
    entries, pool = np.empty((2, n + 64), np.int32), np.empty(24 * n + (1 << 12))
    place, slots = np.empty((2, n), np.int64)
    near = np.empty((2, n), np.int64)
    inverse = 1.0 / np.maximum(np.arange(widest), 1)
    corners, counts = np.empty((2, n_rays), np.int64), np.empty((2, widest), np.int64)
    scratch = near, inverse, corners, counts, np.empty((n_rays, 4, widest)), np.empty(widest)
    outlines = points, radii, sine, cosine, boxes, twice
    row = entered = poured = 0
    while True:
        lists = heads, entries, place, slots, pool
        row, entered, poured = _settle_from(
            row, entered, poured, outlines, max_overlap, safe, origin, lists, scratch, states
        )
        if row == n:
            return states
        entries = np.concatenate([entries, np.empty_like(entries)], axis=1)
        pool = np.concatenate([pool, np.empty_like(pool)])


@_kernel
def _settle_from(  # type: ignore[no-untyped-def]  # noqa: C901, PLR0913
    row, entered, poured, outlines, max_overlap, safe, origin, lists, scratch, states
):
    """Rows from `row` on, until `entries` or `pool` is full: the next row, and how far these are filled.

    One long function that makes no array and no view: numba counts references to what a call is given and
    to what a loop makes, by atomic operations, at three times the cost of the work itself.

    Kept rows, and undecided ones, are in lists, by the cells of a grid that their bounds touch: `heads` has
    the first entry of each, `entries` the next one and the row. Their crossings are from `pool[place[row]]`
    on, (slots[row], side, column).
    """
    points, radii, sine, cosine, boxes, twice = outlines
    heads, entries, place, slots, pool = lists
    near, inverse, corners, counts, crossings, columns = scratch
    gy, gx = origin[0], origin[1]
    for j in range(row, len(radii)):
        states[j] = KEPT
        if twice[j] == 0:
            continue  # a line shares no area with anything
        y0, x0, y1, x1 = boxes[j, 0], boxes[j, 1], boxes[j, 2], boxes[j, 3]
        if y0 < safe[0] or x0 < safe[1] or y1 > safe[2] or x1 > safe[3]:
            states[j] = UNDECIDED
        first_cy, first_cx = (y0 - gy) // CELL_PX, (x0 - gx) // CELL_PX
        end_cy, end_cx = (y1 - gy) // CELL_PX + 1, (x1 - gx) // CELL_PX + 1
        width = x1 - x0
        used = _profile(radii, j, sine, cosine, x0 - points[j, 1], width, inverse, corners, counts, crossings)
        cells = (end_cy - first_cy) * (end_cx - first_cx)
        if entered + cells > entries.shape[1] or poured + 4 * used * width > len(pool):
            return j, entered, poured
        for by in (KEPT, UNDECIDED):
            if states[j] != KEPT and by == UNDECIDED:
                break  # whatever those overlap is decided no less than they are
            # Those that may overlap, the nearest first: it decides most often.
            found = 0
            for cy in range(first_cy, end_cy):
                for cx in range(first_cx, end_cx):
                    entry = heads[by // UNDECIDED, cy, cx]
                    while entry >= 0:
                        i = entries[1, entry]
                        entry = entries[0, entry]
                        top, left = max(boxes[i, 0], y0), max(boxes[i, 1], x0)
                        # Of the cells that two bounds share, the first one alone sees the pair.
                        if (top - gy) // CELL_PX != cy or (left - gx) // CELL_PX != cx:
                            continue
                        common = (min(boxes[i, 2], y1) - top) * (min(boxes[i, 3], x1) - left)
                        if 2.0 * common <= max_overlap * min(twice[i], twice[j]):
                            continue
                        away2 = (points[i, 0] - points[j, 0]) ** 2 + (points[i, 1] - points[j, 1]) ** 2
                        at = found
                        while at > 0 and near[1, at - 1] > away2:
                            near[0, at], near[1, at] = near[0, at - 1], near[1, at - 1]
                            at -= 1
                        near[0, at], near[1, at] = i, away2
                        found += 1
            for at in range(found):
                i = near[0, at]
                left, right = max(boxes[i, 1], x0), min(boxes[i, 3], x1)
                shared4 = _shared4(
                    pool,
                    place[i] + left - boxes[i, 1],
                    slots[i],
                    boxes[i, 3] - boxes[i, 1],
                    crossings,
                    used,
                    left - x0,
                    right - left,
                    float(points[i, 0] - points[j, 0]),
                    columns,
                )
                if shared4 > 2.0 * max_overlap * min(twice[i], twice[j]):
                    states[j] = SUPPRESSED if by == KEPT else UNDECIDED
                    break
        if states[j] == SUPPRESSED:
            continue
        for cy in range(first_cy, end_cy):
            for cx in range(first_cx, end_cx):
                entries[0, entered], entries[1, entered] = heads[states[j] // UNDECIDED, cy, cx], j
                heads[states[j] // UNDECIDED, cy, cx] = entered
                entered += 1
        place[j], slots[j] = poured, used
        for slot in range(used):
            for side in range(4):
                for col in range(width):
                    pool[poured + col] = crossings[slot, side, col]
                poured += width
    return len(radii), entered, poured

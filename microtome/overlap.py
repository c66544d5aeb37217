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

from microtome.arrays import Doubles

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
def _profile(radii, sine, cosine, x0, width, inverse, corners, counts, crossings):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """Crossings of every column of an outline, `x0` and y relative to its point; how many slots.

    `crossings[slot, side, col]`: to the right at the column's left and right border, then to the
    left likewise. An empty slot goes right and left on the same line, so it has no area.
    """
    n = len(sine)
    for k in range(n):
        corners[0, k] = math.floor(radii[k] * sine[k])
        corners[1, k] = math.floor(radii[k] * cosine[k])
    counts[:, :width] = 0
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
                crossings[slot, :, :width] = 0.0
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
def _shared4(one, other, start, stop, dy, columns):  # type: ignore[no-untyped-def]
    """Four times the area that two outlines share.

    `one` (slots, 4, width) is `dy` lower than `other`; its columns from `start[0]` on lie on those
    of `other` from `start[1]` on.
    """
    total = 0.0
    for c in range(stop):
        columns[c] = 0.0
    for i in range(len(one)):
        for j in range(len(other)):
            for c in range(stop):
                r0 = one[i, 0, start[0] + c] + dy
                r1 = one[i, 1, start[0] + c] + dy
                l0 = one[i, 2, start[0] + c] + dy
                l1 = one[i, 3, start[0] + c] + dy
                s0, s1 = other[j, 0, start[1] + c], other[j, 1, start[1] + c]
                m0, m1 = other[j, 2, start[1] + c], other[j, 3, start[1] + c]
                more = _between(r0, r1, m0, m1) + _between(l0, l1, s0, s1)
                less = _between(r0, r1, s0, s1) + _between(l0, l1, m0, m1)
                columns[c] += more - less
    for c in range(stop):
        total += columns[c]
    return total


@_kernel
def settle_rows(order, points, radii, sine, cosine, max_overlap, safe, reach_px):  # type: ignore[no-untyped-def]  # noqa: C901, PLR0915
    """One greedy pass in the given order; see `microtome.stardist.settle`.

    One long function: numba counts references to every array that a call is given, at three times
    the cost of the work itself.

    `safe` (4,) int64: bounds (y0, x0, y1, x1) within which no unseen candidate can reach.
    Radii are at most `reach_px`. Returns (n,) uint8.
    """
    n, n_rays = radii.shape
    states = np.empty(n, np.uint8)
    if n == 0:
        return states
    boxes, twice = measure(points, radii, sine, cosine)
    # Kept and undecided rows, by the cells of a grid that their bounds touch.
    gy, gx = boxes[:, 0].min(), boxes[:, 1].min()
    rows, cols = (boxes[:, 2].max() - gy) // CELL_PX + 1, (boxes[:, 3].max() - gx) // CELL_PX + 1
    heads = np.full((rows, cols), -1, np.int32)
    nexts, owners, entries = np.empty(4096, np.int32), np.empty(4096, np.int32), 0
    near, near2 = np.empty(64, np.int64), np.empty(64, np.int64)
    # Their crossings: `pool[place[row]:]` is (slots[row], side, column).
    place, slots = np.empty(n, np.int64), np.empty(n, np.int64)
    pool, poured = np.empty(1 << 16, np.float64), 0
    widest = 2 * reach_px + 3
    inverse = 1.0 / np.maximum(np.arange(widest), 1)
    corners, counts = np.empty((2, n_rays), np.int64), np.empty((2, widest), np.int64)
    crossings, columns = np.empty((n_rays, 4, widest)), np.empty(widest)
    for j in order:
        states[j] = KEPT
        if twice[j] == 0:
            continue  # a line shares no area with anything
        y0, x0, y1, x1 = boxes[j]
        if y0 < safe[0] or x0 < safe[1] or y1 > safe[2] or x1 > safe[3]:
            states[j] = UNDECIDED
        # Those that may overlap, the nearest first: it decides most often.
        found = 0
        for cy in range((y0 - gy) // CELL_PX, (y1 - gy) // CELL_PX + 1):
            for cx in range((x0 - gx) // CELL_PX, (x1 - gx) // CELL_PX + 1):
                entry = heads[cy, cx]
                while entry >= 0:
                    i = owners[entry]
                    entry = nexts[entry]
                    top, left = max(boxes[i, 0], y0), max(boxes[i, 1], x0)
                    # Of the cells that two bounds share, the first one alone sees the pair.
                    if (top - gy) // CELL_PX != cy or (left - gx) // CELL_PX != cx:
                        continue
                    common = (min(boxes[i, 2], y1) - top) * (min(boxes[i, 3], x1) - left)
                    if 2.0 * common <= max_overlap * min(twice[i], twice[j]):
                        continue
                    if found == len(near):
                        near = np.concatenate((near, np.empty_like(near)))
                        near2 = np.concatenate((near2, np.empty_like(near2)))
                    away2 = (points[i, 0] - points[j, 0]) ** 2 + (points[i, 1] - points[j, 1]) ** 2
                    at = found
                    while at > 0 and near2[at - 1] > away2:
                        near[at], near2[at] = near[at - 1], near2[at - 1]
                        at -= 1
                    near[at], near2[at] = i, away2
                    found += 1
        width = x1 - x0
        used = _profile(radii[j], sine, cosine, x0 - points[j, 1], width, inverse, corners, counts, crossings)
        for at in range(found):
            i = near[at]
            if states[i] == UNDECIDED and states[j] == UNDECIDED:
                continue
            left, right = max(boxes[i, 1], x0), min(boxes[i, 3], x1)
            width_i = boxes[i, 3] - boxes[i, 1]
            one = pool[place[i] : place[i] + 4 * slots[i] * width_i].reshape((slots[i], 4, width_i))
            shared4 = _shared4(
                one,
                crossings[:used],
                (left - boxes[i, 1], left - x0),
                right - left,
                float(points[i, 0] - points[j, 0]),
                columns,
            )
            if shared4 > 2.0 * max_overlap * min(twice[i], twice[j]):
                if states[i] == KEPT:
                    states[j] = SUPPRESSED
                    break
                states[j] = UNDECIDED
        if states[j] == SUPPRESSED:
            continue
        for cy in range((y0 - gy) // CELL_PX, (y1 - gy) // CELL_PX + 1):
            for cx in range((x0 - gx) // CELL_PX, (x1 - gx) // CELL_PX + 1):
                if entries == len(nexts):
                    nexts = np.concatenate((nexts, np.empty_like(nexts)))
                    owners = np.concatenate((owners, np.empty_like(owners)))
                nexts[entries], owners[entries] = heads[cy, cx], j
                heads[cy, cx] = entries
                entries += 1
        place[j], slots[j] = poured, used
        while poured + 4 * used * width > len(pool):
            pool = np.concatenate((pool, np.empty_like(pool)))
        for slot in range(used):
            for side in range(4):
                pool[poured : poured + width] = crossings[slot, side, :width]
                poured += width
    return states

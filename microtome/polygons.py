"""Outlines as polygons and as pixels: valid, measured, painted.

All coordinates are level-0 px, (y, x), corner-based.
"""

import numpy as np
import shapely
from numba import njit

from microtome.arrays import Doubles, Floats, Ints, Labels
from microtome.grid import Window
from microtome.nuclei import VERTEX_STEPS_PER_PX, Nuclei

BLOCK_PX = 1024
"""Side of the blocks in which visible pixels are counted: their labels stay in the cache."""


def to_nuclei(prob: Floats, vertices_px: Doubles, slide: Window) -> Nuclei:
    """Nuclei of rounded, valid outlines that end at the slide's edges.

    Parameters
    ----------
    prob
        (n,) float32.
    vertices_px
        (n, k, 2) float64, (y, x).
    slide
        The whole slide.

    Returns
    -------
    Nuclei
        Rows without area are left out. An outline that crosses itself (rounding can do that) is
        replaced by its largest valid piece.
    """
    rounded = _round(vertices_px)
    np.clip(rounded, [slide.y0, slide.x0], [slide.y1, slide.x1], out=rounded)
    count, corners = rounded.shape[:2]
    polygons = shapely.polygons(rounded) if count else np.zeros(0, object)
    broken = np.flatnonzero(~shapely.is_valid(polygons))
    pieces = list(rounded) if len(broken) else [rounded.reshape(-1, 2)]
    lengths = np.full(count, corners, np.int64)
    for row in broken:
        pieces[row] = _repaired(polygons[row])
        lengths[row] = len(pieces[row])
    outline = np.concatenate(pieces) if pieces else np.zeros((0, 2))
    present = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[present])]).astype(np.int64)
    area, centre = _measure(outline, offsets)
    return Nuclei(prob=prob[present], centre_px=centre, area_px=area, outline_px=outline, offsets=offsets)


def _round(vertices_px: Doubles) -> Doubles:
    rounded: Doubles = np.rint(vertices_px * VERTEX_STEPS_PER_PX) / VERTEX_STEPS_PER_PX
    return rounded + 0.0


def _repaired(polygon: shapely.Geometry) -> Doubles:
    """Vertices of the largest valid piece on the 1/16 px raster, holes filled; none if no area."""
    areas = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    valid = shapely.set_precision(areas, 1 / VERTEX_STEPS_PER_PX)
    pieces = [piece for piece in shapely.get_parts(valid) if piece.geom_type == "Polygon"]
    if not pieces:
        return np.zeros((0, 2))
    largest = max(pieces, key=lambda piece: (piece.area, piece.bounds))
    ring = shapely.get_coordinates(shapely.get_exterior_ring(largest))[:-1]
    return _round(ring)


def _measure(outline: Doubles, offsets: Ints) -> tuple[Doubles, Doubles]:
    """Area (n,) and centroid (n, 2) of polygons, by the shoelace formula."""
    if len(offsets) == 1:
        return np.zeros(0), np.zeros((0, 2))
    starts = offsets[:-1]
    # Around each outline's first vertex: far from the origin the products would lose digits.
    base = np.repeat(outline[starts], np.diff(offsets), axis=0)
    here = outline - base
    after = np.empty_like(here)
    after[:-1] = here[1:]
    after[offsets[1:] - 1] = here[starts]
    cross = here[:, 0] * after[:, 1] - here[:, 1] * after[:, 0]
    twice = np.add.reduceat(cross, starts)
    moments = np.add.reduceat((here + after) * cross[:, None], starts, axis=0)
    return np.abs(twice) / 2, outline[starts] + moments / (3 * twice[:, None])


def priority(nuclei: Nuclei) -> Ints:
    """Rows by falling probability, ties by the smaller (y, x) of the centre.

    The one order by which overlapping nuclei are painted: the first is on top.
    """
    return np.lexsort((nuclei.centre_px[:, 1], nuclei.centre_px[:, 0], -nuclei.prob)).astype(np.int64)


def bounds(nuclei: Nuclei) -> Doubles:
    """(n, 4) float64: y0, x0, y1, x1 of each outline."""
    if len(nuclei) == 0:
        return np.zeros((0, 4))
    starts = nuclei.offsets[:-1]
    return np.concatenate(
        [
            np.minimum.reduceat(nuclei.outline_px, starts, axis=0),
            np.maximum.reduceat(nuclei.outline_px, starts, axis=0),
        ],
        axis=1,
    )


def paint(nuclei: Nuclei, ids: Labels, window: Window) -> Labels:
    """The nuclei as labels of a window.

    Parameters
    ----------
    nuclei
        n rows in any order, inside of the window or not.
    ids
        (n,) uint32.
    window
        Level-0 px.

    Returns
    -------
    Labels
        (h, w) uint32. A pixel belongs to the outline that holds its centre or touches it
        (the rule of `skimage.draw.polygon`); to the first by `priority`, if several do.
    """
    labels = np.zeros((window.height, window.width), np.uint32)
    _paint(nuclei.outline_px, nuclei.offsets, ids, priority(nuclei)[::-1], window.y0, window.x0, labels)
    return labels


def visible_px(nuclei: Nuclei) -> Ints:
    """(n,) int64: pixels of each nucleus that no other one hides."""
    counts = np.zeros(len(nuclei), np.int64)
    if len(nuclei) == 0:
        return counts
    boxes = bounds(nuclei)
    lowest = priority(nuclei)[::-1]
    buffer = np.zeros((BLOCK_PX, BLOCK_PX), np.uint32)
    ids = np.arange(1, len(nuclei) + 1, dtype=np.uint32)
    first = np.floor(boxes[:, :2].min(axis=0)).astype(np.int64)
    last = np.ceil(boxes[:, 2:].max(axis=0)).astype(np.int64)
    cells = np.floor((boxes - np.tile(first, 2)) / BLOCK_PX).astype(np.int64)[lowest]
    for i in range(-(-(last[0] - first[0]) // BLOCK_PX)):
        in_row = (cells[:, 0] <= i) & (cells[:, 2] >= i)
        for j in range(-(-(last[1] - first[1]) // BLOCK_PX)):
            rows = lowest[in_row & (cells[:, 1] <= j) & (cells[:, 3] >= j)]
            if len(rows) == 0:
                continue
            y0, x0 = first[0] + i * BLOCK_PX, first[1] + j * BLOCK_PX
            buffer[:] = 0
            _paint(nuclei.outline_px, nuclei.offsets, ids, rows, y0, x0, buffer)
            _count(buffer, counts)
    return counts


@njit(nogil=True, cache=True)
def _count(labels, counts):  # type: ignore[no-untyped-def]
    for row in labels:
        for label in row:
            if label:
                counts[label - 1] += 1


@njit(nogil=True, cache=True)
def _fill(row, x0, label, crossings, n):  # type: ignore[no-untyped-def]
    """Paint between each pair of the n crossings (x of pixel centres, corner at `x0`)."""
    for i in range(1, n):
        x = crossings[i]
        j = i - 1
        while j >= 0 and crossings[j] > x:
            crossings[j + 1] = crossings[j]
            j -= 1
        crossings[j + 1] = x
    for i in range(0, n - 1, 2):
        start = max(int(np.ceil(crossings[i] - 0.5)) - x0, 0)
        stop = min(int(np.floor(crossings[i + 1] - 0.5)) - x0 + 1, len(row))
        for x in range(start, stop):
            row[x] = label


@njit(nogil=True, cache=True)
def _paint(outline, offsets, ids, order, y0, x0, labels):  # type: ignore[no-untyped-def]
    """Paint the rows in the given order, the later over the earlier."""
    height = len(labels)
    longest = 0
    for row in order:
        longest = max(longest, offsets[row + 1] - offsets[row])
    below, above = np.empty(longest + 1), np.empty(longest + 1)
    for row in order:
        begin, end = offsets[row], offsets[row + 1]
        low, high = outline[begin, 0], outline[begin, 0]
        for k in range(begin + 1, end):
            low = min(low, outline[k, 0])
            high = max(high, outline[k, 0])
        for y in range(max(int(np.ceil(low - 0.5)) - y0, 0), min(int(np.floor(high - 0.5)) - y0 + 1, height)):
            centre = y + y0 + 0.5
            # A vertex on the row counts with the edges below or with those above it. Both
            # together fill all that touches the row.
            n_below = n_above = 0
            on_row = False
            ya, xa = outline[end - 1, 0], outline[end - 1, 1]
            for k in range(begin, end):
                yb, xb = outline[k, 0], outline[k, 1]
                on_row = on_row or yb == centre
                if (ya <= centre < yb) or (yb <= centre < ya):
                    below[n_below] = xa + (centre - ya) / (yb - ya) * (xb - xa)
                    n_below += 1
                if (ya < centre <= yb) or (yb < centre <= ya):
                    above[n_above] = xa + (centre - ya) / (yb - ya) * (xb - xa)
                    n_above += 1
                ya, xa = yb, xb
            _fill(labels[y], x0, ids[row], below, n_below)
            if on_row:
                _fill(labels[y], x0, ids[row], above, n_above)

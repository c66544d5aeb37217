"""Outlines as pixels, against one point-in-polygon test a pixel."""

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.grid import Scale, Window
from microtome.nuclei import Nuclei
from microtome.polygons import bounds, paint, priority, to_nuclei, visible_px
from microtome.stardist import outlines, suppress
from tests.drawn_candidates import draw

SLIDE = Window(0, 0, 128, 128)


def nuclei_of(seed, count=400):
    return outlines(suppress(draw(seed, count, 128), 0.6), Scale(1, 1), SLIDE)


def squares(*corners, prob):
    """Nuclei that are squares: (y0, x0, side)."""
    vertices = [[(y, x), (y, x + s), (y + s, x + s), (y + s, x)] for y, x, s in corners]
    return to_nuclei(np.array(prob, np.float32), np.array(vertices, float), SLIDE)


def paint_slowly(nuclei, ids, window):
    labels = np.zeros((window.height, window.width), np.uint32)
    ys, xs = np.mgrid[window.y0 : window.y1, window.x0 : window.x1] + 0.5
    rings = np.split(nuclei.outline_px, nuclei.offsets[1:-1])
    for row in sorted(range(len(nuclei)), key=lambda r: (nuclei.prob[r], *(-nuclei.centre_px[r]))):
        labels[shapely.intersects_xy(shapely.Polygon(rings[row]), ys, xs)] = ids[row]
    return labels


@given(st.integers(0, 10**6), st.integers(0, 90), st.integers(0, 90), st.integers(1, 128))
@settings(max_examples=25, deadline=None)
def test_a_pixel_is_painted_where_the_most_probable_outline_holds_its_centre(seed, y0, x0, side):
    nuclei = nuclei_of(seed)
    ids = np.random.default_rng(seed).permutation(len(nuclei)).astype(np.uint32) + 7
    window = Window(y0, x0, y0 + side, x0 + side)
    np.testing.assert_array_equal(paint(nuclei, ids, window), paint_slowly(nuclei, ids, window))


def test_edges_and_corners_on_pixel_centres_are_painted():
    square = squares((10.5, 20.5, 4), prob=[1])
    labels = paint(square, np.array([3], np.uint32), SLIDE)
    assert (labels[10:15, 20:25] == 3).all()
    assert np.count_nonzero(labels) == 25


def test_equal_probabilities_are_ordered_by_centre_whatever_the_order_of_rows():
    nuclei = squares((10, 10, 8), (10, 14, 8), (6, 12, 8), prob=[0.8, 0.8, 0.8])
    assert priority(nuclei).tolist() == [2, 0, 1]
    ids = np.array([1, 2, 3], np.uint32)
    rows = np.array([1, 2, 0])
    np.testing.assert_array_equal(paint(nuclei, ids, SLIDE), paint(nuclei.take(rows), ids[rows], SLIDE))


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_visible_pixels_are_those_of_the_painted_slide(seed):
    nuclei = nuclei_of(seed)
    labels = paint(nuclei, np.arange(1, len(nuclei) + 1, dtype=np.uint32), SLIDE)
    counts = np.bincount(labels.ravel(), minlength=len(nuclei) + 1)[1:]
    np.testing.assert_array_equal(visible_px(nuclei), counts)


def test_visible_pixels_are_counted_across_blocks_and_none_are_left_of_a_covered_nucleus():
    slide = Window(0, 0, 3000, 3000)
    corners = [(1000, 1000, 60), (1010, 1010, 20), (2900, 100, 10), (0, 2040, 20)]
    vertices = [[(y, x), (y, x + s), (y + s, x + s), (y + s, x)] for y, x, s in corners]
    nuclei = to_nuclei(np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array(vertices, float), slide)
    assert visible_px(nuclei).tolist() == [3600, 0, 100, 400]
    assert visible_px(Nuclei.empty()).tolist() == []


def test_an_outline_that_crosses_itself_becomes_its_largest_piece():
    bow = np.array([[(0, 0), (10, 10), (10, 0), (0, 4)]], float)
    nuclei = to_nuclei(np.ones(1, np.float32), bow, SLIDE)
    assert shapely.Polygon(nuclei.outline_px).is_valid
    whole = shapely.make_valid(shapely.Polygon(bow[0]))
    assert abs(nuclei.area_px[0] - max(part.area for part in whole.geoms)) < 1


def test_bounds_hold_the_outlines():
    nuclei = squares((1, 2, 3), (10.25, 20.5, 4), prob=[1, 1])
    assert bounds(nuclei).tolist() == [[1, 2, 4, 5], [10.25, 20.5, 14.25, 24.5]]

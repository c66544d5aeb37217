"""Candidates, their suppression and their outlines, against slow and obvious versions."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microtome import overlap
from microtome.grid import Scale, Window
from microtome.stardist import (
    MAX_RADIUS_PX,
    Candidates,
    State,
    by_priority,
    decode,
    outlines,
    settle,
    suppress,
)
from tests.drawn_candidates import candidates_of, draw, in_window, points_of


def network_output(height_px, width_px, seed=0):
    rng = np.random.default_rng(seed)
    shape = (-(-height_px // 16) * 8, -(-width_px // 16) * 8)
    prob = rng.uniform(0, 1, shape).astype(np.float32)
    return prob, rng.normal(8, 4, (32, *shape)).astype(np.float32)


def decode_all(prob, dist, slide, core=None, threshold=0.5):
    return decode((0, prob, dist), origin_px=(0, 0), core=core or slide, slide=slide, threshold=threshold)


def test_candidates_are_points_above_the_threshold_but_for_two_cells_at_the_edge():
    prob, dist = network_output(64, 96)
    prob[10, 10] = 0.5
    candidates = decode_all(prob, dist, Window(0, 0, 64, 96))
    expected = prob > 0.5
    expected[:2] = expected[-2:] = expected[:, :2] = expected[:, -2:] = False
    ys, xs = np.nonzero(expected)
    np.testing.assert_array_equal(candidates.points_px, 2 * np.stack([ys, xs], axis=1))
    np.testing.assert_array_equal(candidates.prob, prob[ys, xs])
    np.testing.assert_allclose(candidates.radii_px, np.clip(dist[:, ys, xs].T, 1 / 64, 96), atol=1 / 128)


def test_to_decode_takes_hardly_more_memory_than_its_candidates():
    """It is done while all that the network returned is there: the most that a worker ever needs."""
    prob, dist = np.ones((400, 400), np.float32), np.full((32, 400, 400), 8, np.float32)
    tracemalloc.start()
    candidates = decode_all(prob, dist, Window(0, 0, 800, 800))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(candidates) == 396**2
    assert peak < 120 * len(candidates), "76 are theirs"


@pytest.mark.parametrize(("side_px", "last_px"), [(64, 58), (61, 58), (59, 58), (50, 48), (49, 48)])
def test_the_edge_is_that_of_the_padded_image_and_no_candidate_lies_off_the_slide(side_px, last_px):
    prob, dist = network_output(side_px, side_px)
    prob[:] = 1
    candidates = decode_all(prob, dist, Window(0, 0, side_px, side_px))
    assert candidates.points_px.min(axis=0).tolist() == [4, 4]
    assert candidates.points_px.max(axis=0).tolist() == [last_px, last_px]


@pytest.mark.parametrize(("align_px", "last_px"), [(8, 50), (16, 54), (32, 54)])
def test_the_padded_image_is_a_multiple_of_the_models_own_step(align_px, last_px):
    prob, dist = np.ones((32, 32), np.float32), np.ones((32, 32, 32), np.float32)
    slide = Window(0, 0, 55, 55)
    candidates = decode(
        (0, prob, dist), origin_px=(0, 0), core=slide, slide=slide, threshold=0.5, align_px=align_px
    )
    assert candidates.points_px.max(axis=0).tolist() == [last_px, last_px]


def test_what_was_kept_is_known_when_its_room_has_grown():
    """Circles of 90 px apart from each other; then each again, less probable, moved by 3 px."""
    places = np.stack(np.divmod(np.arange(20 * 20), 20), axis=1) * 200
    points = np.concatenate([places, places + 3]).astype(np.int32)
    prob = np.repeat(np.float32([0.9, 0.8]), len(places))
    radii = np.full((len(points), 32), 90 * 64, np.uint16)
    candidates = Candidates(prob=prob, points_px=points, radii_steps=radii)
    everywhere = Window(-1000, -1000, 6000, 6000)
    states = settle(candidates, 0.4, complete=everywhere, slide=everywhere)
    assert (states[: len(places)] == State.KEPT).all()
    assert (states[len(places) :] == State.SUPPRESSED).all()


@given(st.lists(st.integers(0, 64), max_size=4), st.sampled_from([0, 96]))
@settings(max_examples=30, deadline=None)
def test_bands_of_a_tile_have_the_candidates_of_the_whole_in_the_same_order(cuts, y0_px):
    slide, core = Window(0, 0, 300, 128), Window(y0_px + 10, 4, y0_px + 121, 120)
    prob, dist = network_output(128, 128)
    rows = [0, *sorted(cuts), 64]
    bands = [(a, prob[a:b], dist[:, a:b]) for a, b in pairwise(rows)]
    options = {"origin_px": (y0_px, 0), "core": core, "slide": slide, "threshold": 0.5}
    together = Candidates.concatenate([decode(band, **options) for band in bands])
    at_once = decode((0, prob, dist), **options)
    assert len(at_once) > 1000
    for name in ("prob", "points_px", "radii_steps"):
        np.testing.assert_array_equal(getattr(together, name), getattr(at_once, name))


@given(st.integers(1, 127), st.integers(1, 127), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_every_candidate_belongs_to_one_core_whatever_the_tile(cut_y, cut_x, shift_px):
    slide = Window(0, 0, 128, 128)
    prob, dist = network_output(128, 128)
    found = []
    for core in (
        Window(0, 0, cut_y, cut_x),
        Window(0, cut_x, cut_y, 128),
        Window(cut_y, 0, 128, cut_x),
        Window(cut_y, cut_x, 128, 128),
    ):
        y, x = max(core.y0 - shift_px, 0) // 2, max(core.x0 - shift_px, 0) // 2
        tile = 0, np.ascontiguousarray(prob[y:, x:]), np.ascontiguousarray(dist[:, y:, x:])
        found.append(decode(tile, origin_px=(2 * y, 2 * x), core=core, slide=slide, threshold=0.5))
    together = Candidates.concatenate(found)
    whole = decode_all(prob, dist, slide)
    assert len(together) == len(whole)
    assert points_of(together) == points_of(whole)


def test_radii_beyond_the_longest_are_clipped():
    prob, dist = np.ones((8, 8), np.float32), np.full((32, 8, 8), 5, np.float32)
    dist[7, 4, 4], dist[7, 5, 4] = 1e6, -3
    candidates = decode_all(prob, dist, Window(0, 0, 16, 16))
    assert candidates.radii_px.max() == MAX_RADIUS_PX
    assert candidates.radii_px.min() == 1 / 64


def shapes_on_whole_px(candidates):
    sine, cosine = overlap.rays(32)
    corners = np.floor(candidates.radii_px[:, :, None].astype(float) * np.stack([sine, cosine], axis=1))
    return shapely.make_valid(shapely.polygons(corners + candidates.points_px[:, None, :]))


def suppress_slowly(candidates, max_overlap):
    """Points that greedy suppression keeps: every pair by GEOS, in order."""
    order = np.lexsort((candidates.points_px[:, 1], candidates.points_px[:, 0], -candidates.prob))
    candidates = candidates.take(order)
    shapes = shapes_on_whole_px(candidates)
    areas = shapely.area(shapes)
    kept: list[int] = []
    for row in range(len(candidates)):
        shared = shapely.area(shapely.intersection(shapes[kept], shapes[row]))
        beyond = shared - max_overlap * np.minimum(areas[kept], areas[row])
        assume(not np.any(np.abs(beyond) < 1e-9))  # a tie, which the last bit decides
        if not np.any(beyond > 0):
            kept.append(row)
    return points_of(candidates.take(np.array(kept)))


@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.4, 0.7]), st.sampled_from([None, 8]))
@settings(max_examples=25, deadline=None)
def test_suppression_keeps_what_the_slow_version_keeps(seed, max_overlap, prob_steps):
    candidates = draw(seed, 250, 90, prob_steps=prob_steps)
    assert points_of(suppress(candidates, max_overlap)) == suppress_slowly(candidates, max_overlap)


def test_the_overlap_that_decides_is_exact():
    whole = np.full((2, 32), 10, np.float32)
    for dx in range(1, 24):
        pair = candidates_of(
            prob=np.array([0.9, 0.8], np.float32),
            points_px=np.array([[50, 50], [53, 50 + dx]], np.int32),
            radii_px=whole,
        )
        one, other = shapes_on_whole_px(pair)
        part = one.intersection(other).area / min(one.area, other.area)
        assert len(suppress(pair, part + 1e-9)) == 2
        assert len(suppress(pair, max(part - 1e-9, 0))) == (1 if part > 0 else 2)


def test_the_order_of_rows_decides_nothing_even_among_equal_probabilities():
    candidates = draw(3, 800, 200, prob_steps=4)
    shuffled = candidates.take(np.random.default_rng(0).permutation(len(candidates)))
    one, other = suppress(candidates, 0.4), suppress(shuffled, 0.4)
    np.testing.assert_array_equal(one.points_px, other.points_px)
    assert (np.diff(one.prob) <= 0).all()


def test_priority_is_the_same_where_the_fast_key_has_no_room():
    candidates = draw(4, 500, 150, prob_steps=8)
    far = candidates_of(
        prob=np.append(candidates.prob, np.float32(0.001)),
        points_px=np.vstack([candidates.points_px, [[2**30, 2**30]]]).astype(np.int32),
        radii_px=np.vstack([candidates.radii_px, candidates.radii_px[:1]]),
    )
    np.testing.assert_array_equal(by_priority(far)[:-1], by_priority(candidates))


@given(st.integers(0, 10**6), st.integers(30, 90), st.integers(30, 90))
@settings(max_examples=25, deadline=None)
def test_what_is_settled_without_the_neighbours_stays_so_with_them(seed, cut_y, cut_x):
    slide = Window(0, 0, 120, 120)
    candidates = draw(seed, 500, 120)
    final = points_of(suppress(candidates, 0.4))
    window = Window(0, 0, cut_y, cut_x)
    seen = in_window(candidates, window)
    states = settle(seen, 0.4, complete=window, slide=slide, max_radius_px=24)
    assert points_of(seen.take(states == State.KEPT)) <= final
    assert not points_of(seen.take(states == State.SUPPRESSED)) & final
    assert (states == State.UNDECIDED).any() or len(seen) == 0 or min(cut_y, cut_x) > 80


def test_nothing_is_undecided_where_the_whole_slide_is_known():
    slide = Window(0, 0, 200, 200)
    states = settle(draw(1, 900, 200), 0.4, complete=slide, slide=slide)
    assert (states != State.UNDECIDED).all()


def test_an_empty_image_has_no_nuclei():
    assert len(suppress(Candidates.empty(), 0.4)) == 0
    assert len(outlines(Candidates.empty(), Scale(1, 1), Window(0, 0, 10, 10))) == 0


@pytest.mark.parametrize("scale", [Scale(1, 1), Scale(2, 1), Scale(1, 2)])
def test_a_round_nucleus_is_centred_on_the_middle_of_its_pixel(scale):
    round_one = candidates_of(
        prob=np.ones(1, np.float32),
        points_px=np.array([[40, 60]], np.int32),
        radii_px=np.full((1, 32), 8, np.float32),
    )
    nucleus = outlines(round_one, scale, Window(0, 0, 400, 400))
    np.testing.assert_allclose(nucleus.centre_px, [[40.5 / scale.factor, 60.5 / scale.factor]], atol=0.02)
    np.testing.assert_allclose(nucleus.area_px, 16 * 64 * np.sin(np.pi / 16) / scale.factor**2, rtol=0.02)


def test_the_first_ray_points_along_x_and_the_next_turn_towards_y():
    radii = np.full((1, 32), 2, np.float32)
    radii[0, 0], radii[0, 8] = 10, 20
    long_rays = candidates_of(
        prob=np.ones(1, np.float32), points_px=np.array([[50, 50]], np.int32), radii_px=radii
    )
    outline = outlines(long_rays, Scale(1, 1), Window(0, 0, 100, 100)).outline_px
    assert [50.5, 60.5] in outline.tolist()
    assert [70.5, 50.5] in outline.tolist()


@given(st.integers(0, 10**6), st.sampled_from([Scale(1, 1), Scale(2, 1), Scale(1, 2)]))
@settings(max_examples=30, deadline=None)
def test_outlines_are_valid_on_the_raster_inside_the_slide_and_measured_right(seed, scale):
    rng = np.random.default_rng(seed)
    count = 60
    # Rays of any length cross each other once they are rounded, near the point above all.
    radii = np.clip(rng.gamma(0.7, 6, (count, 32)), 1 / 64, 40).astype(np.float32)
    points = rng.integers(0, 100, (count, 2)).astype(np.int32)
    wild = candidates_of(prob=rng.random(count).astype(np.float32), points_px=points, radii_px=radii)
    slide = scale.to_level0(Window(0, 0, 100, 100))
    nuclei = outlines(wild, scale, slide)
    assert 0.9 * count <= len(nuclei) <= count
    rings = np.split(nuclei.outline_px, nuclei.offsets[1:-1])
    shapes = np.array([shapely.Polygon(ring) for ring in rings])
    assert shapely.is_valid(shapes).all()
    np.testing.assert_allclose(nuclei.area_px, shapely.area(shapes))
    centroids = shapely.get_coordinates(shapely.centroid(shapes))
    np.testing.assert_allclose(nuclei.centre_px, centroids, atol=1e-6)
    assert (nuclei.outline_px * 16 == np.rint(nuclei.outline_px * 16)).all()
    assert nuclei.outline_px.min() >= 0
    assert (nuclei.outline_px <= [slide.y1, slide.x1]).all()


def test_many_outlines_are_those_of_each_candidate_and_take_hardly_more_memory():
    many = draw(5, 20_000, 4000)
    slide = Window(0, 0, 4000, 4000)
    outlines(many.take(np.arange(1)), Scale(1, 1), slide)  # what is imported and made once
    tracemalloc.start()
    nuclei = outlines(many, Scale(1, 1), slide)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * nuclei.outline_px.nbytes, "9 were they made all at once"
    alone = [outlines(many.take(np.arange(row, row + 1)), Scale(1, 1), slide) for row in range(2040, 2056)]
    first = len(outlines(many.take(np.arange(2040)), Scale(1, 1), slide))
    there = nuclei.take(np.arange(first, first + sum(map(len, alone))))
    for column in ("prob", "centre_px", "area_px", "outline_px"):
        around = np.concatenate([getattr(one, column) for one in alone])
        np.testing.assert_array_equal(getattr(there, column), around)


def test_a_nucleus_without_area_is_left_out():
    flat = candidates_of(
        prob=np.ones(2, np.float32),
        points_px=np.array([[10, 10], [30, 30]], np.int32),
        radii_px=np.array([[1 / 64] * 32, [6] * 32], np.float32),
    )
    nuclei = outlines(flat, Scale(1, 1), Window(0, 0, 40, 40))
    np.testing.assert_allclose(nuclei.centre_px, [[30.5, 30.5]], atol=0.02)

"""Levels of pixels and labels: the slow obvious version checks the fast one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microtome.grid import levels_of
from microtome.pyramid import halve_labels, halve_pixels

SIDES = st.integers(1, 9)
PIXELS = st.tuples(st.sampled_from((1, 3)), SIDES, SIDES).flatmap(lambda s: arrays.arrays(np.uint8, s))
LABELS = st.tuples(SIDES, SIDES).flatmap(
    lambda shape: arrays.arrays(np.uint32, shape, elements=st.sampled_from((0, 0, 1, 2, 2**32 - 1)))
)


def quarters(array: np.ndarray) -> np.ndarray:
    """The four pixels below each, on a new last axis, in raster order; odd edges count twice."""
    edges = [(0, 0)] * (array.ndim - 2) + [(0, side % 2) for side in array.shape[-2:]]
    even = np.pad(array, edges, mode="edge")
    return np.stack([even[..., y::2, x::2] for y in (0, 1) for x in (0, 1)], axis=-1)


def vote(four: np.ndarray) -> int:
    """The rule, in words of Python."""
    ids = [int(label) for label in four if label]
    return max(ids, key=lambda label: (ids.count(label), -ids.index(label))) if len(ids) >= 2 else 0


@given(pixels=PIXELS)
def test_a_pixel_is_the_rounded_mean_of_the_four_below(pixels):
    means = (quarters(pixels).astype(int).sum(-1) + 2) >> 2
    assert np.array_equal(halve_pixels(pixels), means)


@given(pixels=PIXELS)
def test_interleaved_and_planar_pixels_halve_alike_and_keep_their_layout(pixels):
    interleaved = np.ascontiguousarray(np.moveaxis(pixels, 0, -1)).transpose(2, 0, 1)
    halved = halve_pixels(interleaved)
    assert np.array_equal(halved, halve_pixels(pixels))
    assert halved.transpose(1, 2, 0).flags.c_contiguous
    assert halve_pixels(pixels).flags.c_contiguous


@given(labels=LABELS)
def test_a_label_is_the_most_frequent_id_of_the_four_below(labels):
    four = quarters(labels)
    expected = np.apply_along_axis(vote, -1, four)
    assert np.array_equal(halve_labels(labels), expected)


@given(labels=LABELS)
def test_no_id_is_invented(labels):
    halved = halve_labels(labels)
    assert ((quarters(labels) == halved[..., None]).any(-1) | (halved == 0)).all()


def test_a_nucleus_one_pixel_wide_stays_visible():
    labels = np.zeros((8, 8), np.uint32)
    labels[:, 3] = 5
    assert (halve_labels(halve_labels(labels)) == 5).any()


@given(labels=LABELS, cut=st.tuples(SIDES, SIDES))
def test_shards_halved_apart_are_the_whole_halved(labels, cut):
    y, x = (2 * side for side in cut)
    parts = [[labels[:y, :x], labels[:y, x:]], [labels[y:, :x], labels[y:, x:]]]
    halves = [[halve_labels(np.ascontiguousarray(part)) for part in row] for row in parts]
    assert np.array_equal(np.block(halves), halve_labels(labels))


@pytest.mark.parametrize(
    ("height_px", "width_px", "levels"),
    [(1, 1, 1), (512, 512, 1), (513, 40, 2), (40, 1025, 3), (7712, 11584, 6)],
)
def test_the_last_level_fits_a_screen(height_px, width_px, levels):
    assert levels_of(height_px, width_px) == levels

"""Shards together find what one suppression of the whole slide finds, each nucleus once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.grid import Grid, Scale, Window
from microtome.nuclei import Nuclei
from microtome.polygons import paint, visible_px
from microtome.seams import (
    Crossing,
    Part,
    count_seam_conflicts,
    own,
    own_nuclei,
    part_from_bytes,
    part_to_bytes,
    settle_shard,
)
from microtome.stardist import Candidates, outlines, settle, suppress
from tests.drawn_candidates import candidates_of, draw, in_window, points_of

MAX_OVERLAP = 0.4
REACH_PX = 24


def parts_of(candidates, grid, scale):
    """What `infer` leaves: every shard settled alone, through bytes."""
    slide = scale.to_network(grid.window)
    parts = {}
    for shard in grid:
        window = scale.to_network(shard.window)
        seen = in_window(candidates, window)
        states = settle(seen, MAX_OVERLAP, complete=window, slide=slide, max_radius_px=REACH_PX)
        parts[shard.index] = part_from_bytes(part_to_bytes(Part.of(seen, states, window)))
    return parts


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_part_that_was_read_needs_no_kernel_of_its_own(count):
    """Numba compiles one for each kind of array; what setup and the image have compiled is for these."""
    candidates = candidates_of(
        prob=np.full(count, 0.9, np.float32),
        points_px=np.full((count, 2), 40, np.int32),
        radii_px=np.full((count, 32), 8, np.float32),
    )
    read = part_from_bytes(part_to_bytes(Part(candidates=candidates, window=Window(0, 0, 80, 80)))).candidates
    for array in (read.prob, read.points_px, read.radii_px):
        assert array.flags.c_contiguous
        assert array.flags.writeable


def settled_by_shard(parts, grid, scale):
    return {
        shard.index: settle_shard(
            lambda shards: [parts[near.index] for near in shards],
            grid,
            shard,
            scale,
            max_overlap=MAX_OVERLAP,
            max_radius_px=REACH_PX,
        )
        for shard in grid
    }


@given(
    st.integers(0, 10**6),
    st.integers(20, 400),
    st.sampled_from([None, 6]),
    st.sampled_from([Scale(1, 1), Scale(2, 1), Scale(1, 2)]),
)
@settings(max_examples=30, deadline=None)
def test_shards_of_any_size_keep_what_the_whole_slide_keeps(seed, shard_px, prob_steps, scale):
    side_px = int(240 / scale.factor)
    grid = Grid(side_px, side_px, shard_px // 2 * 2)
    candidates = draw(seed, 900, 240, prob_steps=prob_steps)
    whole = suppress(candidates, MAX_OVERLAP)
    settled = settled_by_shard(parts_of(candidates, grid, scale), grid, scale)
    assert set().union(*map(points_of, settled.values())) == points_of(whole)
    for shard in grid:
        missing = in_window(whole, scale.to_network(shard.window))
        assert points_of(missing) <= points_of(settled[shard.index])


@pytest.mark.parametrize("shard_px", [64, 130, 1000])
def test_every_nucleus_is_owned_once_and_has_a_visible_pixel(shard_px):
    scale, grid = Scale(1, 1), Grid(400, 400, shard_px)
    candidates = draw(5, 3000, 400)
    everything = outlines(suppress(candidates, MAX_OVERLAP), scale, grid.window)
    expected = everything.take(np.flatnonzero(visible_px(everything) > 0))
    settled = settled_by_shard(parts_of(candidates, grid, scale), grid, scale)
    owned = [own_nuclei(settled[shard.index], shard.window, scale, grid.window) for shard in grid]
    for shard, nuclei in zip(grid, owned, strict=True):
        y, x = nuclei.centre_px.T
        assert (np.lexsort((x, y)) == np.arange(len(nuclei))).all()
        assert all(shard.window.holds(*centre) for centre in nuclei.centre_px)
    together = Nuclei.concatenate(owned)
    order, expected_order = (np.lexsort(n.centre_px.T) for n in (together, expected))
    np.testing.assert_array_equal(together.centre_px[order], expected.centre_px[expected_order])
    np.testing.assert_array_equal(together.take(order).outline_px, expected.take(expected_order).outline_px)


def test_a_long_chain_of_undecided_candidates_makes_the_block_grow():
    """Each suppresses the next, from one side of the slide to the other: the first one decides all."""
    count, side_px = 60, 400
    points = np.stack([np.full(count, 40), 10 + 6 * np.arange(count)], axis=1).astype(np.int32)
    chain = candidates_of(
        prob=np.linspace(0.99, 0.6, count, dtype=np.float32),
        points_px=points,
        radii_px=np.full((count, 32), 8, np.float32),
    )
    grid, scale = Grid(80, side_px, 40), Scale(1, 1)
    parts, read = parts_of(chain, grid, scale), set()

    def read_parts(shards):
        read.update(shard.col for shard in shards)
        return [parts[shard.index] for shard in shards]

    last = grid.at(1, 8)
    settled = settle_shard(read_parts, grid, last, scale, max_overlap=MAX_OVERLAP, max_radius_px=REACH_PX)
    whole = suppress(chain, MAX_OVERLAP)
    assert len(whole) == count // 2
    assert points_of(in_window(whole, last.window)) <= points_of(settled) <= points_of(whole)
    assert read == set(range(grid.cols))


def test_conflicts_at_seams_are_nuclei_that_neighbours_suppress():
    pair = candidates_of(
        prob=np.array([0.9, 0.8], np.float32),
        points_px=np.array([[50, 96], [50, 102]], np.int32),
        radii_px=np.full((2, 32), 10, np.float32),
    )
    grid, scale = Grid(100, 200, 100), Scale(1, 1)
    parts = parts_of(pair, grid, scale)
    settled = settled_by_shard(parts, grid, scale)
    assert [count_seam_conflicts(parts[i], settled[i], MAX_OVERLAP) for i in (0, 1)] == [0, 1]


def test_a_part_is_the_same_bytes_whatever_the_order_of_its_tiles_and_is_read_back():
    slide = Window(0, 0, 300, 300)
    candidates = draw(2, 1500, 300)
    shuffled = candidates.take(np.random.default_rng(0).permutation(len(candidates)))
    window = Window(0, 0, 200, 200)
    contents = []
    for each in (candidates, shuffled):
        seen = in_window(each, window)
        states = settle(seen, MAX_OVERLAP, complete=window, slide=slide)
        contents.append(part_to_bytes(Part.of(seen, states, window)))
    assert contents[0] == contents[1]
    part = part_from_bytes(contents[0])
    assert part.window == window
    rows = np.lexsort(candidates.points_px.T[::-1])
    kept = candidates.take(
        rows[[tuple(p) in points_of(part.candidates) for p in candidates.points_px[rows].tolist()]]
    )
    np.testing.assert_array_equal(part.candidates.points_px, kept.points_px)
    np.testing.assert_array_equal(part.candidates.prob, kept.prob)
    np.testing.assert_array_equal(part.candidates.radii_px, kept.radii_px)


def test_an_empty_part_and_a_wrong_one():
    empty = Part(candidates=Candidates.empty(), window=Window(0, 0, 5, 5))
    assert len(part_from_bytes(part_to_bytes(empty)).candidates) == 0
    with pytest.raises(ValueError, match="not a part"):
        part_from_bytes(b"PK\x03\x04 something else")


@given(st.integers(0, 10**6), st.sampled_from([60, 100, 128]), st.sampled_from([Scale(1, 1), Scale(1, 2)]))
@settings(max_examples=15, deadline=None)
def test_a_shard_is_painted_from_its_own_nuclei_and_those_that_cross_its_edges(seed, shard_px, scale):
    grid = Grid(300, 260, shard_px)
    nuclei = outlines(suppress(draw(seed, 900, 150), MAX_OVERLAP), scale, grid.window)
    whole = paint(nuclei, np.arange(1, len(nuclei) + 1, dtype=np.uint32), grid.window)
    owned = {shard.index: own(nuclei, shard.window) for shard in grid}
    crossing = {
        shard.index: Crossing.from_bytes(
            Crossing.of(nuclei.take(owned[shard.index]), shard.window).to_bytes()
        )
        for shard in grid
    }
    for shard in grid:
        rows, parts = [owned[shard.index]], [nuclei.take(owned[shard.index])]
        for near in grid.around(shard):
            if near != shard:
                into = crossing[near.index].into(shard.window)
                rows.append(owned[near.index][into.rows])
                parts.append(into.nuclei)
        labels = paint(Nuclei.concatenate(parts), (np.concatenate(rows) + 1).astype(np.uint32), shard.window)
        assert np.array_equal(labels, whole[shard.window.within(grid.window)])
    assert sum(len(part.rows) for part in crossing.values()) < len(nuclei)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_nuclei_come_back_from_their_bytes(count):
    nuclei = outlines(draw(3, count, 200), Scale(1, 1), Window(0, 0, 200, 200))
    read = Nuclei.from_bytes(nuclei.to_bytes())
    assert read.to_bytes() == nuclei.to_bytes()
    for column in Nuclei.__slots__:
        before, after = getattr(nuclei, column), getattr(read, column)
        assert np.array_equal(before, after)
        assert before.dtype == after.dtype


@given(st.integers(0, 10**6), st.integers(7, 300))
@settings(max_examples=20, deadline=None)
def test_a_centre_on_a_shared_edge_has_one_owner(seed, shard_px):
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 200, (50, 2)).astype(float)
    nuclei = Nuclei(
        prob=np.ones(50, np.float32),
        centre_px=centres,
        area_px=np.ones(50),
        outline_px=np.zeros((0, 2)),
        offsets=np.zeros(51, np.int64),
    )
    rows = np.concatenate([own(nuclei, shard.window) for shard in Grid(200, 200, shard_px)])
    assert sorted(rows.tolist()) == list(range(50))

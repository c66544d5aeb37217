"""Geometry: every pixel in one shard, scales that round outwards."""

from hypothesis import given
from hypothesis import strategies as st

from microtome.grid import Grid, Scale, Window

sides = st.integers(1, 3000)


@given(sides, sides, st.integers(64, 1500), st.data())
def test_every_pixel_belongs_to_one_shard(height, width, shard_px, data):
    grid = Grid(height, width, shard_px)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    assert sum(shard.window.holds(y, x) for shard in grid) == 1
    assert sum(shard.window.area_px for shard in grid) == height * width


@given(sides, sides, st.integers(64, 1500))
def test_a_shard_is_found_by_its_index_and_by_its_place(height, width, shard_px):
    grid = Grid(height, width, shard_px)
    assert [shard.index for shard in grid] == list(range(len(grid)))
    assert all(grid.at(shard.row, shard.col) == shard for shard in grid)


@given(sides, sides, st.integers(64, 1500), st.integers(0, 3))
def test_neighbours_touch_the_shard_or_are_within_reach(height, width, shard_px, reach):
    grid = Grid(height, width, shard_px)
    shard = grid[len(grid) // 2]
    near = shard.window.grow((reach - 1) * shard_px + 1) if reach else shard.window
    expected = [other for other in grid if not other.window.intersect(near).is_empty]
    assert list(grid.around(shard, reach)) == expected


windows = st.tuples(*[st.integers(0, 500)] * 4).map(
    lambda edges: Window(edges[0], edges[1], edges[0] + edges[2] + 1, edges[1] + edges[3] + 1)
)


@given(windows, st.sampled_from([Scale(1, 1), Scale(2, 1), Scale(4, 1), Scale(1, 2), Scale(1, 4)]))
def test_a_window_scaled_there_and_back_holds_itself(window, scale):
    there = scale.to_network(window)
    back = scale.to_level0(there)
    assert back.intersect(window) == window
    assert scale.to_network(back) == there


@given(windows, windows)
def test_an_intersection_is_in_both_windows(one, other):
    both = one.intersect(other)
    if not both.is_empty:
        assert one.holds(both.y0, both.x0)
        assert other.holds(both.y1 - 1, both.x1 - 1)
        rows, cols = both.within(one)
        assert (rows.stop - rows.start, cols.stop - cols.start) == (both.height, both.width)

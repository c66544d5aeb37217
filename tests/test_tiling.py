"""Tiles: disjoint, complete, no larger than allowed, and cheap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from microtome.covering import tile_costs
from microtome.errors import OptionError
from microtome.grid import Window
from microtome.tiling import CELL_PX, MOST_CELLS, Tiling

SLIDE = Window(0, 0, 5000, 4100)


def tiling(core_px=1024):
    return Tiling(height_px=SLIDE.height, width_px=SLIDE.width, core_px=core_px, halo_px=96, align_px=16)


occupied_cells = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(occupied_cells, st.sampled_from([128, 256, 1024, 2048]))
@settings(max_examples=60, deadline=None)
def test_every_occupied_cell_lies_in_exactly_one_core_and_no_core_is_too_long(occupied, core_px):
    window = Window(1024, 512, 1024 + occupied.shape[0] * CELL_PX, 512 + occupied.shape[1] * CELL_PX)
    held = np.zeros(occupied.shape, int)
    for core in tiling(core_px).cores(window, occupied):
        assert max(core.height, core.width) <= core_px
        rows, cols = core.within(window)
        held[rows.start // CELL_PX : rows.stop // CELL_PX, cols.start // CELL_PX : cols.stop // CELL_PX] += 1
    assert held.max(initial=0) <= 1
    assert (held[occupied] == 1).all()


def least_cost(occupied, costs):
    """Of the best cover by straight cuts: the slow, obvious search."""
    if not occupied.any():
        return 0
    rows, cols = np.nonzero(occupied)
    piece = occupied[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    height, width = piece.shape
    cuts = [(piece[:at], piece[at:]) for at in range(1, height)]
    cuts += [(piece[:, :at], piece[:, at:]) for at in range(1, width)]
    return min([costs[height, width], *(sum(least_cost(part, costs) for part in cut) for cut in cuts)])


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 4))), st.sampled_from([128, 2048]))
@settings(max_examples=60, deadline=None)
def test_the_cover_is_the_cheapest_by_straight_cuts(occupied, core_px):
    window = Window(0, 0, occupied.shape[0] * CELL_PX, occupied.shape[1] * CELL_PX)
    costs = tile_costs(occupied.shape, core_px // CELL_PX, 2 * 96)
    cores = tiling(core_px).cores(window, occupied)
    assert sum(costs[core.height // CELL_PX, core.width // CELL_PX] for core in cores) == least_cost(
        occupied, costs
    )


@given(st.integers(0, 4999), st.integers(0, 4099), st.integers(1, 900), st.integers(1, 900))
def test_an_input_has_the_whole_halo_or_ends_with_the_slide(y, x, height, width):
    core = Window(y, x, min(y + height, 5000), min(x + width, 4100))
    around = tiling().input_of(core)
    wanted = core.grow(96).intersect(SLIDE)
    assert around.intersect(wanted) == wanted
    assert all(edge % 16 == 0 for edge in (around.y0, around.x0, around.y1, around.x1))
    assert around.y1 < SLIDE.y1 + 16
    assert around.x1 < SLIDE.x1 + 16


def test_a_large_window_is_covered_in_blocks():
    rows = MOST_CELLS + 8
    window = Window(0, 0, rows * CELL_PX, 3 * CELL_PX)
    cores = tiling().cores(window, np.ones((rows, 3), bool))
    assert sum(core.area_px for core in cores) == window.area_px


def test_a_core_that_is_no_multiple_of_a_cell_is_refused():
    with pytest.raises(OptionError, match="core_px is 1000, but must be a multiple of 64"):
        tiling(1000)

"""Tiles: disjoint, complete, no larger than allowed, and cheap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from microtome.errors import OptionError
from microtome.grid import Window
from microtome.tiling import CELL_PX, Tiling, cells_of

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


@given(occupied_cells)
@settings(max_examples=30, deadline=None)
def test_the_cover_costs_no_more_than_one_tile_around_everything(occupied):
    window = Window(0, 0, occupied.shape[0] * CELL_PX, occupied.shape[1] * CELL_PX)
    cores = tiling(2048).cores(window, occupied)
    if occupied.any():
        rows, cols = np.nonzero(occupied)
        around = Window(
            *(int(cell) * CELL_PX for cell in (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1))
        )
        whole = tiling(2048).input_of(around).area_px
        assert sum(tiling(2048).input_of(core).area_px for core in cores) <= whole * 1.05 + 20_000
    else:
        assert cores == ()


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
    window = Window(0, 0, 40 * CELL_PX, 3 * CELL_PX)
    cores = tiling().cores(window, np.ones(cells_of(window), bool))
    assert sum(core.area_px for core in cores) == window.area_px


def test_a_core_that_is_no_multiple_of_a_cell_is_refused():
    with pytest.raises(OptionError, match="core_px is 1000, but must be a multiple of 128"):
        tiling(1000)

"""Where shards and tiles are cut does not show in the nuclei."""

from dataclasses import replace

import numpy as np
import pytest

from microtome.options import Options
from microtome.plan import make_plan
from tests.pipeline.conftest import write_png
from tests.pipeline.runs import outlines, run_plan


@pytest.fixture(scope="module")
def whole(field, cluster, tmp_path_factory):
    """Outlines from one shard and one tile that hold the whole field."""
    plan = make_plan(str(field), Options(mpp=0.25, precision="f32", shard_px=2048))
    plan = replace(plan, core_px=2048)
    return outlines(run_plan(plan, tmp_path_factory.mktemp("whole") / "field.ome.zarr", cluster))


@pytest.mark.parametrize(("shard_px", "core_px"), [(512, 512), (512, 256), (1024, 384), (1536, 1024)])
def test_shards_and_tiles_of_any_size_give_the_nuclei_of_the_whole_image(
    shard_px, core_px, field, cluster, whole, tmp_path
):
    plan = make_plan(str(field), Options(mpp=0.25, precision="f32", shard_px=shard_px))
    tiled = outlines(run_plan(replace(plan, core_px=core_px), tmp_path / "field.ome.zarr", cluster))
    assert len(whole) > 500
    assert [polygon.wkb for polygon in tiled] == [polygon.wkb for polygon in whole]


def test_a_slide_that_is_shifted_under_the_shards_has_the_same_nuclei(tissue, cluster, whole, tmp_path):
    """Glass of 48 px, a multiple of the network's lattice, moves every nucleus over the seams."""
    shift_px = 48
    moved = np.full((tissue.shape[0] + shift_px, tissue.shape[1] + shift_px, 3), 255, np.uint8)
    moved[shift_px:, shift_px:] = tissue
    path = write_png(tmp_path / "moved.png", moved)
    small, large = (
        make_plan(str(path), Options(mpp=0.25, precision="f32", shard_px=shard_px, no_tissue=True))
        for shard_px in (512, 2048)
    )
    cut = outlines(run_plan(small, tmp_path / "cut.ome.zarr", cluster))
    uncut = outlines(run_plan(large, tmp_path / "uncut.ome.zarr", cluster))
    assert [polygon.wkb for polygon in cut] == [polygon.wkb for polygon in uncut]
    assert abs(len(cut) - len(whole)) < 0.05 * len(whole)


def test_int8_has_no_seams_either(field, cluster, tmp_path):
    first, second = (
        make_plan(str(field), Options(mpp=0.25, precision="int8", shard_px=shard_px))
        for shard_px in (512, 2048)
    )
    cut = outlines(run_plan(first, tmp_path / "cut.ome.zarr", cluster))
    uncut = outlines(run_plan(replace(second, core_px=1024), tmp_path / "uncut.ome.zarr", cluster))
    assert [polygon.wkb for polygon in cut] == [polygon.wkb for polygon in uncut]

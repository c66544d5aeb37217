"""No tissue, no nuclei: glass, filling and empty slides give valid, empty results."""

import numpy as np
import pytest

from microtome.grid import Window
from microtome.ngff import label_arrays
from microtome.options import Options
from microtome.pipeline import finish, prepare
from microtome.testing import verify_result
from tests.pipeline.conftest import write_png


def quietly(progress):
    """Shows nothing."""


def dusty_glass():
    """Glass as a scanner sees it: bright, a little noise, a gradient, a few motes of dust."""
    rng = np.random.default_rng(3)
    glass = np.full((900, 1100, 3), 240.0)
    glass += rng.normal(0, 1.5, glass.shape) + np.linspace(-3, 3, 1100)[None, :, None]
    for y, x in rng.integers(20, 880, (12, 2)):
        glass[y - 2 : y + 2, x - 2 : x + 2] -= 40
    return np.clip(glass, 0, 255).astype(np.uint8)


EMPTY = {
    "glass with dust": dusty_glass,
    "white filling": lambda: np.full((700, 800, 3), 255, np.uint8),
    "black filling": lambda: np.zeros((700, 800, 3), np.uint8),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_slide_without_tissue_gives_a_valid_empty_result(kind, cluster, tmp_path):
    path = write_png(tmp_path / "empty.png", EMPTY[kind]())
    prepared = prepare(str(path), str(tmp_path), Options(mpp=0.25, precision="f32"))
    summary = finish(prepared, cluster, quietly)
    assert summary.nuclei == 0
    assert verify_result(prepared.run.store.uri).faults == ()


@pytest.mark.parametrize("kind", EMPTY)
def test_the_network_itself_finds_nothing_in_it(kind, cluster, tmp_path):
    path = write_png(tmp_path / "empty.png", EMPTY[kind]())
    prepared = prepare(str(path), str(tmp_path), Options(mpp=0.25, precision="f32", no_tissue=True))
    assert finish(prepared, cluster, quietly).nuclei == 0


def test_filling_around_tissue_holds_no_nuclei(tissue, cluster, tmp_path):
    """White to the left and black below, as scanners fill what they did not scan."""
    filled = np.full((1500, 2000, 3), 255, np.uint8)
    filled[1210:] = 0
    filled[:1210, 570:] = tissue
    path = write_png(tmp_path / "filled.png", filled)
    prepared = prepare(
        str(path), str(tmp_path), Options(mpp=0.25, precision="f32", no_tissue=True, shard_px=512)
    )
    summary = finish(prepared, cluster, quietly)
    store, level0 = prepared.run.store, label_arrays(prepared.run.plan)[0]
    assert summary.nuclei > 500
    assert not store.read_array(level0, Window(0, 0, 1210, 560)).any()
    assert not store.read_array(level0, Window(1220, 0, 1500, 2000)).any()

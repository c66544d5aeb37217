"""Agreement with the official StarDist package on the same weights and pixels.

`parity/make_official.py` made `parity/official.npz` with that package; it is not needed here.
"""

from pathlib import Path

import numpy as np
import pytest

from microtome.fields import label_image
from microtome.grid import Window
from microtome.model import Precision, default_model, read_card
from microtome.network import load_model
from microtome.slides import open_slide
from microtome.stardist import Candidates, suppress
from tests.drawn_candidates import points_of


@pytest.fixture(scope="module")
def official():
    return np.load(Path(__file__).parent / "parity" / "official.npz")


def f1_score(labels, expected, iou):
    """Share of matched instances, of both images together; a match has more than this IoU (>= .5)."""
    columns = int(expected.max()) + 1
    pairs = np.bincount(
        (labels.astype(np.int64) * columns + expected).ravel(), minlength=(int(labels.max()) + 1) * columns
    ).reshape(-1, columns)
    union = pairs.sum(axis=1, keepdims=True) + pairs.sum(axis=0, keepdims=True) - pairs
    matched = np.count_nonzero(pairs[1:, 1:] > iou * union[1:, 1:])
    instances = np.count_nonzero(pairs.sum(axis=1)[1:]) + np.count_nonzero(pairs.sum(axis=0)[1:])
    return 2 * matched / instances


def test_suppression_keeps_exactly_what_the_official_one_keeps(official):
    candidates = Candidates(
        prob=official["candidates/prob"],
        points_px=official["candidates/points"].astype(np.int32),
        radii_steps=official["candidates/radii"].astype(np.uint16),
    )
    kept = candidates.take(official["candidates/kept"])
    assert 30 < len(kept) < len(candidates) / 10
    assert points_of(suppress(candidates, 0.4)) == points_of(kept)


@pytest.mark.parametrize("name", ["tall-glands", "stroma"])
def test_the_nuclei_of_a_field_are_those_of_the_official_package(official, tcga_slide, name):
    window = Window(*official[f"{name}/window"].tolist())
    with open_slide(str(tcga_slide)) as slide:
        pixels = np.ascontiguousarray(slide.read(0, window).transpose(1, 2, 0))
    folder = default_model()
    card = read_card(folder)
    network = load_model(folder, precision=Precision.F32, threads=2, limits=(0.0, 255.0))
    labels = label_image(network, card, pixels)
    expected = official[f"{name}/labels"]
    assert len(official[f"{name}/points"]) > 200
    assert f1_score(labels, expected, 0.5) >= 0.995
    assert f1_score(labels, expected, 0.9) >= 0.98

"""The drawn slide: honest, the same every time, and made of nuclei that lie where its truth says."""

import hashlib
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from drawn_slide import Truth, draw_slide, score, truth_path
from drawn_slide.layout import BLOCK_PX, make_layout
from drawn_slide.paint import make_textures, paint

from microtome.slides import open_slide

SIZE_PX = 1500
"""Not a multiple of a block or a tile, so that edges are tried too."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "drawn.svs"
    draw_slide(path, SIZE_PX, seed=3, workers=1)
    return path


def test_it_says_that_it_is_drawn_and_how_fine(drawn):
    with tifffile.TiffFile(drawn) as tiff:
        description = tiff.pages[0].description
        assert tiff.is_svs
    assert "drawn by a program" in description
    assert "MPP = 0.25" in description


def test_microtome_and_openslide_read_the_same_levels_and_pixels(drawn):
    with open_slide(str(drawn)) as ours:
        assert (ours.mpp.y, ours.mpp.x) == (0.25, 0.25)
        sizes = [(level.width_px, level.height_px) for level in ours.levels]
        pixels = np.moveaxis(ours.read(0, ours_window(100, 200, 300)), 0, 2)
    with openslide.OpenSlide(drawn) as theirs:
        assert list(theirs.level_dimensions) == sizes == [(1500, 1500), (375, 375)]
        region = np.asarray(theirs.read_region((200, 100), 0, (300, 300)).convert("RGB"))
    assert np.abs(region.astype(int) - pixels).max() <= 2


def test_each_level_shows_the_one_below_it_four_times_smaller(drawn):
    with tifffile.TiffFile(drawn) as tiff:
        fine, coarse = (level.asarray() for level in tiff.series[0].levels)
    whole = fine.reshape(375, 4, 375, 4, 3).mean(axis=(1, 3))
    off = np.abs(whole - coarse).mean()
    assert off < 5  # JPEG
    assert all(off < np.abs(np.roll(whole, 1, axis) - coarse).mean() / 2 for axis in (0, 1))


def test_same_size_and_seed_give_the_same_bytes_for_any_number_of_workers(tmp_path):
    digests = set()
    for workers in (1, 2):
        path = tmp_path / f"{workers}.svs"
        draw_slide(path, 3 * BLOCK_PX, seed=5, workers=workers)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_another_seed_gives_another_slide(drawn, tmp_path):
    truth = draw_slide(tmp_path / "other.svs", SIZE_PX, seed=4, workers=1)
    assert len(truth) != len(Truth.load(truth_path(drawn)))


def test_blocks_meet_without_a_seam():
    layout, textures = make_layout(2 * BLOCK_PX, seed=1), make_textures(seed=1)
    pair = np.concatenate([paint(layout, textures, 0, col) for col in (0, 1)], axis=1).astype(int)
    jumps = np.abs(np.diff(pair, axis=1)).mean(axis=(0, 2))
    seam = jumps[BLOCK_PX - 1]
    assert seam < 1.25 * np.median(jumps[BLOCK_PX - 60 : BLOCK_PX + 60])


def test_drawn_nuclei_are_dark_blue_where_the_truth_has_them(drawn):
    truth = Truth.load(truth_path(drawn))
    with tifffile.TiffFile(drawn) as tiff:
        image = tiff.pages[0].asarray().astype(float)
    centre = truth.measure()[0].astype(int)
    inside = image[centre[:, 0], centre[:, 1]]
    red, blue = inside[:, 0], inside[:, 2]
    assert np.mean(blue > red) > 0.95
    assert np.median(red) < image[..., 0].mean() - 50


def test_some_sixty_per_cent_are_tissue_and_nuclei_are_15_to_40_px_wide():
    layout = make_layout(4096, seed=7)
    inside = layout.tissue[4:-4, 4:-4]
    assert 0.55 < (inside > 0).mean() < 0.65
    width = 2 * np.sqrt(layout.nuclei.measure()[1] / np.pi)
    assert np.quantile(width, 0.01) > 13
    assert np.quantile(width, 0.99) < 40


def test_drawn_nuclei_do_not_overlap():
    from shapely import STRtree, polygons

    outlines = polygons(make_layout(3000, seed=2).nuclei.outlines_px())
    assert outlines.shape[0] > 500
    assert all(outline.is_valid for outline in outlines)
    first, second = STRtree(outlines).query(outlines, predicate="intersects")
    shares = [
        outlines[a].intersection(outlines[b]).area / min(outlines[a].area, outlines[b].area)
        for a, b in zip(first, second, strict=True)
        if a < b
    ]
    assert max(shares, default=0) < 0.25


def test_centroids_and_areas_are_those_of_shapely():
    from shapely import area, centroid, get_coordinates, polygons

    truth = make_layout(1500, seed=2).nuclei
    centre, areas = truth.measure()
    outlines = polygons(truth.outlines_px())
    np.testing.assert_allclose(areas, area(outlines), rtol=1e-9)
    np.testing.assert_allclose(centre, get_coordinates(centroid(outlines)), rtol=0, atol=1e-6)


def test_the_score_of_the_truth_itself_is_perfect():
    truth = make_layout(2000, seed=2).nuclei
    assert score(truth, truth.measure()[0]) == (1.0, 0.0)


def test_missed_doubled_and_invented_nuclei_lower_the_score():
    truth = make_layout(2000, seed=2).nuclei
    centre = truth.measure()[0]
    count = len(truth)
    assert score(truth, centre[10:]) == pytest.approx(((count - 10) / count, 0))
    assert score(truth, np.concatenate([centre, centre[:5]])) == pytest.approx((1, 5 / (count + 5)))
    off_slide = np.full((7, 2), -100.0)
    assert score(truth, np.concatenate([centre, off_slide])) == pytest.approx((1, 7 / (count + 7)))
    assert score(truth, np.zeros((0, 2))) == (0.0, 0.0)
    assert score(truth.take(np.zeros(0, int)), centre) == (1.0, 1.0)


def test_a_centre_counts_inside_of_the_outline_only():
    truth = make_layout(1500, seed=2).nuclei.take(np.arange(1))
    vertices, point = truth.outlines_px()[0], truth.point_px[0]
    for vertex, after in zip(vertices, np.roll(vertices, -1, 0), strict=True):
        edge = (vertex + after) / 2
        assert score(truth, (point + 0.97 * (edge - point))[None])[0] == 1
        assert score(truth, (point + 1.03 * (edge - point))[None])[0] == 0


def test_a_slide_below_one_tile_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 256"):
        draw_slide(tmp_path / "small.svs", 100)


def ours_window(y0: int, x0: int, side: int):
    from microtome.grid import Window

    return Window(y0, x0, y0 + side, x0 + side)

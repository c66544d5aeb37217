"""Tissue: found on real slides and on worse ones made of them, kept as text, read from files.

`tissue_nuclei.npz` holds the centres, (y, x) in whole level-0 px, of all nuclei that the official
package (stardist 0.9.2, f32, the shared model, v / 255) finds without any mask: `tcga` at level 0,
`cmu` enlarged x 2 (INTER_CUBIC); in blocks of 2048 px with 128 px of surround.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from microtome.errors import FluorescenceSlide, TissueFileError
from microtome.grid import Window
from microtome.slides import Mpp, Slide, open_slide
from microtome.stain import StainLimits, check_brightfield, find_limits, is_fluorescence, sampled
from microtome.tissue import SPECK_BAND_PX, SPECK_PX, find_tissue, stained_pixels
from microtome.tissue_file import read_tissue
from microtome.tissue_mask import TissueMask, all_tissue, fit_cell

type Rgb = npt.NDArray[np.uint8]
type MakeSlide = Callable[[Rgb], Slide]

MPP = Mpp(0.2485, 0.2485)
NUCLEI = Path(__file__).parent / "tissue_nuclei.npz"
CROP = Window(4096, 3072, 7168, 6656)
"""Of the TCGA slide: tissue, glass to the left and below, white filling beside the glass."""
PENS = {"blue": (40, 60, 170), "green": (20, 130, 70), "black": (25, 25, 30), "red": (205, 30, 45)}


@pytest.fixture
def make_slide(tmp_path: Path) -> Iterator[MakeSlide]:
    """A TIFF of the given (y, x, 3) pixels, opened."""
    with ExitStack() as stack:

        def make(rgb: Rgb) -> Slide:
            path = tmp_path / "made.tif"
            tifffile.imwrite(path, rgb, tile=(256, 256), photometric="rgb")
            return stack.enter_context(open_slide(str(path)))

        yield make


@pytest.fixture(scope="module")
def tissue_rgb(tcga_slide: Path) -> Rgb:
    with open_slide(str(tcga_slide)) as slide:
        return np.ascontiguousarray(slide.read(0, CROP).transpose(1, 2, 0))


@pytest.fixture(scope="module")
def centres_px() -> npt.NDArray[np.float64]:
    """Of the nuclei in the crop."""
    points = np.load(NUCLEI)["tcga"].astype(np.float64) + 0.5 - (CROP.y0, CROP.x0)
    inside = (points >= 0).all(axis=1) & (points < (CROP.height, CROP.width)).all(axis=1)
    return points[inside]


def glass(height_px: int = 2048, width_px: int = 3072) -> Rgb:
    """Empty glass: seams of the scanner's strips, and noise."""
    random = np.random.default_rng(5)
    shade = np.repeat(random.integers(-2, 3, width_px // 256), 256)[None, :, None]
    return to_uint8(240 + shade + random.normal(0, 3, (height_px, width_px, 3)))


def to_uint8(values: npt.NDArray[np.float64]) -> Rgb:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def paler(rgb: Rgb, times: float) -> Rgb:
    return to_uint8(243 - (243 - rgb.astype(np.float64)) / times)


def fill_with(rgb: Rgb, value: int) -> Rgb:
    """Another filling where the slide has white."""
    return np.where((rgb == 255).all(axis=2, keepdims=True), np.uint8(value), rgb)


def draw(
    rgb: Rgb, colour: tuple[int, int, int], points: list[tuple[int, int]]
) -> tuple[Rgb, npt.NDArray[np.bool_]]:
    """A stroke of transparent ink through (x, y) points, and where it is."""
    stroke = np.zeros(rgb.shape[:2], np.uint8)
    cv2.polylines(stroke, [np.array(points)], False, 255, 260, cv2.LINE_AA)
    share = cv2.GaussianBlur(stroke, (0, 0), 4)[..., None] / 255
    inked = rgb * (np.array(colour) / 243)
    return to_uint8(rgb * (1 - share) + inked * share), share[..., 0] > 0.5


def on_level0(tissue: TissueMask) -> npt.NDArray[np.bool_]:
    cells = np.repeat(np.repeat(tissue.mask, tissue.cell_px, axis=0), tissue.cell_px, axis=1)
    return cells[: tissue.height_px, : tissue.width_px]


@pytest.mark.parametrize(
    ("name", "fixture", "most_kept"), [("tcga", "tcga_slide", 0.46), ("cmu", "cmu_slide", 0.49)]
)
def test_of_a_thousand_nuclei_of_a_shared_slide_at_most_one_is_lost_to_a_tight_mask(
    name: str, fixture: str, most_kept: float, request: pytest.FixtureRequest
) -> None:
    points = np.load(NUCLEI)[name].astype(np.float64) + 0.5
    with open_slide(str(request.getfixturevalue(fixture))) as slide:
        tissue = find_tissue(slide)
    assert (~tissue.holds(points)).sum() <= len(points) / 1000
    assert tissue.share_of(Window(0, 0, tissue.height_px, tissue.width_px)) <= most_kept


def test_the_dicom_copy_of_a_slide_has_the_same_tissue(cmu_slide: Path, cmu_dicom: Path) -> None:
    with open_slide(str(cmu_slide)) as svs, open_slide(str(cmu_dicom)) as dicom:
        one, other = find_tissue(svs), find_tissue(dicom)
    assert (one.mask != other.mask).mean() < 0.002


WORSE: dict[str, Callable[[Rgb], Rgb]] = {
    "pale, a third of the contrast": lambda rgb: fill_with(paler(rgb, 3), 243),
    "frozen: blurred, half of the contrast": lambda rgb: paler(cv2.GaussianBlur(rgb, (0, 0), 12), 2),
    "black filling": lambda rgb: fill_with(rgb, 0),
    "nearly black filling": lambda rgb: fill_with(rgb, 9),
    "grey filling": lambda rgb: fill_with(rgb, 250),
    "yellow glass": lambda rgb: to_uint8(rgb * np.array([1.0, 0.98, 0.94])),
    "dim lamp": lambda rgb: to_uint8(rgb * 0.7),
}


@pytest.mark.parametrize("how", WORSE)
def test_a_worse_slide_keeps_its_nuclei_and_no_more_glass(
    how: str, tissue_rgb: Rgb, centres_px: npt.NDArray[np.float64], make_slide: MakeSlide
) -> None:
    whole = Window(0, 0, *tissue_rgb.shape[:2])
    good = find_tissue(make_slide(tissue_rgb), MPP)
    worse = find_tissue(make_slide(WORSE[how](tissue_rgb)), MPP)
    assert worse.holds(centres_px).mean() >= 0.998
    assert worse.share_of(whole) <= good.share_of(whole) + 0.04


def test_empty_glass_with_noise_and_dust_has_no_tissue(make_slide: MakeSlide) -> None:
    rgb = glass()
    random = np.random.default_rng(6)
    for _ in range(60):
        y, x, radius = random.integers(0, 2048), random.integers(0, 3072), random.integers(2, 12)
        cv2.circle(rgb, (int(x), int(y)), int(radius), (int(random.integers(20, 190)),) * 3, -1, cv2.LINE_AA)
    shadow = np.full(rgb.shape, 255, np.uint8)
    cv2.circle(shadow, (1500, 1000), 250, (215, 215, 215), 60)
    rgb = to_uint8(rgb * (cv2.GaussianBlur(shadow, (0, 0), 25) / 255.0))
    tissue = find_tissue(make_slide(rgb), MPP)
    assert tissue.is_empty
    assert (tissue.windows(), tissue.area_px()) == ((), 0)


@pytest.mark.parametrize("value", [0, 128, 250, 255])
def test_a_slide_of_nothing_but_filling_has_no_tissue(value: int, make_slide: MakeSlide) -> None:
    slide = make_slide(np.full((1024, 1536, 3), value, np.uint8))
    check_brightfield(slide)
    assert find_tissue(slide, MPP).is_empty


@pytest.mark.parametrize("pen", PENS)
def test_a_pen_mark_beside_tissue_is_left_out_and_one_over_tissue_takes_nothing_away(
    pen: str, tissue_rgb: Rgb, centres_px: npt.NDArray[np.float64], make_slide: MakeSlide
) -> None:
    clean = on_level0(find_tissue(make_slide(tissue_rgb), MPP))
    rgb, beside = draw(tissue_rgb, PENS[pen], [(250, 250), (400, 1500), (300, 2800)])
    rgb, over = draw(rgb, PENS[pen], [(1500, 2000), (2400, 900), (3300, 1500)])
    tissue = find_tissue(make_slide(rgb), MPP)
    assert on_level0(tissue)[beside & ~clean].mean() < 0.02
    under = over[tuple(centres_px.astype(np.int64).T)]
    assert under.sum() > 100
    assert tissue.holds(centres_px[under]).mean() >= 0.99
    assert tissue.holds(centres_px[~under]).mean() >= 0.998


def test_a_field_of_nothing_but_tissue_keeps_every_drawn_nucleus(shared_data: Path) -> None:
    drawn = lost = 0
    for path in sorted((shared_data / "nuclei" / "tnbc" / "images").glob("*.png")):
        marks = cv2.imread(str(path).replace("images", "masks"), cv2.IMREAD_GRAYSCALE)
        assert marks is not None
        _, _, _, centres = cv2.connectedComponentsWithStats((marks > 0).astype(np.uint8), connectivity=4)
        with open_slide(str(path)) as slide:
            held = find_tissue(slide, Mpp(0.25, 0.25)).holds(centres[1:, ::-1] + 0.5)
        drawn, lost = drawn + len(held), lost + int((~held).sum())
    assert drawn > 3000
    assert lost == 0


def test_a_speck_is_one_wherever_it_lies() -> None:
    """Specks are sought band by band: a piece that is cut by a band's edge is judged as a whole."""
    rng = np.random.default_rng(0)
    high, wide, um2 = 2 * SPECK_BAND_PX, 600, 0.25
    noise = cv2.GaussianBlur(rng.standard_normal((high, wide)).astype(np.float32), (0, 0), 1.5)
    noise[:2] = noise[-2 * SPECK_PX :] = -1
    drawn = noise > 0.25
    shades = rng.integers(-1, 2, (high, wide, 1))
    rgb = (np.where(drawn[..., None], (226, 212, 226), (240, 240, 240)) + shades).astype(np.uint8)
    expected = stained_pixels(rgb.transpose(2, 0, 1), um2)
    assert 0.2 < expected[drawn].mean() < 0.8, "some pieces are specks, some are not"
    for by in range(9, 2 * SPECK_PX, 9):
        rolled = np.roll(rgb, by, axis=0).transpose(2, 0, 1)
        assert np.array_equal(np.roll(stained_pixels(rolled, um2), -by, axis=0), expected)


def test_the_same_slide_has_the_same_mask_each_time(cmu_slide: Path) -> None:
    masks = []
    for _ in range(2):
        with open_slide(str(cmu_slide)) as slide:
            masks.append(find_tissue(slide).pack())
    assert masks[0] == masks[1]


def test_a_large_slide_has_no_more_than_eight_million_cells() -> None:
    cell_px = fit_cell(163_000, 163_000, 16)
    assert cell_px == 64
    assert (-(-163_000 // cell_px)) ** 2 <= 8_000_000


@st.composite
def masks(draw_from: st.DrawFn) -> TissueMask:
    height, width = draw_from(st.integers(1, 200)), draw_from(st.integers(1, 200))
    cell_px = draw_from(st.sampled_from([1, 4, 16, 64]))
    random = np.random.default_rng(draw_from(st.integers(0, 99)))
    cells = random.random((-(-height // cell_px), -(-width // cell_px))) < draw_from(
        st.sampled_from([0.0, 0.2, 1.0])
    )
    return TissueMask.of(cells, cell_px, height, width)


@given(tissue=masks())
def test_a_mask_comes_back_from_its_text(tissue: TissueMask) -> None:
    assert TissueMask.unpack(tissue.pack(), tissue.cell_px) == tissue


@given(tissue=masks(), edges=st.tuples(*[st.integers(-30, 230)] * 4), side_px=st.integers(1, 90))
def test_the_squares_of_a_window_are_touched_as_each_of_them_alone(
    tissue: TissueMask, edges: tuple[int, int, int, int], side_px: int
) -> None:
    y0, y1, x0, x1 = *sorted(edges[:2]), *sorted(edges[2:])
    window = Window(y0, x0, y1, x1)
    alone = [
        [
            tissue.touches(Window(y, x, y + side_px, x + side_px).intersect(window))
            for x in range(x0, x1, side_px)
        ]
        for y in range(y0, y1, side_px)
    ]
    found = tissue.touched(window, side_px)
    assert found.shape == (-(-window.height // side_px), -(-window.width // side_px))
    assert found.tolist() == alone


@given(tissue=masks(), edges=st.tuples(*[st.integers(-30, 230)] * 4))
def test_a_mask_answers_for_windows_and_points_as_its_pixels_do(
    tissue: TissueMask, edges: tuple[int, int, int, int]
) -> None:
    y0, y1, x0, x1 = *sorted(edges[:2]), *sorted(edges[2:])
    window, pixels = Window(y0, x0, y1, x1), on_level0(tissue)
    part = pixels[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
    assert tissue.touches(window) == bool(part.any())
    assert tissue.share_of(window) == pytest.approx(part.mean() if part.size else 0.0)
    assert tissue.area_px() == pixels.sum()
    grid = np.argwhere(np.ones((240, 240), bool)) - 20.5
    inside = (grid >= 0).all(axis=1) & (grid < pixels.shape).all(axis=1)
    expected = np.zeros(len(grid), bool)
    expected[inside] = pixels[tuple(grid[inside].astype(np.int64).T)]
    assert (tissue.holds(grid) == expected).all()


@given(tissue=masks())
def test_the_windows_of_a_mask_hold_all_of_it_and_stay_on_the_slide(tissue: TissueMask) -> None:
    covered = np.zeros((tissue.height_px, tissue.width_px), bool)
    for window in tissue.windows():
        assert 0 <= window.y0 < window.y1 <= tissue.height_px
        assert 0 <= window.x0 < window.x1 <= tissue.width_px
        covered[window.y0 : window.y1, window.x0 : window.x1] = True
    assert not (on_level0(tissue) & ~covered).any()


def test_without_a_mask_the_whole_slide_is_tissue(cmu_slide: Path) -> None:
    with open_slide(str(cmu_slide)) as slide:
        tissue = all_tissue(slide)
    assert tissue.area_px() == 2967 * 2220
    assert tissue.holds(np.array([[0.0, 0.0], [2966.9, 2219.9], [2967.0, 0.0]])).tolist() == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("fixture", ["tcga_slide", "cmu_slide", "cmu_dicom"])
def test_both_shared_slides_reach_255_with_and_without_a_mask(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    with open_slide(str(request.getfixturevalue(fixture))) as slide:
        assert find_limits(slide, find_tissue(slide), None, 99.8) == StainLimits(0.0, 255.0)
        assert find_limits(slide, all_tissue(slide), None, 99.8) == StainLimits(0.0, 255.0)


def test_limits_are_percentiles_of_all_channels_with_black_filling_left_out(make_slide: MakeSlide) -> None:
    rgb = np.zeros((1024, 2048, 3), np.uint8)
    rgb[:, 1024:] = np.arange(100, 200, dtype=np.uint8).repeat(11)[:1024, None, None]
    slide = make_slide(rgb)
    limits = find_limits(slide, all_tissue(slide), 1.0, 99.0)
    values = rgb[:, 1024:]
    assert limits.low == np.percentile(values, 1, method="inverted_cdf")
    assert limits.high == np.percentile(values, 99, method="inverted_cdf")


def tissue_of(rows: int, cols: int, cut_px: int = 0) -> TissueMask:
    """A slide of so many squares of 1,024 px, all of them tissue, of which some px are cut off below."""
    height_px = 1024 * rows - cut_px
    return TissueMask.of(np.ones((height_px // 64, 16 * cols), bool), 64, height_px, 1024 * cols)


@pytest.mark.parametrize("cut_px", [0, 512])
def test_limits_of_a_small_slide_are_measured_on_all_squares_with_tissue(cut_px: int) -> None:
    windows = sampled(tissue_of(8, 8, cut_px), tile_px=256)
    seen = np.zeros((1024 * 8 - cut_px, 1024 * 8), np.uint8)
    for window in windows:
        seen[window.y0 : window.y1, window.x0 : window.x1] += 1
    assert np.all(seen == 1)


@pytest.mark.parametrize(("tile_px", "side_px", "count"), [(240, 256, 512), (512, 512, 256)])
@pytest.mark.parametrize("cut_px", [0, 512])
@pytest.mark.parametrize(
    ("rows", "cols"), [(5, 13), (8, 16), (8, 32), (16, 16), (23, 31), (32, 32), (64, 32), (160, 160)]
)
def test_limits_of_a_large_slide_are_measured_on_pieces_of_all_kinds_everywhere(
    rows: int, cols: int, cut_px: int, tile_px: int, side_px: int, count: int
) -> None:
    windows = sampled(tissue_of(rows, cols, cut_px), tile_px)
    # Of the last row's squares, the lower pieces may be cut off.
    assert count - count / rows <= len(windows) == len(set(windows)) <= count
    assert {window.area_px for window in windows} == {side_px**2}
    side = 1024 // side_px
    kinds = Counter((window.y0 // side_px % side, window.x0 // side_px % side) for window in windows)
    assert len(kinds) == side**2
    assert min(kinds.values()) >= 0.6 * count / side**2
    fifths = Counter(5 * window.y0 // (1024 * rows) for window in windows)
    assert min(fifths.values()) >= 0.09 * count


def test_where_tiles_are_large_limits_are_measured_on_whole_squares() -> None:
    windows = sampled(tissue_of(32, 32), tile_px=1024)
    assert len(set(windows)) == 128
    assert {window.area_px for window in windows} == {1024 * 1024}


def test_a_slide_without_tissue_has_the_widest_limits(make_slide: MakeSlide) -> None:
    slide = make_slide(glass(1024, 1024))
    nothing = TissueMask.of(np.zeros((16, 16), bool), 64, 1024, 1024)
    assert find_limits(slide, nothing, 1.0, 99.8) == StainLimits(0.0, 255.0)


def test_a_fluorescence_slide_is_refused_by_name(dapi_slide: Path) -> None:
    with (
        open_slide(str(dapi_slide)) as slide,
        pytest.raises(FluorescenceSlide, match=r"test3-DAPI.*fluorescence"),
    ):
        check_brightfield(slide)


def test_brightfield_passes_with_much_black_or_white_filling(tissue_rgb: Rgb, make_slide: MakeSlide) -> None:
    for value in (0, 4, 12, 255):
        large = np.full((4096, 6144, 3), value, np.uint8)
        large[:512, :512] = tissue_rgb[1000:1512, 2000:2512]
        check_brightfield(make_slide(large))
    check_brightfield(make_slide(glass()))


def test_every_shared_field_of_stained_nuclei_is_brightfield(shared_data: Path) -> None:
    paths = sorted((shared_data / "nuclei").glob("*/images/*.png"))
    assert len(paths) == 274
    for path in paths:
        bgr = cv2.imread(str(path))
        assert bgr is not None
        for side in (256, 32):
            small = cv2.resize(bgr, (side, side), interpolation=cv2.INTER_AREA)
            assert not is_fluorescence(small.transpose(2, 0, 1)[::-1]), path


def feature(kind: str, coordinates: object) -> dict[str, object]:
    return {"type": "Feature", "properties": {}, "geometry": {"type": kind, "coordinates": coordinates}}


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def test_outlines_of_a_geojson_file_are_tissue_and_their_holes_are_not(
    make_slide: MakeSlide, tmp_path: Path
) -> None:
    slide = make_slide(glass(1024, 1536))
    path = tmp_path / "drawn.geojson"
    outer, hole, far = box(100, 200, 700, 800), box(300, 400, 500, 600), box(1200, 50, 1400, 150)
    found = [feature("Polygon", [outer, hole]), feature("MultiPolygon", [[far]]), feature("Point", [5, 5])]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": found}))
    tissue = read_tissue(path, slide)
    points = np.array([[201, 101], [799, 699], [500, 400], [100, 1300], [900, 900], [100, 700]], np.float64)
    assert tissue.holds(points).tolist() == [True, True, False, True, False, False]
    assert tissue.area_px() == pytest.approx(600 * 600 - 200 * 200 + 200 * 100, rel=0.15)
    path.write_text(json.dumps(found[:1]))
    assert read_tissue(path, slide).holds(points).tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("size", [(64, 96), (1024, 1536), (33, 50), (2048, 3072)])
def test_what_is_not_black_in_a_mask_image_is_tissue(
    size: tuple[int, int], make_slide: MakeSlide, tmp_path: Path
) -> None:
    slide = make_slide(glass(1024, 1536))
    marks = np.zeros(size, np.uint8)
    marks[size[0] // 2 :, : size[1] // 3] = 1
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), marks)
    tissue = read_tissue(path, slide)
    points = np.array([[540, 10], [1020, 480], [480, 10], [540, 560], [10, 1500]], np.float64)
    assert tissue.holds(points).tolist() == [True, True, False, False, False]


def test_an_unfit_tissue_file_says_what_is_wrong(make_slide: MakeSlide, tmp_path: Path) -> None:
    slide = make_slide(glass(1024, 1536))
    square, empty, junk = tmp_path / "square.png", tmp_path / "empty.png", tmp_path / "junk.png"
    cv2.imwrite(str(square), np.ones((100, 100), np.uint8))
    cv2.imwrite(str(empty), np.zeros((100, 150), np.uint8))
    junk.write_bytes(b"no image")
    texts = {
        "off.geojson": json.dumps(feature("Polygon", [box(5000, 5000, 6000, 6000)])),
        "none.geojson": json.dumps({"type": "FeatureCollection", "features": []}),
        "broken.geojson": '{"type": "Feature"',
        "other.json": '{"cells": 3}',
        "words.json": json.dumps(feature("Polygon", "abc")),
        "nan.json": json.dumps(feature("Polygon", [box(0, 0, float("nan"), 10)])),
        "nowhere.json": json.dumps({"type": "Feature", "properties": {}, "geometry": None}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    reasons = {
        "square.png": "another shape",
        "empty.png": "no tissue",
        "junk.png": "neither GeoJSON nor an image",
        "off.geojson": "off the slide",
        "none.geojson": "no tissue",
        "broken.geojson": "not GeoJSON",
        "other.json": "not GeoJSON",
        "words.json": "not GeoJSON",
        "nan.json": "beyond 1e",
        "nowhere.json": "no tissue",
        "absent.png": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(TissueFileError, match=reason):
            read_tissue(tmp_path / name, slide)

"""The report: its numbers are those of the nuclei, its warnings warn, its page opens anywhere."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_slide import Truth, draw_slide

from microtome.cpu import machine_record
from microtome.grid import Window
from microtome.nuclei import Nuclei
from microtome.options import Options
from microtome.plan import Plan, make_plan
from microtome.records import ShardReport, StageReport
from microtome.report import figures
from microtome.report.density import REGION_PX, choose_regions, measure_density
from microtome.report.distrust import Caution, Level, check_all, check_counts, check_edge, check_focus
from microtome.report.page import write_report
from microtome.report.pictures import Pictures, draw_pictures
from microtome.report.shard_stats import ShardStats, quantiles
from microtome.report.summary import RunFacts, read_summary, summary_json
from microtome.slides import BadTile, open_slide
from microtome.store import ResultStore
from microtome.tissue_mask import TissueMask

SIZE_PX = 3000
SHARD_PX = 512
MADE_AT = datetime(2026, 11, 21, 13, 50, tzinfo=UTC)
VOID = {"meta", "img", "input", "br", "link", "hr"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, Truth]:
    path = tmp_path_factory.mktemp("report") / "drawn.svs"
    return path, draw_slide(path, SIZE_PX, seed=7, workers=1)


@pytest.fixture(scope="module")
def plan(drawn) -> Plan:
    return make_plan(str(drawn[0]), Options(precision="f32", shard_px=SHARD_PX))


@pytest.fixture(scope="module")
def nuclei(drawn) -> Nuclei:
    truth = drawn[1]
    centre, area = truth.measure()
    rng = np.random.default_rng(0)
    return Nuclei(
        prob=rng.uniform(0.55, 1, len(truth)).astype(np.float32),
        centre_px=centre,
        area_px=area,
        outline_px=truth.outlines_px().reshape(-1, 2),
        offsets=np.arange(len(truth) + 1) * 32,
    )


@pytest.fixture(scope="module")
def stats(plan, nuclei) -> ShardStats:
    return merged(plan, nuclei)


@pytest.fixture(scope="module")
def report(plan, stats, nuclei, drawn, tmp_path_factory) -> tuple[ResultStore, str]:
    store = ResultStore(str(tmp_path_factory.mktemp("result")))
    hostile = replace(plan, slide=replace(plan.slide, name='<script>alert("slide")</script> & co.svs'))
    pictures, sheet = pictures_of(drawn[0], hostile, stats, nuclei)
    store.put("report/overview.png", sheet)
    write_report(store, hostile, stats, facts(), Pictures.from_bytes(pictures.to_bytes()))
    return store, store.get("report/index.html").decode()


def merged(plan: Plan, nuclei: Nuclei) -> ShardStats:
    parts = []
    for shard in plan.grid:
        own = [shard.window.holds(y, x) for y, x in nuclei.centre_px.tolist()]
        part = ShardStats.of(plan, shard, nuclei.take(np.flatnonzero(own)))
        parts.append(ShardStats.from_bytes(part.to_bytes()))
    return ShardStats.merge(plan, parts)


def pictures_of(path: Path, plan: Plan, stats: ShardStats, nuclei: Nuclei) -> tuple[Pictures, bytes]:
    with open_slide(str(path)) as slide:
        return draw_pictures(plan, stats, slide, lambda window: nuclei)


def facts(**changed: object) -> RunFacts:
    given: dict[str, object] = {
        "stages": (stage("chunk"), stage("infer", tiles=4, tile_s=(0.1, 0.2, 0.3, 0.4))),
        "wall_s": 10.0,
        "machine": machine_record(),
        "workers": 2,
        "command": "microtome segment 'a slide.svs' -o out",
        "made_at": MADE_AT,
    }
    return RunFacts(**{**given, **changed})


def stage(name: str, **counted: object) -> StageReport:
    shards = [
        ShardReport(
            stage=name, shard=i, began_s=2.0 * i, seconds=2.0, cpu_s=1.9, pixels=10_000_000, **counted
        )
        for i in range(2)
    ]
    return StageReport.of(name, shards, resumed=0)


def no_tissue(plan: Plan) -> Plan:
    mask = plan.tissue_mask
    empty = TissueMask.of(np.zeros_like(mask.mask), mask.cell_px, mask.height_px, mask.width_px)
    return replace(plan, tissue=replace(plan.tissue, mask=empty.pack(), area_px=0))


# Numbers


def test_statistics_of_shards_add_up_to_those_of_all_nuclei(plan, nuclei, stats):
    area_um2 = nuclei.area_px * 0.25 * 0.25
    assert stats.nuclei == len(nuclei) == stats.cells.sum() == stats.area.sum() == stats.prob.sum()
    found = quantiles(stats.area, np.arange(501.0), (0.25, 0.5, 0.75))
    np.testing.assert_allclose(found, np.quantile(area_um2, (0.25, 0.5, 0.75)), rtol=0, atol=0.25)


def test_other_shards_give_the_same_map_and_histograms(plan, nuclei, stats):
    other = merged(replace(plan, shard_px=1536), nuclei)
    np.testing.assert_array_equal(other.cells, stats.cells)
    np.testing.assert_array_equal(other.area, stats.area)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([0, 4, 0, 0], (1.25, 1.5, 1.75)), ([2, 0, 0, 2], (0.5, 3.0, 3.5)), ([0, 0, 0, 0], None)],
)
def test_quantiles_of_bins(counts, expected):
    assert quantiles(np.array(counts), np.arange(5.0), (0.25, 0.5, 0.75)) == expected


def test_nuclei_larger_than_the_last_bin_are_counted_in_it(plan, nuclei):
    giant = replace(nuclei.take(np.arange(3)), area_px=np.full(3, 1e6))
    assert ShardStats.of(plan, plan.grid[0], giant).area[-1] == 3


def test_the_summary_holds_what_was_found_and_comes_back_from_its_json(report, plan, nuclei):
    store, _ = report
    summary = read_summary(store)
    assert summary.nuclei == len(nuclei)
    assert summary.nuclei_per_mm2 == pytest.approx(len(nuclei) / plan.tissue_mm2)
    assert summary.tissue_mp_s == pytest.approx(plan.tissue.area_px / 1e6 / 10)
    assert summary.tissue_mm2_s == pytest.approx(plan.tissue_mm2 / 10)
    infer = summary.stages[1]
    assert (infer.wall_s, infer.mp_s, infer.tiles_s) == (4.0, 5.0, 2.0)
    assert infer.tile_s.p50_s == pytest.approx(0.25)
    assert summary_json(summary) == store.get("report/summary.json")


# Density and fields


def test_density_is_nuclei_over_tissue(plan, stats, nuclei):
    density = measure_density(plan, stats)
    full = density.tissue > 0.99
    counted = stats.cells[full].sum() / (full.sum() * density.cell_px**2 * 0.0625 / 1e6)
    assert np.nanmean(density.per_mm2[full]) == pytest.approx(counted, rel=0.1)
    assert np.isnan(density.per_mm2[density.tissue == 0]).all()


def test_fields_lie_apart_on_the_slide_and_are_the_same_on_every_run(plan, stats, nuclei):
    density = measure_density(plan, stats)
    regions = choose_regions(plan, density, lambda window: 1.0)
    assert regions == choose_regions(plan, density, lambda window: 1.0)
    assert [region.title for region in regions[:3]] == ["densest", "sparsest", "at random, a"]
    for number, region in enumerate(regions):
        assert region.window.intersect(plan.grid.window) == region.window
        assert (region.window.height, region.window.width) == (REGION_PX, REGION_PX)
        assert all(region.window.intersect(other.window).is_empty for other in regions[:number])
    counts = [np.sum([r.window.holds(y, x) for y, x in nuclei.centre_px.tolist()]) for r in regions]
    assert counts[0] == max(counts)


def test_a_slide_smaller_than_a_field_is_shown_whole(plan, stats):
    small = replace(
        plan,
        slide=replace(plan.slide, levels=(replace(plan.slide.levels[0], height_px=300, width_px=400),)),
        tissue=replace(
            plan.tissue, mask=TissueMask.of(np.ones((5, 7), bool), 64, 300, 400).pack(), cell_px=64
        ),
    )
    density = measure_density(small, ShardStats.merge(small, []))
    regions = choose_regions(small, density, lambda window: 1.0)
    assert regions[0].window == Window(0, 0, 300, 400)


def test_the_overview_is_the_same_read_in_bands_or_at_once(plan, drawn, monkeypatch):
    with open_slide(str(drawn[0])) as slide:
        at_once = figures.read_overview(slide, slide.levels[:1])
        monkeypatch.setattr(figures, "BAND_PX", 100_000)
        in_bands = figures.read_overview(slide, slide.levels[:1])
    np.testing.assert_array_equal(at_once.rgb, in_bands.rgb)
    assert at_once.level0_px * at_once.rgb.shape[0] == pytest.approx(SIZE_PX, rel=0.01)


def test_colours_grow_darker_with_density():
    lightness = cv2.cvtColor(figures.colours()[None], cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) <= 1).all()
    assert lightness[0] - lightness[-1] > 150


def test_a_field_draws_the_outlines_that_reach_into_it_and_no_others(nuclei):
    window = Window(1000, 1000, 1640, 1640)
    outlines = np.split(nuclei.outline_px, nuclei.offsets[1:-1])
    low, high = np.array([o.min(0) for o in outlines]), np.array([o.max(0) for o in outlines])
    reaching = ((high > 1000) & (low < 1640)).all(1).sum()
    path = figures.outline_path(figures.nuclei_within(nuclei, window), window)
    assert path.count("M") == path.count("z") == reaching


def test_outlines_are_drawn_where_they_are(nuclei):
    first = nuclei.take(np.arange(1))
    path = figures.outline_path(first, Window(0, 0, 10, 10))
    start, steps = re.fullmatch(r"M(.*?)l(.*)z", path).groups()
    moves = np.array([pair.split(",") for pair in [start, *steps.split()]], float)
    np.testing.assert_allclose(np.cumsum(moves, axis=0)[:, ::-1], first.outline_px, rtol=0, atol=0.051)


# What to distrust


def test_a_sharp_slide_is_fine_and_a_blurred_one_is_not(plan, drawn):
    with open_slide(str(drawn[0])) as slide:

        def blurred(level: int, windows: Sequence[Window]) -> Iterator[np.ndarray]:
            for pixels in slide.read_each(level, windows):
                yield np.moveaxis(cv2.GaussianBlur(np.moveaxis(pixels, 0, 2), (0, 0), 2.5), 2, 0)

        assert check_focus(plan, slide.read_each).level is Level.FINE
        assert check_focus(plan, blurred).level is Level.LOOK


def test_real_slides_are_sharp(tcga_slide, cmu_slide):
    for path in (tcga_slide, cmu_slide):
        real = make_plan(str(path), Options(precision="f32"))
        with open_slide(str(path)) as slide:
            assert check_focus(real, slide.read_each).level is Level.FINE


def test_a_shard_with_ten_times_the_nuclei_stands_out(plan, stats):
    tissue = {
        shard.index: plan.tissue_mask.share_of(shard.window) * shard.window.area_px for shard in plan.grid
    }
    even = {index: round(area_px / 300) for index, area_px in tissue.items()}
    jitter = {index: count + index % 7 for index, count in even.items()}
    assert check_counts(plan, replace(stats, counts=jitter)).level is Level.FINE
    odd = max(even, key=even.get)
    caution = check_counts(plan, replace(stats, counts={**jitter, odd: 10 * even[odd]}))
    window = plan.grid[odd].window
    assert caution.level is Level.LOOK
    assert f"many at y {window.y0:,} x {window.x0:,}" in caution.finding


def test_tissue_cut_by_the_scan_is_pointed_out(plan):
    mask = plan.tissue_mask

    def with_cells(cells: np.ndarray) -> Plan:
        changed = TissueMask.of(cells, mask.cell_px, mask.height_px, mask.width_px)
        record = replace(plan.tissue, mask=changed.pack(), area_px=changed.area_px())
        return replace(plan, tissue=record)

    middle = np.zeros_like(mask.mask)
    middle[len(middle) // 3 : len(middle) // 2, len(middle) // 3 : len(middle) // 2] = True
    assert check_edge(with_cells(middle)).level is Level.FINE
    assert check_edge(with_cells(np.ones_like(mask.mask))).level is Level.LOOK


def test_seams_and_damaged_tiles_are_counted(plan, stats):
    stages = (stage("stitch", seam_conflicts=stats.nuclei),)
    focus = Caution(check="Sharpness", level=Level.FINE, finding="Sharp.")
    bad_tiles = {BadTile(level, index, 0, 0) for level, index in ((0, 1), (0, 2), (0, 9), (2, 9))}
    _, sharpness, _, seams, tiles = check_all(plan, stats, stages, focus, bad_tiles)
    assert sharpness is focus
    assert seams.level is Level.LOOK
    assert f"{2 * stats.nuclei:,} overlaps" in seams.finding
    assert tiles.level is Level.LOOK
    assert tiles.finding.startswith("3 tiles")
    assert "1 tiles of the overview" in tiles.finding


# The page


def test_a_hostile_slide_name_stays_text(report):
    _, page = report
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#34;slide&#34;)&lt;/script&gt; &amp; co.svs" in page


def test_the_page_is_small_and_needs_nothing_but_itself(report):
    _, page = report
    assert len(page) < 3_000_000
    links = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert "@import" not in page
    assert "url(http" not in page


def test_every_tag_is_closed_and_no_id_is_given_twice(report):
    _, page = report
    checker = Tags()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))


def test_the_page_says_what_a_reader_must_know(report, nuclei, plan):
    store, page = report
    text = re.sub(r"<[^>]+>", " ", page)
    for wanted in (
        "For research use only, not for diagnosis",
        f"{len(nuclei):,}",
        "densest",
        "sparsest",
        "at random, d",
        "What to distrust",
        read_summary(store).plan_fingerprint,
        plan.model.digest,
        "microtome segment &#39;a slide.svs&#39; -o out",
        "21 November 2026",
    ):
        assert wanted in text, wanted


def test_a_slide_without_tissue_has_a_report_too(plan, drawn, tmp_path):
    empty, store = no_tissue(plan), ResultStore(str(tmp_path))
    stats = ShardStats.merge(empty, [])
    pictures, _ = pictures_of(drawn[0], empty, stats, Nuclei.empty())
    summary, keys = write_report(store, empty, stats, facts(stages=()), pictures)
    assert (summary.nuclei, summary.nuclei_per_mm2, summary.median_area_um2) == (0, 0.0, None)
    assert [key.key for key in keys] == ["report/summary.json", "report/index.html"]
    assert "There is no tissue to show." in store.get("report/index.html").decode()


def test_tissue_without_nuclei_has_a_report_too(plan, drawn, tmp_path):
    store, stats = ResultStore(str(tmp_path)), ShardStats.merge(plan, [])
    pictures, _ = pictures_of(drawn[0], plan, stats, Nuclei.empty())
    write_report(store, plan, stats, facts(), pictures)
    assert "0 nuclei, 0 per mm²" in store.get("report/index.html").decode()


def test_the_overview_opens_as_a_picture(report):
    store, _ = report
    picture = cv2.imdecode(np.frombuffer(store.get("report/overview.png"), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] >= 1000
    assert np.ptp(picture) > 200


@pytest.mark.parametrize("width_px", [360, 1200])
def test_a_browser_shows_it_without_a_complaint_and_without_scrolling_sideways(report, tmp_path, width_px):
    """In a frame of that width: the browser's own window cannot be so narrow."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium here; apt-get install chromium")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!DOCTYPE html><title>loading</title><iframe style="width:{width_px}px;height:900px;border:0" '
        f'srcdoc="{escape(report[1])}" onload="const d=this.contentDocument,e=d.documentElement;'
        "document.title=`sideways ${e.scrollWidth>e.clientWidth} pictures ${[...d.images].every("
        'i=>i.naturalWidth>0)} sections ${d.querySelectorAll(`section`).length}`"></iframe>'
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
    ]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
    run = subprocess.run(
        [browser, *flags, frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in run.stderr
    assert "<title>sideways false pictures true sections 5</title>" in run.stdout


class Tags(HTMLParser):
    """Complains of a tag closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

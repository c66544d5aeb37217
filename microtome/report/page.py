"""Puts the report together: `report/index.html`, `report/summary.json`, `report/overview.png`."""

import base64
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from microtome.grid import Window
from microtome.nuclei import Nuclei
from microtome.plan import Plan
from microtome.records import KeyRecord
from microtome.report import figures, svg
from microtome.report.density import REGION_PX, Region, choose_regions, measure_density
from microtome.report.distrust import Read, check_all
from microtome.report.shard_stats import ShardStats
from microtome.report.summary import SUMMARY_KEY, RunFacts, Summary, summarise, summary_json
from microtome.slides.base import BadTile, Level
from microtome.store import ResultStore

PAGE_KEY = "report/index.html"
OVERVIEW_KEY = "report/overview.png"

type NucleiIn = Callable[[Window], Nuclei]
"""Nuclei of the result whose outline may reach into a window (level-0 px); more do no harm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Where the report's pictures come from."""

    levels: tuple[Level, ...]
    read: Read
    nuclei_in: NucleiIn


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A field's place on the overview, percent of its sides."""

    number: int
    left: float
    top: float
    width: float
    height: float


def write_report(
    store: ResultStore,
    plan: Plan,
    stats: ShardStats,
    facts: RunFacts,
    sources: Sources,
    bad_tiles: Collection[BadTile] = (),
) -> tuple[Summary, tuple[KeyRecord, ...]]:
    """Write the three files of the report.

    Parameters
    ----------
    stats
        Of the whole slide (`ShardStats.merge`).
    facts
        What is known of the run; clocks and hosts go into the report and nowhere else.
    sources
        Pixels and nuclei, read window by window.
    bad_tiles
        Tiles of the slide that were taken as glass.

    Returns
    -------
    tuple
        The summary, and a record of each key written.
    """
    # All other workers are idle by now: a core may do one half while another does the other.
    with ThreadPoolExecutor(1, thread_name_prefix="report") as beside:
        cautions = beside.submit(check_all, plan, stats, facts.stages, sources.read, bad_tiles)
        density = measure_density(plan, stats)
        overview = figures.read_overview(plan, sources.read, sources.levels)
        regions = choose_regions(plan, density, overview.stained)
        picture = figures.draw_density(overview, density)
        sheet = beside.submit(draw_sheet, picture, overview, regions, density.top)
        fields = tuple(
            figures.show_region(plan, region, sources.read, sources.nuclei_in(region.window))
            for region in regions
        )
        summary = summarise(plan, stats, facts, cautions.result())
        page = render(summary, picture, fields, boxes(plan, fields), density.top)
    return summary, (
        store.put(OVERVIEW_KEY, sheet.result()),
        store.put(SUMMARY_KEY, summary_json(summary)),
        store.put(PAGE_KEY, page.encode()),
    )


def draw_sheet(
    picture: figures.Rgb, overview: figures.Overview, regions: Sequence[Region], top: float
) -> bytes:
    """The overview as a PNG file of its own."""
    return figures.png(figures.draw_standalone(picture, overview, regions, top))


def boxes(plan: Plan, fields: Sequence[figures.Field]) -> tuple[Box, ...]:
    """Where each field lies on the overview."""
    windows = [field.region.window for field in fields]
    return tuple(
        Box(
            number=number,
            left=100 * window.x0 / plan.width_px,
            top=100 * window.y0 / plan.height_px,
            width=100 * window.width / plan.width_px,
            height=100 * window.height / plan.height_px,
        )
        for number, window in enumerate(windows, 1)
    )


def render(
    summary: Summary,
    picture: figures.Rgb,
    fields: Sequence[figures.Field],
    boxes: Sequence[Box],
    top: float,
) -> str:
    """The page, self-contained."""
    environment = Environment(
        loader=PackageLoader("microtome.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(picture=_picture, number=_number, size=_size, um=_um)
    return environment.get_template("template.html").render(
        s=summary,
        fields=fields,
        boxes=boxes,
        overview=figures.jpeg(picture),
        overview_height=picture.shape[0],
        overview_width=picture.shape[1],
        region_um=REGION_PX * summary.mpp.x,
        legend=Markup(svg.legend(figures.colours().tolist(), top)),
        area_chart=Markup(svg.histogram(summary.area_um2, "area, µm²", 0)),
        prob_chart=Markup(svg.histogram(summary.probability, "probability", 2, end=1.0)),
        stage_chart=Markup(svg.stage_bars(summary.stages)),
    )


def _picture(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _um(length_um: float) -> str:
    return f"{length_um:,.0f} µm"


def _size(count: int) -> str:
    """Bytes for people, powers of ten."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} B"

"""Puts the report together: `report/index.html` and `report/summary.json`."""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from microtome.plan import Plan
from microtome.records import KeyRecord
from microtome.report import figures, svg
from microtome.report.density import REGION_PX
from microtome.report.distrust import check_all
from microtome.report.pictures import Pictures
from microtome.report.shard_stats import ShardStats
from microtome.report.summary import SUMMARY_KEY, RunFacts, Summary, summarise, summary_json
from microtome.slides.base import BadTile
from microtome.store import ResultStore

PAGE_KEY = "report/index.html"


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
    pictures: Pictures,
    bad_tiles: Collection[BadTile] = (),
) -> tuple[Summary, tuple[KeyRecord, ...]]:
    """Write the page and the summary.

    Parameters
    ----------
    stats
        Of the whole slide (`ShardStats.merge`).
    facts
        What is known of the run; clocks and hosts go into the report and nowhere else.
    pictures
        As `draw_pictures` made them.
    bad_tiles
        Tiles of the slide that were taken as glass.

    Returns
    -------
    tuple
        The summary, and a record of each key written.
    """
    cautions = check_all(plan, stats, facts.stages, pictures.focus, bad_tiles)
    summary = summarise(plan, stats, facts, cautions)
    page = render(summary, pictures, boxes(plan, pictures.fields))
    return summary, (store.put(SUMMARY_KEY, summary_json(summary)), store.put(PAGE_KEY, page.encode()))


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


def render(summary: Summary, pictures: Pictures, boxes: Sequence[Box]) -> str:
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
        pictures=pictures,
        boxes=boxes,
        region_um=REGION_PX * summary.mpp.x,
        legend=Markup(svg.legend(figures.colours().tolist(), pictures.top)),
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

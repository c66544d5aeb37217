"""Diagrams as inline SVG. Every text in them is a number or a name of ours; the page escapes nothing here.

They scale with the page; widths are chosen so that text stays readable on a telephone.
"""

from collections.abc import Sequence
from html import escape

import numpy as np

from microtome.report.density import round_up, ticks
from microtome.report.summary import Histogram, StageSummary

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 30, 40
BARS = 50


def histogram(found: Histogram, unit: str, digits: int, end: float | None = None) -> str:
    """Bars, and the quartiles as lines with their values."""
    counts, stop = _rebinned(found, end)
    plot_w, plot_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = stop - found.start

    def x(value: float) -> float:
        return LEFT + plot_w * (value - found.start) / span

    step = plot_w / len(counts)
    most = max(1, max(counts))
    bars = "".join(
        f'<rect x="{LEFT + i * step + 0.5:.1f}" y="{TOP + plot_h * (1 - count / most):.1f}" '
        f'width="{step - 1:.1f}" height="{plot_h * count / most:.1f}"/>'
        for i, count in enumerate(counts)
    )
    base = TOP + plot_h
    labels = "".join(
        f'<text x="{LEFT + plot_w * i / 4:.0f}" y="{base + 17}" text-anchor="{anchor}">'
        f"{found.start + span * i / 4:,.{digits}f}</text>"
        for i, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    lines = "".join(
        f'<line class="{"median" if name == "median" else "quartile"}" x1="{x(value):.1f}" y1="{TOP - 6}" '
        f'x2="{x(value):.1f}" y2="{base}"/>'
        for name, value in _quartiles(found)
        if value <= stop
    )
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Histogram, {unit}">'
        f'<g class="bars">{bars}</g>{lines}'
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}"/>{labels}'
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{unit}</text></svg>'
    )


def _quartiles(found: Histogram) -> tuple[tuple[str, float], ...]:
    quartiles = found.quartiles
    if quartiles is None:
        return ()
    return (("lower", quartiles.p25), ("median", quartiles.p50), ("upper", quartiles.p75))


def _rebinned(found: Histogram, end: float | None) -> tuple[list[int], float]:
    """At most BARS bars up to `end`, or to where 995 in 1,000 values lie below; the last takes the rest."""
    counts = np.array(found.counts, np.int64)
    if end is None:
        below = np.cumsum(counts)
        index = int(np.searchsorted(below, 0.995 * below[-1])) + 1 if below[-1] else len(counts)
        end = round_up(found.start + index * found.bin_width)
    used = max(1, min(len(counts), round((end - found.start) / found.bin_width)))
    width = -(-used // BARS)
    bars = -(-used // width)
    shown = np.zeros(bars * width, np.int64)
    shown[:used] = counts[:used]
    binned = shown.reshape(bars, width).sum(1)
    binned[-1] += counts[used:].sum()
    return binned.tolist(), found.start + bars * width * found.bin_width


def stage_bars(stages: Sequence[StageSummary]) -> str:
    """One bar a stage, by seconds."""
    longest = max((stage.wall_s for stage in stages), default=0) or 1
    row, name_w, value_w = 26, 70, 62
    bar_w = WIDTH - name_w - value_w
    rows = ""
    for i, stage in enumerate(stages):
        length, y = max(1, bar_w * stage.wall_s / longest), i * row
        rows += (
            f'<text x="0" y="{y + 17}">{escape(stage.stage)}</text>'
            f'<rect x="{name_w}" y="{y + 5}" width="{length:.1f}" height="16"/>'
            f'<text x="{name_w + length + 6:.1f}" y="{y + 17}">{stage.wall_s:,.1f} s</text>'
        )
    height = len(stages) * row + 2
    return (
        f'<svg class="chart stages" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Seconds of each stage"><g class="bars">{rows}</g></svg>'
    )


def legend(colours: Sequence[Sequence[int]], top: float) -> str:
    """The scale of densities."""
    shown = [",".join(str(int(part)) for part in colours[round(step * 255 / 8)]) for step in range(9)]
    stops = "".join(f'<stop offset="{i / 8:.3f}" stop-color="rgb({rgb})"/>' for i, rgb in enumerate(shown))
    anchors = ("start", "middle", "middle", "middle", "end")
    values = "".join(
        f'<text x="{i * 90}" y="52" text-anchor="{anchors[i]}">{value:,.0f}</text>'
        for i, value in enumerate(ticks(top))
    )
    return (
        '<svg class="legend" viewBox="0 0 360 58" role="img" aria-label="Scale of densities">'
        f'<defs><linearGradient id="scale">{stops}</linearGradient></defs>'
        '<text x="0" y="13">nuclei per mm² of tissue</text>'
        f'<rect x="0" y="20" width="360" height="16" fill="url(#scale)" stroke="#1a1a1a"/>{values}</svg>'
    )

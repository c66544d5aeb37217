"""The result in Prefect: a page with the numbers that matter, and the same as figures for Prometheus."""

import re

from prefect.artifacts import create_markdown_artifact

from microtome.report.summary import Summary
from microtome.stages.run import Run
from tasks.figures import of_result, write_figures


def show_summary(run: Run, summary: Summary) -> None:
    """A markdown artifact, under one key a slide, so its runs can be compared; and the run's figures."""
    slide = run.plan.slide.name
    create_markdown_artifact(
        markdown(run, summary),
        key="slide-" + re.sub(r"[^a-z0-9]+", "-", slide.lower()).strip("-"),
        description=f"{slide}: {summary.nuclei:,} nuclei",
    )
    write_figures(of_result(run, summary))


def markdown(run: Run, summary: Summary) -> str:
    plan, uri = run.plan, run.store.uri
    return "\n".join(
        [
            f"## {plan.slide.name}",
            "",
            f"[![overview]({uri}/report/overview.png)]({uri}/report/index.html)",
            "",
            "| | |",
            "|---|---|",
            f"| nuclei | {summary.nuclei:,} |",
            f"| density | {summary.nuclei_per_mm2:,.0f} per mm² of tissue |",
            f"| tissue | {summary.tissue_mm2:,.2f} mm² |",
            f"| speed | {summary.tissue_mp_s:.1f} tissue MP/s |",
            f"| model | {plan.model.name} {plan.model.version}, {plan.model.precision} |",
            f"| pixels | {plan.pixels_in_words} |",
            f"| result | `{uri}` |",
            f"| plan | `{plan.fingerprint[:12]}` |",
            "",
            "For research, not for diagnosis.",
        ]
    )

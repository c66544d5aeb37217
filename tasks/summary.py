"""The result as a page in Prefect: the numbers that matter and where the result lies."""

import re

from prefect.artifacts import create_markdown_artifact

from microtome.report.summary import Summary
from microtome.stages.run import Run


def show_summary(run: Run, summary: Summary) -> None:
    """A markdown artifact of the flow run; under one key a slide, so its runs can be compared."""
    slide = run.plan.slide.name
    create_markdown_artifact(
        markdown(run, summary),
        key="slide-" + re.sub(r"[^a-z0-9]+", "-", slide.lower()).strip("-"),
        description=f"{slide}: {summary.nuclei:,} nuclei",
    )


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
            f"| result | `{uri}` |",
            f"| plan | `{plan.fingerprint[:12]}` |",
            "",
            "For research, not for diagnosis.",
        ]
    )

"""What is known of a run in numbers, as labels of its flow run in Prefect.

The process of a run is gone before anything could scrape it. Its flow run stays, so the figures are
written there, and `deployments/exporter.py` shows them to Prometheus.
"""

import time

import httpx
from prefect import get_client
from prefect.runtime import flow_run

from microtome.plan import Plan
from microtome.report.summary import Summary
from microtome.stages.run import Run
from tasks.labels import CPU, PREFIX, SECONDS

type Figure = str | int | float

AGAIN_AFTER_S = (0.05, 0.1, 0.2, 0.4, 0.8)
UNAVAILABLE = 503


def of_plan(plan: Plan) -> dict[str, Figure]:
    """What a run is told apart by, known before its first stage."""
    return {
        "model": plan.model.name,
        "model_version": plan.model.version,
        "precision": plan.model.precision,
    }


def of_result(run: Run, summary: Summary) -> dict[str, Figure]:
    """The figures of a finished result: px, mm2, um2, seconds, core-seconds."""
    figures: dict[str, Figure] = {
        "result": run.store.uri,
        "made_at": summary.made_at.isoformat(),
        "microtome_version": summary.microtome_version,
        "nuclei": summary.nuclei,
        "tissue_mm2": summary.tissue_mm2,
        "nuclei_per_mm2": summary.nuclei_per_mm2,
        "tissue_pixels": run.plan.tissue.area_px,
        "seconds": summary.wall_s,
    }
    if summary.median_area_um2 is not None:
        figures["median_area_um2"] = summary.median_area_um2
    for stage in summary.stages:
        figures[f"{CPU}{stage.stage}"] = stage.cpu_s
        figures[f"{SECONDS}{stage.stage}"] = stage.wall_s
    return figures


def write_figures(figures: dict[str, Figure]) -> None:
    """Add them to the labels of the flow run that is going on."""
    labels = {f"{PREFIX}{name}": figure for name, figure in figures.items()}
    hasty = {"event_hooks": {"response": [raise_if_unavailable]}}
    for wait_s in AGAIN_AFTER_S:
        try:
            with get_client(sync_client=True, httpx_settings=hasty) as client:
                client.update_flow_run_labels(flow_run.id, labels)
            return
        except httpx.HTTPStatusError as error:
            if error.response.status_code != UNAVAILABLE:
                raise
        time.sleep(wait_s)
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(flow_run.id, labels)


def raise_if_unavailable(response: httpx.Response) -> None:
    """Before Prefect's client waits, which is two seconds the first time.

    On SQLite its server answers 503 at once if anybody has written between its look at the labels and its
    change of them. At the end of a stage, when the stage's events are written, that is one time in two.
    """
    if response.status_code == UNAVAILABLE:
        response.raise_for_status()

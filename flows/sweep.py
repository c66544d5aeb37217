"""What no notification told of: every slide of the sources that has no finished result gets a run.

Notifications may be lost, and folders may be filled while nobody watches. The nightly sweep makes
that not matter.
"""

import os
from datetime import UTC, datetime

from prefect import flow, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from microtome.inbox import Inbox, SlideVersion, slides_in
from microtome.store import is_published

UNDER_WAY = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
DEPLOYMENT = "segment-slide/on-upload"
PAGE = 200


@flow(name="sweep")
def sweep(deployment: str = DEPLOYMENT, rested_s: float = 600.0) -> int:
    """Start a run for every slide of the sources that has neither a result nor a run under way.

    Args:
        deployment: The deployment that segments them.
        rested_s: Local slides that changed in the last so many seconds are left for the next time.
    """
    inbox, logger = Inbox.of(os.environ), get_run_logger()
    busy, started, seen = versions_under_way(), 0, 0
    for source in inbox.sources:
        for slide in slides_in(inbox, source):
            seen += 1
            if str(slide.id) in busy or is_new(slide, rested_s):
                continue
            if not is_published(slide.uri, inbox.output_of(slide)):
                start(slide, inbox, deployment)
                started += 1
    logger.info(f"{seen:,} slides in {len(inbox.sources)} sources; {started:,} runs started")
    return started


def is_new(slide: SlideVersion, rested_s: float) -> bool:
    """Whether a local slide may still be being written. S3 shows whole objects only."""
    if slide.uri.startswith("s3://"):
        return False
    newest_ns = int(slide.stamp.split()[1])
    return datetime.now(UTC).timestamp() - newest_ns / 1e9 < rested_s


def start(slide: SlideVersion, inbox: Inbox, deployment: str) -> None:
    """A run of one version; a request that is sent again makes no second one."""
    run_deployment(
        deployment,
        parameters={"slide": slide.uri, "output": inbox.output_of(slide), "version": str(slide.id)},
        timeout=0,
        as_subflow=False,
        tags=["nightly"],
        idempotency_key=f"{flow_run.id}-{slide.id}",
    )


def versions_under_way() -> frozenset[str]:
    """Versions that have a run which waits or goes on."""
    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": UNDER_WAY}}})
    found: set[str] = set()
    with get_client(sync_client=True) as client:
        for page in range(0, 1_000_000, PAGE):
            runs = client.read_flow_runs(
                flow_run_filter=unfinished, limit=PAGE, offset=page, sort=FlowRunSort.ID_DESC
            )
            found |= {str(run.parameters.get("version")) for run in runs}
            if len(runs) < PAGE:
                break
    return frozenset(found)

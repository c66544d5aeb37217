"""Prefect's process worker, told of runs at once: by itself it would look for them every few seconds.

Prefect's events say that a run was made, or has ended and left its place to the next. The worker's own looks
(`PREFECT_WORKER_QUERY_SECONDS`) go on: for runs whose time has come, and for when no event comes through.
"""

import asyncio
import os
from contextlib import suppress
from typing import NoReturn

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.logging import get_logger
from prefect.utilities.processutils import setup_signal_handlers_worker
from prefect.workers.process import ProcessWorker

from deployments.lab import POOL

TELLING = ("Scheduled", "Completed", "Failed", "Crashed", "Cancelled")
"""States of a run, one of which may now begin."""
AGAIN_AFTER_S = 5.0
"""Pause before it connects again."""

logger = get_logger("worker.told")


async def listen(told: asyncio.Event) -> NoReturn:
    """Set `told` whenever a run has come into one of those states."""
    names = [f"prefect.flow-run.{state}" for state in TELLING]
    while True:
        try:
            async with get_events_subscriber(EventFilter(event=EventNameFilter(name=names))) as events:
                logger.info("told of runs by Prefect's events")
                async for _ in events:
                    told.set()
        except Exception as error:  # Prefect raises a bare one where it is refused
            logger.warning("no events for now, runs are looked for instead: %s", error)
        await asyncio.sleep(AGAIN_AFTER_S)


async def look_when(told: asyncio.Event, worker: ProcessWorker) -> NoReturn:
    """Let the worker look for runs; of many events at once, once."""
    while True:
        await told.wait()
        told.clear()
        if worker.is_setup:
            try:
                await worker.get_and_submit_flow_runs()
            except Exception as error:  # its own looks stop it where Prefect's worker would stop
                logger.warning("runs are looked for again soon: %s", error)


async def work() -> None:
    """As `prefect worker start --pool slides` does, told besides."""
    worker, told = ProcessWorker(work_pool_name=POOL), asyncio.Event()
    beside = [asyncio.create_task(listen(told)), asyncio.create_task(look_when(told, worker))]
    try:
        await worker.start()
    finally:
        for task in beside:
            task.cancel()


def main() -> None:
    """Until it is stopped, by the signals that stop Prefect's own worker."""
    setup_signal_handlers_worker(os.getpid(), "the worker", print)
    with suppress(KeyboardInterrupt):
        asyncio.run(work())


if __name__ == "__main__":
    main()

"""Old results that were never finished go: they take disk, and nobody will finish them."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prefect import flow
from prefect.logging import get_run_logger

from microtome.claim import claimed
from microtome.inbox import Inbox
from microtome.s3 import bucket_of
from microtome.store import PLAN, PUBLISHED, RESULT_SUFFIX, ResultStore

DAY_S = 86_400.0


@flow(name="clean-up")
def clean_up(older_than_days: float = 14.0, only_say: bool = False) -> list[str]:
    """Remove unfinished results below the output in which nothing was written for long.

    Args:
        older_than_days: Age of the newest key from which on a result counts as given up.
        only_say: Name them in the log, but remove nothing.
    """
    output, logger = Inbox.of(os.environ).output, get_run_logger()
    before_s = time.time() - older_than_days * DAY_S
    removed = []
    for store in results_below(output):
        if not is_given_up(store, before_s):
            continue
        with claimed(store.uri):
            # A run may have begun to finish it while we waited for the claim.
            if is_given_up(store, before_s):
                removed.append(store.uri)
                logger.info(f"{store.uri}: {'would be removed' if only_say else 'removed'}")
                if not only_say:
                    store.remove()
    return removed


def is_given_up(store: ResultStore, before_s: float) -> bool:
    """Whether this is a result of ours, unfinished, to which nothing was written since."""
    return store.exists(PLAN) and not store.is_closed(PUBLISHED) and newest_s(store.uri) < before_s


def newest_s(uri: str) -> float:
    """Unix time of the newest key of a result."""
    if uri.startswith("s3://"):
        bucket, root = bucket_of(uri)
        return max((key.modified.timestamp() for key in bucket.below(root)), default=0)
    newest = 0.0
    for folder, _, names in os.walk(uri):
        for name in names:
            with suppress(FileNotFoundError):  # a run is at work there
                newest = max(newest, (Path(folder) / name).stat().st_mtime)
    return newest


def results_below(output: str) -> Iterator[ResultStore]:
    """Every folder called NAME.ome.zarr below the output, finished or not; none inside another."""
    if output.startswith("s3://"):
        bucket, root = bucket_of(output)
        plans = (key.key for key in bucket.below(root) if key.key.endswith(f"{RESULT_SUFFIX}/{PLAN}"))
        yield from (ResultStore(f"s3://{bucket.name}/{plan.removesuffix(f'/{PLAN}')}") for plan in plans)
        return
    for folder, names, _ in os.walk(output):
        results = sorted(name for name in names if name.endswith(RESULT_SUFFIX))
        yield from (ResultStore(str(Path(folder) / name)) for name in results)
        names[:] = [name for name in names if name not in results]

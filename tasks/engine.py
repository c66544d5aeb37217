"""What every stage gets from Prefect: retries for faults that pass, and progress that people see."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from prefect import Task, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from microtome.cluster import Cluster
from microtome.errors import MicrotomeError
from microtome.records import StageReport
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard, Progress

type StageTask = Task[[Run, Cluster], StageReport]

UPDATE_EVERY_S = 1.0
"""An update is a request to the server (some 10 ms): shards of a small slide are faster than it."""

_watcher: ContextVar[OnShard | None] = ContextVar("watcher", default=None)


def may_pass(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether to try a stage again: not when the slide, the model or an option is at fault."""
    return not isinstance(state.data, MicrotomeError)


def stage_task(name: str) -> Callable[[Callable[[Run, Cluster], StageReport]], StageTask]:
    """Decorator: a stage as a Prefect task.

    A stage that failed begins where it stopped, for the manifest knows the shards that are done:
    Prefect needs neither its cache nor the task's result.
    """
    return task(
        name=name,
        retries=2,
        retry_delay_seconds=[5, 30],
        retry_condition_fn=may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@contextmanager
def watched_by(on_shard: OnShard) -> Iterator[None]:
    """Show the progress of the stages in the block elsewhere too, e.g. on a terminal."""
    token = _watcher.set(on_shard)
    try:
        yield
    finally:
        _watcher.reset(token)


def in_prefect(
    stage: Callable[[Run, Cluster, OnShard], StageReport], run: Run, cluster: Cluster
) -> StageReport:
    """The stage, with a progress artifact that moves and a line in the log at its end."""
    report = stage(run, cluster, _Artifact(run.plan.slide.name))
    get_run_logger().info(sentence(report))
    return report


def sentence(report: StageReport) -> str:
    """A stage for people: `infer: 61 shards, 38,112 nuclei, 14.2 MP/s, 72.0 s`."""
    parts = [f"{report.shards:,} shards"]
    if report.resumed_shards:
        parts[0] += f", {report.resumed_shards:,} of them from an earlier run"
    if report.nuclei:
        parts.append(f"{report.nuclei:,} nuclei")
    if report.pixels and report.wall_s and not report.resumed_shards:
        parts.append(f"{report.pixels / 1e6 / report.wall_s:,.1f} MP/s")
    return f"{report.stage}: {', '.join(parts)}, {report.wall_s:.1f} s"


class _Artifact:
    """`on_shard` of a task run: one progress artifact, moved at most once a second."""

    def __init__(self, slide: str) -> None:
        self._slide = slide
        self._id: UUID | None = None
        self._updated_s = 0.0

    def __call__(self, progress: Progress) -> None:
        if (watcher := _watcher.get()) is not None:
            watcher(progress)
        if progress.report is None and progress.done < progress.of:
            return  # all stages begin at once: a request of each would hold up the first shard
        now = time.monotonic()
        if progress.done < progress.of and now - self._updated_s < UPDATE_EVERY_S:
            return
        self._updated_s = now
        percent = 100.0 * progress.done / progress.of if progress.of else 100.0
        text = f"{progress.stage}: {progress.done:,} of {progress.of:,} shards of {self._slide}"
        if self._id is None:
            made = create_progress_artifact(percent, description=text)
            assert isinstance(made, UUID)  # a coroutine only where there is an event loop
            self._id = made
        else:
            update_progress_artifact(self._id, percent, description=text)

"""A slide in, a result out: plan, claim the result, run the stages in order."""

from dataclasses import dataclass
from enum import StrEnum

from microtome import stages
from microtome.cluster import Cluster
from microtome.errors import NotOurFolder, ResultOfAnotherPlan, SlideDamaged
from microtome.options import Options
from microtome.plan import Plan, make_plan
from microtome.report.summary import Summary, read_summary
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard
from microtome.store import ResultStore, is_published, result_uri

__all__ = ["Prepared", "State", "abandon", "finish", "is_published", "prepare", "result_uri"]


class State(StrEnum):
    """What a run found at its output."""

    NEW = "new"
    RESUMED = "resumed"
    DONE = "done already"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that may begin: the plan is in the store."""

    run: Run
    state: State


def prepare(slide_uri: str, folder: str, options: Options, *, overwrite: bool = False) -> Prepared:
    """Make the plan and claim its place in `folder`.

    Raises
    ------
    ResultOfAnotherPlan
        If a result of another plan is there and `overwrite` is false; it is left as it is.
    NotOurFolder
        If something else is there, whatever `overwrite` says.
    MicrotomeError
        If slide, model or options are not fit for a run. Nothing was written.
    """
    plan = make_plan(slide_uri, options)
    store = ResultStore(result_uri(slide_uri, folder))
    state = State.NEW
    if store.exists("plan.json"):
        there = Plan.from_json(store.get("plan.json"))
        if overwrite:
            store.delete("")
        elif there.fingerprint != plan.fingerprint:
            raise ResultOfAnotherPlan(store.uri, there.differences(plan))
        else:
            state = State.DONE if store.is_closed(stages.publish.NAME) else State.RESUMED
        if state is State.DONE:
            stages.publish.tidy(Run(plan, store))
    elif store.keys(""):
        raise NotOurFolder(store.uri)
    if state is not State.DONE:
        store.clean()
        store.put("plan.json", plan.to_json())
    return Prepared(Run(plan, store), state)


def finish(prepared: Prepared, cluster: Cluster, on_shard: OnShard) -> Summary:
    """Run every stage that is not complete.

    Raises
    ------
    SlideDamaged
        If tiles of the slide cannot be decoded; a result that this run began is removed.
    """
    run = prepared.run
    try:
        for stage in stages.ORDER:
            stage.run(run, cluster, on_shard)
    except SlideDamaged:
        abandon(prepared)
        raise
    return read_summary(run.store)


def abandon(prepared: Prepared) -> None:
    """Remove a result that this run began and that can never be finished."""
    if prepared.state is State.NEW:
        prepared.run.store.delete("")

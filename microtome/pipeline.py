"""A slide in, a result out: plan, take the result's place, run the stages in order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from pydantic import ValidationError

from microtome import stages
from microtome.claim import Claim
from microtome.cluster import Cluster
from microtome.errors import NotOurFolder, ResultOfAnotherPlan, SlideChanged, SlideDamaged
from microtome.inbox import SlideVersion, look
from microtome.options import Options
from microtome.plan import Plan, make_plan
from microtome.report.summary import Summary, read_summary
from microtome.stages.run import Run
from microtome.stages.sweep import OnShard
from microtome.store import PLAN, ResultStore, is_published, result_uri

__all__ = ["Prepared", "State", "finish", "guarded", "is_published", "prepare", "result_uri", "state_of"]


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


def prepare(
    slide_uri: str, folder: str, options: Options, *, overwrite: bool = False, claim: Claim | None = None
) -> Prepared:
    """Make the plan and put it in its place in `folder`, which `claim` is for.

    What an interrupted run of the same plan has left is kept, whatever `overwrite` says.

    Raises
    ------
    ResultOfAnotherPlan
        If a result of another plan is there and `overwrite` is false; it is left as it is.
    NotOurFolder
        If something else is there, whatever `overwrite` says.
    MicrotomeError
        If slide, model or options are not fit for a run. Nothing was written.
    """
    best = make_plan(slide_uri, options)
    store = ResultStore(result_uri(slide_uri, folder))
    plan = _as_begun(best, store)
    try:
        state = state_of(store, plan)
    except ResultOfAnotherPlan:
        if not overwrite:
            raise
        state = State.DONE  # and to be replaced like one of this plan
    if state is State.DONE and overwrite:
        store.remove()
        state, plan = State.NEW, best
    run = Run(plan, store, claim=claim or Claim(), version=_version(plan.slide.uri))
    if state is State.DONE:
        stages.publish.tidy(run)
    else:
        store.reopen_stage(stages.publish.NAME, ())
        store.clean()
        store.put(PLAN, plan.to_json())
    return Prepared(run, state)


def _as_begun(plan: Plan, store: ResultStore) -> Plan:
    """The plan with the engine of the result that is there: another CPU would choose another one, or has."""
    there = _plan_in(store) if store.exists(PLAN) else None
    return plan.computed_by(there.model.engine) if there else plan


def state_of(store: ResultStore, plan: Plan) -> State:
    """What a run of the plan finds there; RESUMED also where a finished result has lost files.

    Raises
    ------
    ResultOfAnotherPlan
        If a result of another plan is there.
    NotOurFolder
        If something else is.
    """
    if not store.exists(PLAN):
        if store.keys():
            raise NotOurFolder(store.uri)
        return State.NEW
    there = _plan_in(store)
    if there is None:
        raise ResultOfAnotherPlan(store.uri, "its plan.json cannot be read")
    if there.fingerprint != plan.fingerprint:
        raise ResultOfAnotherPlan(store.uri, there.differences(plan))
    is_done = store.is_closed(stages.publish.NAME) and stages.publish.is_whole(store)
    return State.DONE if is_done else State.RESUMED


def _plan_in(store: ResultStore) -> Plan | None:
    """The plan of the result that is there; None where it cannot be read: of another version, or damaged."""
    try:
        return Plan.from_json(store.get(PLAN))
    except ValidationError:
        return None


def finish(prepared: Prepared, cluster: Cluster, on_shard: OnShard) -> Summary:
    """Run every stage that is not complete.

    Raises
    ------
    ClaimLost, SlideChanged, SlideDamaged
        As `guarded` says.
    """
    run = prepared.run
    with guarded(prepared):
        cluster.at_once([partial(stage.run, run, cluster, on_shard) for stage in stages.STAGES])
    return read_summary(run.store)


@contextmanager
def guarded(prepared: Prepared) -> Iterator[None]:
    """A block that runs the stages: it leaves no result of a slide that is not as it was.

    Raises
    ------
    ClaimLost
        If another run has taken the result over; it is left as it is.
    SlideChanged
        If the slide was replaced meanwhile. Nothing is published, the result is removed.
    SlideDamaged
        If tiles of the slide cannot be decoded; a result that this run began is removed.
    """
    store = prepared.run.store
    prepared.run.claim.check(store.uri)
    try:
        yield
    except SlideChanged:
        store.remove()
        raise
    except SlideDamaged:
        if prepared.state is State.NEW:
            store.remove()
        raise


def _version(uri: str) -> SlideVersion | None:
    if "://" in uri and not uri.startswith("s3://"):
        return None
    return look(uri)

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

__all__ = ["Prepared", "State", "finish", "is_published", "prepare", "result_uri", "state_of", "steps_of"]


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
    version: SlideVersion | None = None
    """The slide's, before anything of it was computed; None where only its header can tell."""


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
    run = Run(plan, store, claim=claim or Claim())
    if state is State.DONE:
        stages.publish.tidy(run)
    else:
        store.reopen_stage(stages.publish.NAME, ())
        store.clean()
        store.put(PLAN, plan.to_json())
    return Prepared(run, state, _version(plan.slide.uri))


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
        As `steps_of` says.
    """
    with steps_of(prepared) as steps:
        for step in steps:
            cluster.at_once([partial(stage.run, prepared.run, cluster, on_shard) for stage in step])
    return read_summary(prepared.run.store)


@contextmanager
def steps_of(prepared: Prepared) -> Iterator[Iterator[tuple[stages.Stage, ...]]]:
    """The steps in their order, for a block that runs each: what must hold is checked before it gets one.

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
    try:
        yield _checked(prepared)
    except SlideChanged:
        store.remove()
        raise
    except SlideDamaged:
        if prepared.state is State.NEW:
            store.remove()
        raise


def _checked(prepared: Prepared) -> Iterator[tuple[stages.Stage, ...]]:
    slide_uri = prepared.run.plan.slide.uri
    for step in stages.STEPS:
        prepared.run.claim.check(prepared.run.store.uri)
        # By now every shard was computed; `publish` itself looks at the slide's header.
        if stages.publish in step and _version(slide_uri) != prepared.version:
            raise SlideChanged(slide_uri)
        yield step


def _version(uri: str) -> SlideVersion | None:
    if "://" in uri and not uri.startswith("s3://"):
        return None
    return look(uri)

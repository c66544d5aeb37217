"""Slides in a row on one cluster, as the command line runs them: shown, summed up, none stops the others."""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from microtome.claim import claimed
from microtome.cluster import Cluster, ClusterSpec, connect
from microtome.console import ProgressView
from microtome.copying import CANNOT
from microtome.errors import MicrotomeError, SameResult
from microtome.options import Options
from microtome.pipeline import Prepared, State, finish, is_published, prepare, result_uri
from microtome.report.summary import Summary, read_summary, summary_json

DONE, FAILED, USERS_MISTAKE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one slide."""

    uri: str
    state: str
    seconds: float
    summary: Summary | None
    result: str = ""
    exit_code: int = DONE


class _Shared:
    """The cluster of a batch: started in the background, while the first plan is made."""

    def __init__(self, spec: ClusterSpec, stack: ExitStack) -> None:
        self._spec, self._stack = spec, stack
        self._starter = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="cluster"))
        self._cluster: Future[Cluster] | None = None

    def begin(self) -> Future[Cluster]:
        if self._cluster is None:
            self._cluster = self._starter.submit(self._stack.enter_context, connect(self._spec))
        return self._cluster

    def get(self) -> Cluster:
        return self.begin().result()


def segment_slides(
    slides: Sequence[str],
    folder: str,
    options: Options,
    spec: ClusterSpec,
    *,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Segment each slide; returns the exit code.

    0 when every slide has its result, 1 when one failed for a fault of ours, else 2.
    """
    outcomes = []
    with ExitStack() as stack:
        shared = _Shared(spec, stack)
        taken: dict[str, str] = {}
        for slide in slides:
            outcomes.append(_segment_one(slide, folder, options, shared, overwrite, taken))
    if as_json:
        summaries = [json.loads(summary_json(o.summary)) for o in outcomes if o.summary is not None]
        if summaries or len(slides) > 1:
            print(json.dumps(summaries if len(slides) > 1 else summaries[0], indent=1))
    elif len(slides) > 1:
        _print_table(outcomes)
    codes = {outcome.exit_code for outcome in outcomes}
    return next((code for code in (FAILED, USERS_MISTAKE) if code in codes), DONE)


def _segment_one(
    slide: str, folder: str, options: Options, shared: _Shared, overwrite: bool, taken: dict[str, str]
) -> Outcome:
    """`taken` holds the results of the slides before it, and whose they are."""
    began = time.perf_counter()
    try:
        uri = result_uri(slide, folder)
        if taken.setdefault(uri, slide) != slide:
            raise SameResult(slide, taken[uri], uri)
        if overwrite or not is_published(slide, folder):
            shared.begin()
        with claimed(uri, lambda: _say_waiting(slide)) as claim:
            prepared = prepare(slide, folder, options, overwrite=overwrite, claim=claim)
            with ProgressView() as view:
                summary = _run(prepared, shared, view)
    except MicrotomeError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return Outcome(slide, "refused", time.perf_counter() - began, None, exit_code=USERS_MISTAKE)
    except Exception:
        # One slide's fault of ours must not stop the rest of a night's work.
        _print_exception()
        print(f"error: {slide} failed; this is a fault of microtome's, please report it", file=sys.stderr)
        return Outcome(slide, "failed", time.perf_counter() - began, None, exit_code=FAILED)
    state = "done" if prepared.state is not State.DONE else State.DONE
    return Outcome(slide, state, time.perf_counter() - began, summary, prepared.run.store.uri)


def _say_waiting(slide: str) -> None:
    print(f"{slide}: another run is making this result; waiting for its end", file=sys.stderr, flush=True)


def _run(prepared: Prepared, shared: _Shared, view: ProgressView) -> Summary:
    plan, uri = prepared.run.plan, prepared.run.store.uri
    if prepared.state is State.DONE:
        summary = read_summary(prepared.run.store)
        view.line(f"{plan.slide.name}: done already, {summary.nuclei:,} nuclei; again with --overwrite")
    else:
        with_tissue = len(prepared.run.shards_with_tissue())
        share = plan.tissue.area_px / (plan.height_px * plan.width_px)
        view.line(
            f"{plan.slide.name}: {plan.width_px:,} x {plan.height_px:,} px at {plan.slide.mpp.x:.4g} um/px; "
            f"{with_tissue} of {len(plan.grid)} shards have tissue ({share:.0%} of the slide); "
            f"{plan.model.name} {plan.model.version} in {plan.model.precision}"
            + (", resumed" if prepared.state is State.RESUMED else "")
        )
        if plan.copied is not None or plan.pixels == "none" or plan.why_pixels.startswith(CANNOT):
            view.line(f"pixels  {plan.pixels_in_words}")
        summary = finish(prepared, shared.get(), view)
        view.line(
            f"{summary.nuclei:,} nuclei, {summary.nuclei_per_mm2:,.0f} per mm2 of tissue "
            f"({summary.tissue_mm2:.4g} mm2)"
        )
    view.line(f"result  {uri}\nreport  {uri}/report/index.html")
    return summary


# What only a terminal shows, or a run at its end, is imported there.


def _print_exception() -> None:
    from rich.console import Console

    Console(stderr=True).print_exception()


def _print_table(outcomes: Sequence[Outcome]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="", pad_edge=False)
    for column in ("slide", "nuclei", "tissue mm2", "time s", "MP/s", "state"):
        table.add_column(column, justify="left" if column in ("slide", "state") else "right")
    for outcome in outcomes:
        summary = outcome.summary
        numbers = (
            (
                f"{summary.nuclei:,}",
                f"{summary.tissue_mm2:.1f}",
                f"{outcome.seconds:.1f}",
                f"{summary.tissue_mp_s:.1f}",
            )
            if summary is not None
            else ("", "", f"{outcome.seconds:.1f}", "")
        )
        table.add_row(outcome.uri.rsplit("/", 1)[-1], *numbers, outcome.state)
    Console(soft_wrap=True).print(table, markup=False)

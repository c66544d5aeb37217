"""What the exporter shows of runs that Prefect knows."""

import prometheus_client
import pytest

from deployments.exporter import Links, RunFigures
from deployments.runs import FlowRun, Seen

FIGURES = {
    "microtome.model": "he-nuclei",
    "microtome.precision": "int8",
    "microtome.result": "s3://results/a/S-001 (2).ome.zarr",
    "microtome.made_at": "2026-11-21T10:00:00+00:00",
    "microtome.nuclei": 6_980,
    "microtome.cpu_s.infer": 11.7,
    "prefect.flow.id": "not of ours",
}
LINKS = Links("http://prefect/{}".format, "s3://results", "https://results.example.org/")


def flow_run(number: int, labels=FIGURES, **more) -> FlowRun:
    known = {
        "id": str(number),
        "state": "Completed",
        "is_running": False,
        "slide": "s3://slides/in/S-001 (2).svs",
        "deployment": "on-upload",
        "labels": labels,
        "due_at": 90.0,
        "started_at": 100.0,
        "ended_at": 130.0 + number,
        "seconds": 30.0,
    }
    return FlowRun(**(known | more))


def shown(*, ended=(), under_way=(), heartbeats=None):
    """The registry that the exporter would show."""
    figures = RunFigures(LINKS)
    figures.seen = Seen(
        ended=tuple(ended),
        under_way=tuple(under_way),
        heartbeats=heartbeats or {},
        pools={"slides": 120.0},
        deployments=frozenset({"on-upload", "nightly"}),
    )
    registry = prometheus_client.CollectorRegistry()
    registry.register(figures)
    return registry


def series(registry, name):
    return [sample for metric in registry.collect() for sample in metric.samples if sample.name == name]


def test_a_result_is_counted_once_however_many_runs_found_it_done():
    registry = shown(ended=[flow_run(3), flow_run(2), flow_run(1)])
    (nuclei,) = series(registry, "microtome_slide_nuclei")
    assert (nuclei.value, nuclei.labels["run"]) == (6_980, "1")
    assert len(series(registry, "microtome_run_end_timestamp_seconds")) == 3


def test_a_result_that_was_made_again_is_another_one():
    again = flow_run(2, FIGURES | {"microtome.made_at": "2026-11-22T10:00:00+00:00"})
    assert len(series(shown(ended=[again, flow_run(1)]), "microtome_slide_nuclei")) == 2


def test_figures_carry_slide_model_precision_and_links_to_the_run_and_the_report():
    registry = shown(ended=[flow_run(1)])
    (info,) = series(registry, "microtome_slide_info")
    assert info.labels["slide"] == "S-001 (2).svs"
    assert (info.labels["model"], info.labels["precision"]) == ("he-nuclei", "int8")
    assert info.labels["page"] == "http://prefect/1"
    report = "https://results.example.org/a/S-001%20%282%29.ome.zarr/report/index.html"
    assert info.labels["report"] == report
    (cost,) = series(registry, "microtome_slide_cpu_seconds")
    assert (cost.labels["stage"], cost.value) == ("infer", 11.7)


@pytest.mark.parametrize("result", ["/data/a.ome.zarr", "s3://results-of-others/a.ome.zarr"])
def test_a_report_that_nobody_serves_is_named_by_where_it_lies(result):
    assert LINKS.report(result) == f"{result}/report/index.html"


def test_a_run_that_failed_before_its_plan_has_an_end_and_no_figures():
    registry = shown(ended=[flow_run(1, {}, state="Failed")])
    (ended,) = series(registry, "microtome_run_end_timestamp_seconds")
    assert (ended.labels["state"], ended.labels["model"]) == ("Failed", "")
    assert not series(registry, "microtome_slide_info")


def test_a_run_that_never_started_shows_no_seconds():
    registry = shown(ended=[flow_run(1, {}, state="Cancelled", started_at=None, seconds=0.0)])
    assert series(registry, "microtome_run_end_timestamp_seconds")
    assert not series(registry, "microtome_run_seconds")
    assert not series(registry, "microtome_run_wait_seconds")


def test_states_that_no_run_is_in_are_shown_as_zero():
    waiting = flow_run(1, {}, state="Late", started_at=None, ended_at=None)
    runs = series(shown(under_way=[waiting]), "microtome_runs")
    counted = {(run.labels["deployment"], run.labels["state"]): run.value for run in runs}
    assert counted["on-upload", "Late"] == 1
    assert counted["nightly", "Running"] == 0


def test_a_running_run_shows_its_heartbeat_once_it_had_one():
    running = [flow_run(n, state="Running", is_running=True, ended_at=None) for n in (1, 2)]
    (heartbeat,) = series(
        shown(under_way=running, heartbeats={"1": 125.0}), "microtome_run_heartbeat_timestamp_seconds"
    )
    assert (heartbeat.labels["run"], heartbeat.value) == ("1", 125.0)

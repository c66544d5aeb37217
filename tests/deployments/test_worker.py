"""Prefect's worker, which is told of runs and looks for them besides, on a real installation."""

import signal

import pytest

from deployments import lab as installation
from tests.deployments.labs import OF_AN_INSTALLATION, Api, lab_in
from tests.waiting import until

pytestmark = OF_AN_INSTALLATION

HARDLY_EVER_S, OFTEN_S = "3600", "1"
TOLD = "told of runs by"
SWEEP = "sweep/nightly"
"""The shortest of runs: there is no slide yet."""


@pytest.fixture(scope="module")
def told_lab(shared_data, tmp_path_factory):
    """Whose worker looks for runs when it starts and an hour later."""
    folder = tmp_path_factory.mktemp("told")
    with lab_in(folder, shared_data, PREFECT_WORKER_QUERY_SECONDS=HARDLY_EVER_S) as (lab, _):
        yield lab


def state_of(api, run_id):
    """Of a run that has ended, with what it says of it."""
    state = api.ended(run_id)["state"]
    return state["type"], state["message"]


def has_run(api):
    """Whether a new run comes to its end."""
    state, message = state_of(api, api.start(SWEEP))
    assert state == "COMPLETED", message
    return True


def log_of(lab):
    return (lab.state / "logs" / "worker.log").read_text()


def test_a_run_begins_though_the_worker_does_not_look_for_it(told_lab):
    api = Api(told_lab)
    assert has_run(api)
    assert has_run(api)


def test_a_run_that_waits_for_its_turn_begins_when_the_one_before_it_has_ended(told_lab, shared_data):
    slide = str(shared_data / "slides" / "CMU-1-Small-Region.svs")
    api = Api(told_lab)
    ids = [
        api.start("segment-slide/on-demand", slide=slide, output=str(told_lab.state / str(number)))
        for number in range(2)
    ]
    assert [state_of(api, run_id)[0] for run_id in ids] == ["COMPLETED"] * 2
    first, second = sorted((api.run(run_id) for run_id in ids), key=lambda run: run["start_time"])
    assert first["end_time"] <= second["start_time"]


def test_the_worker_is_told_again_after_the_server_was_away(told_lab):
    installation.stop(installation.running(told_lab, "server"))
    until(lambda: log_of(told_lab).count("no events for now") > 0, 60, "the worker's word of it")
    before = log_of(told_lab).count(TOLD)
    installation.start(told_lab, "server")
    until(lambda: log_of(told_lab).count(TOLD) > before, 60, "its connection")
    assert has_run(Api(told_lab))


def test_runs_that_no_event_tells_of_are_looked_for(shared_data, tmp_path):
    deaf = {"PREFECT_SERVER_EVENTS_STREAM_OUT_ENABLED": "false", "PREFECT_WORKER_QUERY_SECONDS": OFTEN_S}
    with lab_in(tmp_path, shared_data, **deaf) as (lab, _):
        api = Api(lab)
        assert has_run(api)  # its first look may have found it
        assert has_run(api)


def test_a_worker_that_is_stopped_says_so_and_leaves_no_error(shared_data, tmp_path):
    with lab_in(tmp_path, shared_data) as (lab, _):
        pid = installation.running(lab, "worker")
        until(lambda: "started!" in log_of(lab), 60, "the worker")
        installation.stop(pid)
        assert "Traceback" not in log_of(lab)
        assert signal.Signals.SIGTERM.name in log_of(lab)

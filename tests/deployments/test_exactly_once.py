"""Doubled, lost, killed, started anew or cancelled: one result a slide, and nothing is computed twice."""

import os
import random
import shutil
import signal
import time
from dataclasses import replace

import psutil
import pytest
from distributed import Client

from deployments import lab as installation
from microtome.model import default_model
from microtome.records import ShardReport
from microtome.store import ResultStore
from microtome.submit import FINAL
from microtome.testing import verify_result
from tests.deployments.labs import (
    OF_AN_INSTALLATION,
    TOKEN,
    Api,
    Notices,
    lab_in,
    notice_of,
    quoted,
    send,
)
from tests.deployments.test_notifications import record
from tests.s3 import asked_by_this_process
from tests.waiting import until

pytestmark = OF_AN_INSTALLATION

SLIDES = 6
NOTIFICATIONS = 100
KILLED_AT = (20, 90, 150)
EVERY_MINUTE = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True}
PAUSED = EVERY_MINUTE | {"active": False}
SILENT_S, SILENT_IN_THE_FIELD_S = 50, 120
"""A run that was not heard of for so long has died; a heartbeat comes every 30 s."""


@pytest.fixture(scope="module")
def notices():
    receiver = Notices()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def up(shared_data, notices, tmp_path_factory):
    """(lab, its S3 server); no sweep makes runs."""
    state = tmp_path_factory.mktemp("up")
    told = {
        "MICROTOME_WORKERS": "2",
        "MICROTOME_NOTICE_URL": notices.url,
        "MICROTOME_PREFECT_RESULTS": "s3://prefect/results",
        "MICROTOME_CACHE": str(state / "cache"),
    }
    with lab_in(state, shared_data, **told) as (lab, s3):
        schedule(Api(lab), "sweep/nightly", PAUSED)
        yield lab, s3


@pytest.fixture
def api(up):
    return Api(up[0])


@pytest.fixture
def buckets(up):
    """This process reads the lab's buckets."""
    with asked_by_this_process(up[1]):
        yield


def schedule(api, deployment, changed):
    found = api.deployment(deployment)
    (scheduled,) = found["schedules"]
    api.request("PATCH", f"/deployments/{found['id']}/schedules/{scheduled['id']}", changed)


def set_patience(api, seconds):
    """How long a run may be silent before it counts as dead."""
    found = api.request("POST", "/automations/filter", {})
    (died,) = (one for one in found if one["name"] == "microtome run died")
    died["trigger"]["within"] = seconds
    told = ("name", "description", "enabled", "trigger", "actions")
    api.request("PUT", f"/automations/{died['id']}", {name: died[name] for name in told})


def set_limit(api, runs):
    """So many slides at once: of the queue and of the deployment."""
    api.request("PATCH", "/work_pools/slides/queues/segment", {"concurrency_limit": runs})
    made = api.deployment("segment-slide/on-upload")["id"]
    api.request("PATCH", f"/deployments/{made}", {"concurrency_limit": runs})


def kill(lab, service):
    """The service and all that it has started: nobody gets to tidy up."""
    process = psutil.Process(installation.running(lab, service))
    for one in [*process.children(recursive=True), process]:
        one.kill()
    process.wait(30)


def result_of(run):
    name = run["parameters"]["slide"].rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{run['parameters']['output']}/{name}.ome.zarr"


def computed(uri, sweep="infer") -> dict[int, ShardReport]:
    return ResultStore(uri).recorded(sweep)


def test_a_hundred_notifications_of_a_few_slides_make_a_run_a_slide(up, api, slides, buckets):
    lab, s3 = up
    keys = [f"in/{number:02} of a day+%.tif" for number in range(SLIDES)]
    for number, key in enumerate(keys):
        path = s3.folder / "slides" / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(slides(number))
    rng = random.Random(7)
    told = [notification(keys[number % SLIDES], number // SLIDES) for number in range(NOTIFICATIONS)]
    sent = [body for body in told for _ in range(rng.randint(1, 3))]
    rng.shuffle(sent)
    set_limit(api, 3)
    for place, body in enumerate(sent):
        if place in KILLED_AT:
            os.killpg(installation.running(lab, "intake"), signal.SIGKILL)
            assert not send(lab, body)
            installation.start(lab, "intake")
        until(lambda body=body: send(lab, body), 60, "the intake, started again")

    def all_ended():
        runs = api.runs("on-upload")
        return len(runs) >= SLIDES and all(run["state"]["type"] in FINAL for run in runs) and runs

    runs = until(all_ended, 400)
    set_limit(api, 1)
    assert len(sent) > NOTIFICATIONS * 1.5
    assert sorted(run["parameters"]["slide"] for run in runs) == [f"s3://slides/{key}" for key in keys]
    assert {run["state"]["type"] for run in runs} == {"COMPLETED"}
    results = {result_of(run) for run in runs}
    assert len(results) == SLIDES
    assert [verify_result(result).faults for result in results] == [()] * SLIDES


def notification(key, dialect):
    """The same news in one of five forms."""
    records = (
        record("ObjectCreated:Put", "slides", quoted(key)),
        record("s3:ObjectCreated:Put", "slides", key, size=0, eTag='"x"'),
        record("s3:ObjectCreated:CompleteMultipartUpload", "slides", quoted(key), sequencer="2"),
        record("ObjectCreated:Copy", "slides", quoted(key), sequencer="1"),
        record("ObjectCreated:Post", "slides", quoted(key)),
    )
    return notice_of(records[dialect % len(records)])


def test_a_server_that_is_killed_and_comes_back_costs_nothing(up, api, cmu_slide, tmp_path):
    lab, s3 = up
    shutil.copytree(default_model(), s3.make_bucket("models") / "he-nuclei")
    told = {"slide": str(cmu_slide), "output": str(tmp_path), "precision": "f32"}
    run = api.start("segment-slide/on-demand", **told, model="s3://models/he-nuclei")
    result = str(tmp_path / "CMU-1-Small-Region.ome.zarr")
    until(lambda: computed(result), 120, "the first nuclei")
    kill(lab, "server")
    before = computed(result)
    time.sleep(3)
    installation.start(lab, "server")
    installation.wait_for(f"{lab.pages}/api/health", lab, "server")
    assert api.ended(run)["state"]["type"] == "COMPLETED"
    after = computed(result)
    assert {shard: after[shard] for shard in before} == before
    assert len(after) > len(before)
    assert verify_result(result).faults == ()
    assert any((s3.folder / "prefect" / "results").iterdir()), "what the flow returned is kept in its bucket"


@pytest.mark.fault
def test_cancelled_then_killed_a_slide_is_resumed_and_the_next_waits_its_turn(
    up, api, cmu_slide, slides, notices, tmp_path
):
    lab, _ = up
    told = {"slide": str(cmu_slide), "output": str(tmp_path), "precision": "f32"}
    result = str(tmp_path / "CMU-1-Small-Region.ome.zarr")
    small = tmp_path / "small.tif"
    small.write_bytes(slides(90))

    first = api.start("segment-slide/on-demand", **told)
    until(lambda: api.run(first)["state"]["type"] == "RUNNING", 60)
    second = api.start("segment-slide/on-demand", slide=str(small), output=str(tmp_path))
    with Client(lab.scheduler, set_as_default=False) as dask:
        until(lambda: computed(result) and running_tasks(dask), 120, "the first nuclei")
        assert api.run(second)["state"]["type"] == "SCHEDULED", "it waits"
        cancel = {"state": {"type": "CANCELLING"}}
        api.request("POST", f"/flow_runs/{first}/set_state", cancel)
        until(lambda: not running_tasks(dask), 10, "the end of the Dask work")
    assert api.ended(first)["state"]["type"] == "CANCELLED"
    cancelled_at = computed(result)
    assert not ResultStore(result).is_closed("publish")
    assert api.ended(second)["state"]["type"] == "COMPLETED", "its turn"
    assert computed(result) == cancelled_at, "nothing went on in secret"

    set_patience(api, SILENT_S)
    third = api.start("segment-slide/on-demand", **told)
    until(lambda: computed(result) != cancelled_at, 120, "more nuclei")
    kill(lab, "worker")
    killed_at = computed(result)
    fourth = api.start("segment-slide/on-demand", **told)
    until(lambda: told_of(notices, "overdue", fourth), 120, "notice of an overdue run")
    installation.start(lab, "worker")
    assert api.ended(third)["state"]["type"] == "CRASHED"
    until(lambda: told_of(notices, "failed", third), 60, "notice of a crash")
    set_patience(api, SILENT_IN_THE_FIELD_S)
    assert api.ended(fourth)["state"]["type"] == "COMPLETED"
    after = computed(result)
    assert {shard: after[shard] for shard in killed_at} == killed_at
    assert verify_result(result).faults == ()


def running_tasks(dask):
    """What the workers' threads are busy with, cancelled or not."""
    return sum(dask.run(lambda dask_worker: len(dask_worker.state.all_running_tasks)).values())


def told_of(notices, what, run_id):
    return [text for text in notices.texts if what in text and run_id in text]


def test_a_failed_run_is_told_of_with_its_reason(up, api, notices, tmp_path):
    run = api.start("segment-slide/on-demand", slide=str(tmp_path / "nothing.svs"), output=str(tmp_path))
    assert api.ended(run)["state"]["type"] == "FAILED"
    # Mostly once: where its SQLite is busy, Prefect's server takes up an event again.
    texts = until(lambda: told_of(notices, "segment-slide failed", run), 60)
    assert all(f"{tmp_path / 'nothing.svs'}: no such file" in text for text in texts)


def test_another_address_of_notices_is_taken_over_by_the_next_start(up, api, notices, tmp_path):
    lab, other = up[0], Notices()
    try:
        installation.register(replace(lab, given={**lab.given, "MICROTOME_NOTICE_URL": other.url}))
        run = api.start("segment-slide/on-demand", slide=str(tmp_path / "no.svs"), output=str(tmp_path))
        texts = until(lambda: told_of(other, "segment-slide failed", run), 120)
        assert all(f"{tmp_path / 'no.svs'}: no such file" in text for text in texts)
        assert told_of(notices, "segment-slide failed", run) == []
    finally:
        installation.register(lab)
        other.stop()


def test_a_schedule_makes_runs_and_a_paused_one_makes_none(up, api):
    def completed():
        return [run for run in api.runs("weekly") if run["state"]["type"] == "COMPLETED"]

    # Here, for a run that is due while a test before this one kills the server is cancelled.
    schedule(api, "clean-up/weekly", EVERY_MINUTE)
    schedule(api, "sweep/nightly", PAUSED)
    ran = until(completed, 150, "a run by schedule")
    assert all(run["auto_scheduled"] for run in ran)
    assert api.runs("nightly") == []


def test_no_secret_is_in_what_was_written(up):
    lab, s3 = up
    secrets = [s3.environment["AWS_SECRET_ACCESS_KEY"].encode(), TOKEN.encode()]
    places = [lab.state, s3.folder]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"prefect.db", "server.log", "worker.log", "intake.log"}
    found = [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)]
    assert found == []

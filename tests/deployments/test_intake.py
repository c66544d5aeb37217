"""The intake on a real socket with a real store; Prefect's /events is a stand-in that can fail."""

import base64
import json

import httpx
import pytest

from microtome.inbox import look
from tests.deployments.conftest import serving
from tests.deployments.labs import TOKEN
from tests.deployments.test_notifications import ENCODED, KEY, record

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def upload(key, bucket="slides", event="s3:ObjectCreated:Put"):
    return json.dumps({"Records": [record(event, bucket, key)]}).encode()


def put(s3, key, data=b"II*\0 a slide"):
    path = s3.folder / "slides" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def post(s3, settings_for):
    """Posts to an intake for s3://slides/in: its status, and that its answer has no body."""
    with (
        serving(settings_for("s3://slides/in", output="s3://results")) as address,
        httpx.Client(base_url=address) as client,
    ):

        def send(body, headers=AUTHORIZED, path="/events"):
            answer = client.post(path, content=body, headers=headers)
            assert answer.content == b""
            return answer.status_code

        yield send


def test_an_upload_becomes_an_event_with_all_that_a_run_needs(s3, post, prefect):
    put(s3, "in/ward 7/a.svs")
    assert post(upload("in/ward 7/a.svs")) == 204
    (event,) = prefect.events
    assert event["event"] == "microtome.slide.arrived"
    payload = event["payload"]
    assert payload["slide"] == "s3://slides/in/ward 7/a.svs"
    assert payload["version"] == event["id"]
    assert payload["output"] == f"s3://results/ward 7/a.svs@{event['id'].replace('-', '')[:12]}"
    assert payload["size_bytes"] == 12


@pytest.mark.parametrize("sent", [KEY, ENCODED])
def test_the_store_decides_whether_a_key_is_encoded(s3, post, prefect, sent):
    put(s3, KEY)
    assert post(upload(sent)) == 204
    assert [event["payload"]["slide"] for event in prefect.events] == [f"s3://slides/{KEY}"]


def test_a_doubled_notification_makes_the_same_event_and_a_new_version_another(s3, post, prefect):
    put(s3, "in/a.svs")
    assert post(upload("in/a.svs")) == post(upload("in/a.svs")) == 204
    put(s3, "in/a.svs", b"II*\0 another slide")
    assert post(upload("in/a.svs")) == 204
    first, second, third = (event["id"] for event in prefect.events)
    assert first == second != third
    assert len({event["payload"]["output"] for event in prefect.events}) == 2


@pytest.mark.parametrize("key", ["in/notes.txt", "elsewhere/a.svs", "in/remote.mrxs", "in/r.ome.zarr/a.tif"])
def test_what_is_no_slide_of_ours_makes_no_event(s3, post, prefect, key):
    put(s3, key)
    assert post(upload(key)) == 204
    assert prefect.events == []


def test_an_object_that_is_gone_or_empty_makes_no_event(s3, post, prefect):
    put(s3, "in/empty.svs", b"")
    assert post(upload("in/gone.svs")) == post(upload("in/empty.svs")) == 204
    assert prefect.events == []


def test_what_prefect_did_not_take_is_to_be_sent_again(s3, post, prefect):
    put(s3, "in/a.svs")
    for prefect.status in (500, 200, 422):
        assert post(upload("in/a.svs")) == 503
    prefect.status = 204
    assert post(upload("in/a.svs")) == 204
    assert len(prefect.events) == 1


def test_what_is_wrong_with_one_record_keeps_back_no_other(s3, post, prefect, monkeypatch):
    put(s3, "in/a.svs")
    put(s3, "in/b.svs")
    good = [record("ObjectCreated:Put", "slides", key) for key in ("in/a.svs", "in/b.svs")]
    bad = [record("ObjectCreated:Put", *place) for place in (("slides", "../c"), ("foreign", "in/a.svs"))]
    assert post(json.dumps({"Records": [bad[0], good[0], bad[1]]}).encode()) == 204

    def away(uri):
        if uri.endswith("b.svs"):
            raise PermissionError(uri)
        return look(uri)

    monkeypatch.setattr("deployments.arrivals.look", away)
    assert post(json.dumps({"Records": [good[1], good[0]]}).encode()) == 503, "b.svs has to come again"
    assert [event["payload"]["slide"] for event in prefect.events] == ["s3://slides/in/a.svs"] * 2


def test_a_store_that_is_away_means_later(s3, post, prefect):
    put(s3, "in/a.svs")
    s3.stop()
    assert post(upload("in/a.svs")) == 503


def basic(password):
    return {"Authorization": "Basic " + base64.b64encode(f"vgw:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "query", "status"),
    [
        ({}, "", 401),
        ({"Authorization": "Bearer wrong"}, "", 401),
        ({"Authorization": "Bearer"}, "", 401),
        (basic("wrong"), "", 401),
        ({"Authorization": "Basic not-base64"}, "", 401),
        ({}, "?token=wrong", 401),
        ({"Authorization": "Bearer wrong"}, f"?token={TOKEN}", 401),
        ({}, f"?token={TOKEN}", 204),
        (basic(TOKEN), "", 204),
        (AUTHORIZED, "", 204),
    ],
)
def test_only_who_knows_the_token_is_heard(s3, post, headers, query, status):
    put(s3, "in/a.svs")
    assert post(upload("in/a.svs"), headers, f"/events{query}") == status


def test_junk_is_refused_and_a_good_one_still_passes(s3, post, prefect):
    put(s3, "in/a.svs")
    for _ in range(20):
        assert post(b"x" * (1 << 20) + b"x") == 413
        assert post(b"x" * 65536 for _ in range(20)) == 413  # without a Content-Length
        assert post(b"{") == 400
        assert post(upload("../a.svs")) == 400
        assert post(upload("in/a.svs", bucket="foreign")) == 403
        assert post(upload("in/a.svs"), {"Authorization": "Bearer junk"}) == 401
    assert prefect.events == []
    assert post(upload("in/a.svs")) == 204
    assert len(prefect.events) == 1


def test_it_says_how_it_is(s3, prefect, settings_for):
    with (
        serving(settings_for("s3://slides/in")) as address,
        httpx.Client(base_url=address, headers=AUTHORIZED) as client,
    ):
        assert client.get("/healthz").status_code == 204
        assert client.get("/readyz").status_code == 503, "the stand-in has no /health"
        client.post("/events", content=b"{")
        assert 'microtome_intake_refused_total{why="malformed"}' in client.get("/metrics").text

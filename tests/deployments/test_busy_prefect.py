"""What is made of Prefect's answers: 503 while its database is locked, and nothing at all.

Stand-ins: a real one is not locked at our word.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from microtome import submit
from microtome.errors import PrefectRefused, PrefectUnreachable
from microtome.submit import PrefectApi
from tasks.figures import AGAIN_AFTER_S, write_figures


@pytest.fixture
def busy(monkeypatch):
    """Answers 503 as often as told, then `{"id": 1}`; holds what was asked."""
    monkeypatch.setattr(submit, "LOOK_EVERY_S", 0.01)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            if "csrf-token" in self.path:
                return self.send_error(404)
            server.asked += 1
            self.send_response(503 if server.asked <= server.busy else 200)
            self.end_headers()
            self.wfile.write(server.says)

        def do_PATCH(self):
            server.told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked += 1
            self.send_response(503 if server.asked <= server.busy else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked, server.busy, server.says = 0, 0, b'{"id": 1}'
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def api_of(server):
    return PrefectApi({"PREFECT_API_URL": f"http://127.0.0.1:{server.server_port}/api"})


def test_a_server_that_is_busy_is_asked_again(busy):
    busy.busy = 3
    assert api_of(busy).request("GET", "/") == {"id": 1}
    assert busy.asked == 4


def test_one_that_stays_busy_is_an_error_in_the_end(busy, monkeypatch):
    monkeypatch.setattr(submit, "BUSY_S", 0.05)
    busy.busy = 10_000
    with pytest.raises(PrefectRefused, match="503"):
        api_of(busy).request("GET", "/")


@pytest.mark.parametrize("refusals", [3, 6])
def test_figures_of_a_run_do_not_wait_as_prefects_client_does(busy, monkeypatch, refusals):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid4()))
    busy.busy = refusals
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{busy.server_port}/api"}):
        write_figures({"nuclei": 7})
    assert busy.told == {"microtome.nuclei": 7}
    assert busy.asked == refusals + 1
    ours, theirs = waited[: len(AGAIN_AFTER_S)], waited[len(AGAIN_AFTER_S) :]
    assert ours == list(AGAIN_AFTER_S[:refusals])
    assert len(theirs) == refusals - len(ours), "a server that stays busy is asked for minutes"


def test_an_answer_without_content_is_none(prefect):
    assert PrefectApi({"PREFECT_API_URL": prefect.url}).request("POST", "/events", []) is None


def test_an_address_that_is_none_of_an_api_is_said(busy):
    busy.says = b"<html>the pages</html>"
    for address in ("nowhere", f"http://127.0.0.1:{busy.server_port}"):
        with pytest.raises(PrefectUnreachable, match="end in /api"):
            PrefectApi({"PREFECT_API_URL": address}).request("GET", "/")

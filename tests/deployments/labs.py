"""A small lab's installation for tests: all of its services, an S3 server, and who listens to its notices."""

import json
import os
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from deployments import lab as installation
from deployments.lab import Lab
from microtome.submit import FINAL, PrefectApi
from tests.s3 import S3Server, find_versitygw, free_port
from tests.waiting import until

PORTS = ("PREFECT", "INTAKE", "DASK", "DASK_PAGES", "EXPORTER")
TOKEN = "a token of the tests"
OF_AN_INSTALLATION = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # The services outlive the call that starts them, as they should; in a test that is this process.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <function Popen.__del__"),
]
"""Marks of the tests that start one: `pytestmark`."""


@contextmanager
def lab_in(state, shared_data, *, notifies=False, **told):
    """Everything up in the folder `state`: (lab, S3 server, which tells the intake or nobody)."""
    ports = {f"MICROTOME_{name}_PORT": str(free_port()) for name in PORTS}
    intake = f"http://vgw:{urllib.parse.quote(TOKEN)}@127.0.0.1:{ports['MICROTOME_INTAKE_PORT']}/events"
    s3 = S3Server(find_versitygw(shared_data), state / "s3" / "data", intake if notifies else None)
    ours = {
        "MICROTOME_SOURCES": "s3://slides/in",
        "MICROTOME_OUTPUT": "s3://results",
        "MICROTOME_INTAKE_TOKEN": TOKEN,
    }
    lab = Lab(state / "lab", {**os.environ, **s3.environment, **ports, **ours, **told})
    try:
        installation.up(lab)
        with s3:
            for bucket in ("slides", "results", "prefect"):
                s3.make_bucket(bucket)
            yield lab, s3
    finally:
        installation.down(lab)


class Notices:
    """A webhook that keeps what is sent to it."""

    def __init__(self):
        self.texts = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                receiver.texts.append(
                    json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
                )
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class Api(PrefectApi):
    """Prefect's REST API, as its pages use it."""

    def __init__(self, lab):
        super().__init__(lab.environment)

    def deployment(self, name):
        return self.request("GET", f"/deployments/name/{name}")

    def runs(self, name):
        """Every run of a deployment of this name."""
        wanted = {"deployments": {"name": {"any_": [name]}}, "limit": 200}
        return self.request("POST", "/flow_runs/filter", wanted)

    def run(self, run_id):
        return self.request("GET", f"/flow_runs/{run_id}")

    def start(self, deployment, **parameters):
        """The id of a new run."""
        made = self.deployment(deployment)["id"]
        return self.request("POST", f"/deployments/{made}/create_flow_run", {"parameters": parameters})["id"]

    def ended(self, run_id, within_s=120):
        def look():
            run = self.run(run_id)
            return run if run["state"]["type"] in FINAL else None

        return until(look, within_s, f"the end of run {run_id}")


def notice_of(record):
    """A notification as AWS sends it."""
    return json.dumps({"Records": [record]}).encode()


def send(lab, body):
    """Whether the intake took it."""
    try:
        answer = httpx.post(
            f"http://127.0.0.1:{lab.intake_port}/events",
            content=body,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=10,
        )
    except httpx.TransportError:
        return False  # it was killed
    return answer.status_code == 204


def quoted(key):
    return urllib.parse.quote_plus(key)

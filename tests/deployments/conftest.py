"""Tiny slides, a bucket on a real S3 server, the intake on a real socket, a stand-in for Prefect's events."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tifffile
import uvicorn

from deployments.intake import intake
from deployments.settings import Settings
from microtome.grid import Window
from microtome.inbox import Inbox
from microtome.slides import open_slide
from tests.deployments.labs import TOKEN

FIELD = Window(1900, 6592, 2200, 6992)


@pytest.fixture(scope="module")
def slides(tcga_slide, tmp_path_factory):
    """Makes tiny slides of real tissue, each with bytes of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    with open_slide(str(tcga_slide)) as slide:
        tissue = np.ascontiguousarray(slide.read(0, FIELD).transpose(1, 2, 0))

    def make(number):
        path = folder / f"{number}.tif"
        rolled = np.roll(tissue, 16 * number, axis=0)
        per_cm = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}  # 0.25 um/px
        tifffile.imwrite(path, rolled, tile=(256, 256), photometric="rgb", **per_cm)
        return path.read_bytes()

    return make


@pytest.fixture
def s3(s3):
    """With an empty bucket `slides`."""
    s3.make_bucket("slides")
    return s3


class PrefectStandIn:
    """Takes events as Prefect's API does, and says what it is told to."""

    def __init__(self):
        self.events, self.status = [], 204
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if stand_in.status == 204:
                    stand_in.events += json.loads(body)
                self.send_response(stand_in.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def prefect():
    stand_in = PrefectStandIn()
    yield stand_in
    stand_in.stop()


@contextmanager
def serving(settings):
    """The intake on a free port: its address."""
    server = uvicorn.Server(uvicorn.Config(intake(settings), port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def settings_for(prefect):
    def make(*sources, output="/results", **more):
        return Settings(
            inbox=Inbox(sources=sources, output=output), token=TOKEN, prefect_url=prefect.url, **more
        )

    return make

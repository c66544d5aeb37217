"""The cluster of KUBECONFIG, with the chart installed once for all tests, and a store on the host."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microtome.store import ResultStore
from tests.k8s.installation import Installation
from tests.pipeline.runs import digests
from tests.s3 import S3Server, asked_by_this_process, find_versitygw

BRIDGE = "10.244.0.1"
"""The host, seen from a pod of shared/k8s."""
FIGURES: list[str] = []
"""What was measured by the way; shown at the end, asserted nowhere."""


def pytest_terminal_summary(terminalreporter):
    for figure in FIGURES:
        terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def figures() -> list[str]:
    return FIGURES


@pytest.fixture(scope="session", autouse=True)
def cluster():
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no KUBECONFIG: `make test-k8s` needs a cluster with the image and the Dask operator")


@pytest.fixture(scope="session")
def tools(shared_data: Path) -> Path:
    """Where kubectl and helm are, if they are not on PATH."""
    return shared_data.parent / "k8s"


@pytest.fixture(scope="session")
def store(cluster, shared_data, tmp_path_factory):
    """An S3 server on the host, with empty buckets `slides` and `results`; clients of this process use it."""
    folder = tmp_path_factory.mktemp("store") / "s3"
    with (
        S3Server(find_versitygw(shared_data), folder, host=BRIDGE) as server,
        asked_by_this_process(server),
    ):
        for bucket in ("slides", "results"):
            server.make_bucket(bucket)
        yield server


@pytest.fixture(scope="session")
def installed(store, tools):
    """The chart, installed and ready; it goes with its namespace."""
    installation = Installation(tools, f"microtome-{os.getpid()}", store.environment)
    installation.make_namespace()
    try:
        began_s = time.monotonic()
        installation.helm("install")
        FIGURES.append(f"helm install to ready, image present: {time.monotonic() - began_s:.0f} s (goal 120)")
        yield installation
    finally:
        installation.run("helm", "uninstall", installation.release, "--ignore-not-found")
        installation.kubectl("delete", "namespace", installation.namespace, "--wait=false")


@pytest.fixture(scope="session")
def bare(slide, store, tcga_slide) -> dict[str, str]:
    """Digests of the slide's result by bare processes on this machine, from and to the same store."""
    command = [sys.executable, "-m", "microtome", "segment", slide, "-o", "s3://results/bare"]
    subprocess.run([*command, "--workers", "2"], check=True, capture_output=True)
    return digests(ResultStore(f"s3://results/bare/{tcga_slide.stem}.ome.zarr"))


@pytest.fixture(scope="session")
def slide(store, tcga_slide) -> str:
    """The TCGA slide in the bucket, under the name it has on disk."""
    folder = store.folder / "slides" / "by-hand"
    folder.mkdir(exist_ok=True)
    (folder / tcga_slide.name).write_bytes(tcga_slide.read_bytes())
    return f"s3://slides/by-hand/{tcga_slide.name}"

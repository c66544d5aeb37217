"""Prometheus of Debian's package, and where what it is told lies."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = ROOT / "infra" / "chart" / "microtome" / "files"


def program(name: str, package: str) -> str:
    """Path of a program; without it the test is skipped. .ci/run installs them."""
    if found := shutil.which(name):
        return found
    pytest.skip(f"no {name} here; apt-get install {package}")


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool", "prometheus")


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    return program("prometheus", "prometheus")


@pytest.fixture(scope="session")
def node_exporter_program() -> str:
    return program("prometheus-node-exporter", "prometheus-node-exporter")


@contextmanager
def running(command: list[str], ready: str) -> Iterator[None]:
    """A server, from when it answers to the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: process.poll() is not None or answers(ready), within_s=60)
        assert process.poll() is None, process.stderr.read()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def until(is_true: Callable[[], object], within_s: float) -> None:
    end_s = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.3)

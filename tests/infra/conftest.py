"""Prometheus of Debian's package, and where what it is told lies."""

import shutil
from pathlib import Path

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

"""Prometheus of Debian's package."""

import pytest

from tests.infra.prometheus import program


@pytest.fixture(scope="session")
def promtool() -> str:
    return program("promtool", "prometheus")


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    return program("prometheus", "prometheus")


@pytest.fixture(scope="session")
def node_exporter_program() -> str:
    return program("prometheus-node-exporter", "prometheus-node-exporter")

"""Settings of the installation that cannot be are named when it starts."""

import os
import subprocess
import sys

import pytest

from deployments.settings import Settings
from microtome.errors import OptionError

INTAKE = {"MICROTOME_OUTPUT": "/out", "MICROTOME_SOURCES": "/in", "MICROTOME_INTAKE_TOKEN": "t" * 16}


@pytest.mark.parametrize("name", ["MICROTOME_REST_S", "MICROTOME_POLL_S"])
@pytest.mark.parametrize("value", ["soon", "-1", "nan", ""])
def test_seconds_are_a_number(name, value):
    with pytest.raises(OptionError, match=f"{name} is {value}, but must be a number"):
        Settings.of(INTAKE | {name: value})


@pytest.mark.parametrize("value", ["here", "70000", "0", "4200.5"])
def test_a_port_is_the_number_of_one(value, tmp_path):
    told = {"MICROTOME_STATE": str(tmp_path), "MICROTOME_PREFECT_PORT": value}
    command = [sys.executable, "-m", "deployments.lab", "down"]
    done = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"MICROTOME_PREFECT_PORT is {value}, but must be" in done.stderr
    assert "Traceback" not in done.stderr

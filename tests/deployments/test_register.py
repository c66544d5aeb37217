"""What the registration of the deployments refuses, before it asks anybody."""

import os
import subprocess
import sys

import pytest

TEMPLATES = {"not there": None, "no JSON": "job: {}"}


def register(*words, **environment):
    known = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = [sys.executable, "-m", "deployments.register", *words]
    return subprocess.run(command, env=known | environment, capture_output=True, text=True)


def test_without_a_server_nothing_is_registered(tmp_path):
    done = register(PREFECT_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "PREFECT_API_URL is not set" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", TEMPLATES)
def test_a_job_template_that_cannot_be_read_is_named(fault, tmp_path):
    template = tmp_path / "template.json"
    if (text := TEMPLATES[fault]) is not None:
        template.write_text(text)
    done = register("--job-template", str(template), PREFECT_API_URL="http://127.0.0.1:1/api")
    assert done.returncode == 2
    assert f"{template} cannot be read as JSON" in done.stderr
    assert "Traceback" not in done.stderr

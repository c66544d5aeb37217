"""systemd takes the units that `deployments.lab units` prints, put into place as docs/small-lab.md says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.lab import ROOT, Lab

STATE = "state of 100 % of us"


@pytest.fixture
def folder(tmp_path):
    """The units' folder of a user."""
    page = (ROOT / "docs" / "small-lab.md").read_text()
    (command,) = re.findall(r"(\.venv/bin/python -m deployments\.lab units \|.*?file\}')", page, re.DOTALL)
    folder = tmp_path / ".config" / "systemd" / "user"
    folder.mkdir(parents=True)
    told = {"HOME": str(tmp_path), "MICROTOME_STATE": str(tmp_path / STATE)}
    command = command.replace(".venv/bin/python", sys.executable)
    subprocess.run(["sh", "-c", command], cwd=ROOT, env={**os.environ, **told}, check=True)
    return folder


def test_every_service_has_a_unit_and_the_page_enables_all(folder, tmp_path):
    lab = Lab(tmp_path, os.environ)
    assert sorted(path.stem for path in folder.iterdir()) == sorted(
        f"microtome-{name}" for name in lab.services
    )
    page = (ROOT / "docs" / "small-lab.md").read_text()
    (enabled,) = re.findall(r"enable --now microtome-\{(.*?)\}", page)
    assert sorted(enabled.split(",")) == sorted(lab.services)


def test_systemd_finds_no_fault_in_the_units(folder, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    units = sorted(str(path) for path in folder.iterdir())
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", *units],
        env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
    )
    faults = [line for line in done.stderr.splitlines() if "microtome" in line]
    assert (done.returncode, faults) == (0, []), done.stderr


def test_a_unit_begins_where_the_state_lies(folder, tmp_path):
    unit = (folder / "microtome-server.service").read_text()
    assert f'Environment="MICROTOME_STATE={tmp_path / STATE}"'.replace("%", "%%") in unit
    assert f"WorkingDirectory={Path(ROOT)}" in unit

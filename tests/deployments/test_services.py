"""How services are started and stopped."""

import os
import re
import signal
from pathlib import Path

import pytest

from deployments import lab as installation
from deployments.lab import Lab
from tests.s3 import free_port

pytestmark = [
    # The service outlives the call that starts it, as it should; here that is this process.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <function Popen.__del__"),
]


def test_a_service_can_be_interrupted_even_if_a_background_job_of_a_shell_started_it(tmp_path):
    ports = {f"MICROTOME_{name}_PORT": str(free_port()) for name in ("DASK", "DASK_PAGES")}
    lab = Lab(tmp_path, {**os.environ, **ports})
    installation.prepare(lab)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        installation.start(lab, "dask-scheduler")
        status = Path(f"/proc/{installation.running(lab, 'dask-scheduler')}/status").read_text()
        ignored = int(re.search(r"^SigIgn:\s+([0-9a-f]+)$", status, re.MULTILINE)[1], 16)
        assert not ignored >> (signal.SIGINT - 1) & 1
    finally:
        installation.down(lab)
        signal.signal(signal.SIGINT, before)

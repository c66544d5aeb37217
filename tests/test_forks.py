"""The process that workers are forked from has an environment of its own; who starts it keeps theirs."""

import os
import subprocess
import sys

from microtome.forks import ENVIRONMENT

PROGRAM = """
import os
from multiprocessing import get_context
from microtome import forks

before = dict(os.environ)
forks.start()
assert dict(os.environ) == before
forked = get_context("forkserver").Process(target=os.system, args=("env",))
forked.start()
forked.join()
"""


def test_what_is_forked_has_its_environment_and_this_process_keeps_its_own():
    given = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    given["OMP_NUM_THREADS"] = "7"
    command = [sys.executable, "-c", PROGRAM]
    forked = subprocess.run(command, env=given, check=True, capture_output=True, text=True).stdout
    assert {f"{name}={value}" for name, value in ENVIRONMENT.items()} <= set(forked.splitlines())

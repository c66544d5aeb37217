"""The process that workers are forked from has one thread a library; who starts it keeps its settings."""

import os
import subprocess
import sys

from microtome.forks import ONE_THREAD

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


def test_what_is_forked_has_one_thread_and_this_process_keeps_its_settings():
    given = {name: value for name, value in os.environ.items() if name not in ONE_THREAD}
    given["OMP_NUM_THREADS"] = "7"
    command = [sys.executable, "-c", PROGRAM]
    forked = subprocess.run(command, env=given, check=True, capture_output=True, text=True).stdout
    assert {f"{name}=1" for name in ONE_THREAD} <= set(forked.splitlines())

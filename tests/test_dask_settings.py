"""Our settings for Dask reach scheduler and workers of our own, and give way to those of a user."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json
import dask
from microtome.cluster import ClusterSpec, connect

def settings():
    names = ("scheduler.worker-saturation", "worker.profile.enabled", "admin.low-level-log-length")
    names += ("admin.tick.interval",)
    return [dask.config.get(f"distributed.{name}") for name in names]

if __name__ == "__main__":
    with connect(ClusterSpec(workers=1)) as cluster:
        (worker,) = cluster.client.run(settings).values()
        print(json.dumps([cluster.client.run_on_scheduler(settings), worker]))
"""


@pytest.mark.parametrize(
    ("given", "tick"), [({}, "500ms"), ({"DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "30ms"}, "30ms")]
)
def test_a_cluster_of_our_own_has_our_settings_but_for_those_of_the_user(tmp_path, given, tick):
    program = tmp_path / "program.py"  # a file: the worker imports it again
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, env=environment | given, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [[1.0, False, 100, tick]] * 2

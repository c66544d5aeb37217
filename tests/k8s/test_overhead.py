"""The same slide in a pod and by bare processes, in turn: what containers cost."""

import json
import os
import statistics
import subprocess
import sys

import pytest

from microtome.records import busy_s
from microtome.store import ResultStore
from tests.k8s.installation import wait_until
from tests.k8s.test_runs import equal_bytes
from tests.pipeline.runs import digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TURNS = int(os.environ.get("MICROTOME_TEST_TURNS", "1"))
"""One shows that it works; three and more, on a quiet machine, tell the cost from chance."""


def segment(slide: str, output: str) -> list[str]:
    return ["segment", slide, "-o", output, "--workers", "2"]


def pod(name: str, command: list[str], environment: dict[str, str]) -> dict[str, object]:
    """A pod of the image as the chart's are: not root, nothing to write to but /tmp; without limits."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "run"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "segment",
                    "image": "microtome:test",
                    "args": command,
                    "env": [{"name": key, "value": value} for key, value in environment.items()],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def in_a_pod(installed, store, name: str, command: list[str]) -> None:
    manifest = json.dumps(pod(name, ["microtome", *command], store.environment))
    installed.kubectl("apply", "-f", "-", given=manifest)

    def phase():
        found = installed.kubectl("get", "pod", name, "-o", "jsonpath={.status.phase}")
        return found if found in ("Succeeded", "Failed") else None

    # Seldom: a look takes 0.1 s of the cores on which the pod is measured.
    assert wait_until(phase, 300, name, every_s=5) == "Succeeded", installed.kubectl("logs", name)
    installed.kubectl("delete", "pod", name)


def test_a_pod_makes_the_same_bytes_and_what_it_costs_is_told(installed, store, slide, tcga_slide, figures):
    busy, cpu = [], []
    for turn in range(TURNS):
        bare, pods = f"s3://results/bare-{turn}", f"s3://results/pod-{turn}"
        subprocess.run(
            [sys.executable, "-m", "microtome", *segment(slide, bare)], check=True, capture_output=True
        )
        in_a_pod(installed, store, f"segment-{turn}", segment(slide, pods))
        stores = [ResultStore(f"{folder}/{tcga_slide.stem}.ome.zarr") for folder in (pods, bare)]
        in_pod, by_bare = (
            [report for stage in store.stages() for report in store.recorded(stage).values()]
            for store in stores
        )
        busy.append(100 * (busy_s(in_pod) / busy_s(by_bare) - 1))
        cpu.append(100 * (sum(r.cpu_s for r in in_pod) / sum(r.cpu_s for r in by_bare) - 1))
        assert equal_bytes(*(digests(store) for store in stores))
    for what, percent in (("stages' time", busy), ("core-seconds", cpu)):
        figures.append(
            f"a pod against bare processes, {what}: {statistics.median(percent):+.1f} % "
            f"({min(percent):+.1f} to {max(percent):+.1f} in {TURNS} turn(s); goal 3)"
        )

"""The image, in pods of the restricted standard: any user, nothing to write to, nothing to compile."""

import json

import pytest

from tests.k8s.installation import wait_until

LOOK = """
import importlib.metadata, json, os, pathlib, shutil, sys
import dask, distributed
from microtome.forks import ENVIRONMENT
sbom = json.load(open("/opt/microtome/sbom.cdx.json"))
try:
    pathlib.Path("/opt/microtome/new").touch()
except OSError as error:
    refused = error.strerror
before = {path.name for path in pathlib.Path("/tmp/numba").rglob("*.nbc")}
import microtome.warmup
microtome.warmup.main()
after = {path.name for path in pathlib.Path("/tmp/numba").rglob("*.nbc")}
json.dump({
    "uid": os.getuid(), "refused": refused, "compiled": sorted(after - before), "kernels": len(before),
    "compilers": [name for name in ("cc", "gcc", "g++", "clang", "make", "ld") if shutil.which(name)],
    "profiles": dask.config.get("distributed.worker.profile.enabled"),
    "unlike_forks": [name for name, value in ENVIRONMENT.items() if os.environ.get(name) != value],
    "listed": {part["name"].lower().replace("_", "-"): part["version"] for part in sbom["components"]},
    "there": {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()},
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def found(installed):
    """What a process of an odd user sees in the image."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "look"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000670000,
                "runAsGroup": 0,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [
                {
                    "name": "look",
                    "image": "docker.io/library/microtome:test",
                    "args": ["python", "-c", LOOK],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                }
            ],
        },
    }
    installed.kubectl("apply", "-f", "-", given=json.dumps(pod))

    def ended():
        (pod,) = [pod for pod in installed.get("pods") if pod["metadata"]["name"] == "look"]
        return pod["status"]["phase"] if pod["status"]["phase"] in ("Succeeded", "Failed") else None

    assert wait_until(ended, 120, "the pod") == "Succeeded", installed.kubectl("logs", "look")
    return json.loads(installed.kubectl("logs", "look").strip().splitlines()[-1])


def test_any_user_segments_a_field_with_a_root_that_cannot_be_written(found):
    assert found["uid"] == 1000670000
    assert found["refused"] == "Read-only file system"


def test_kernels_are_compiled_already(found):
    assert found["kernels"] > 0
    assert found["compiled"] == []


def test_there_is_no_compiler(found):
    assert found["compilers"] == []


def test_the_list_of_contents_names_every_package_with_its_version(found):
    there = {name: version for name, version in found["there"].items() if name not in ("pip", "microtome")}
    assert there.items() <= found["listed"].items()


def test_dask_looks_at_itself_no_more_than_needed(found):
    assert found["profiles"] is False


def test_workers_have_the_environment_of_those_that_we_fork(found):
    assert found["unlike_forks"] == []

"""A Dask cluster of a run's own, on Kubernetes: made by the Dask operator, sized by the plan.

The pod of the run asks Kubernetes for it, and removes it when it ends, well or not, and when it is told
to go. If the pod is killed outright, the next one finds the cluster by the run's id and goes on with
it; if none comes, the operator removes it when it has been idle (`idleTimeout`), and at the latest
Kubernetes does with the run's Job, which owns it.
"""

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from microtome.errors import OwnClusterFailed

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc/apis/kubernetes.dask.org/v1"
READY_WITHIN_S = 300.0
SHARDS_A_WORKER = 4
"""Fewer are not worth a pod that takes some 10 s to start."""
CONFLICT, GONE = 409, 404


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnCluster:
    """What the chart says of clusters that belong to one run."""

    spec: str
    """Of a DaskCluster, JSON; CLUSTER stands for its name."""
    prefix: str
    """The cluster's name begins with it."""
    maximum: int
    """Workers at most."""
    job: tuple[str, str]
    """Name and uid of the Job that the run belongs to."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "OwnCluster | None":
        """From MICROTOME_DASK_*; None where runs share a cluster."""
        if "MICROTOME_DASK_SPEC" not in environ:
            return None
        return cls(
            spec=Path(environ["MICROTOME_DASK_SPEC"]).read_text(),
            prefix=environ["MICROTOME_DASK_PREFIX"],
            maximum=int(environ["MICROTOME_DASK_MAXIMUM"]),
            job=(environ["MICROTOME_JOB_NAME"], environ["MICROTOME_JOB_UID"]),
        )

    def manifest(self, run_id: str, shards: int) -> dict[str, Any]:
        """The DaskCluster for a run with so many shards to compute."""
        name = f"{self.prefix}-{run_id[:8]}"
        spec = json.loads(self.spec.replace("CLUSTER", name))
        spec["worker"]["replicas"] = max(1, min(self.maximum, -(-shards // SHARDS_A_WORKER)))
        job, uid = self.job
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
        return {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskCluster",
            "metadata": {"name": name, "ownerReferences": [owner]},
            "spec": spec,
        }


@contextmanager
def own_cluster(own: OwnCluster, run_id: str, shards: int) -> Iterator[str]:
    """A cluster for the block: the address of its scheduler.

    Raises
    ------
    OwnClusterFailed
        If Kubernetes refuses it, or its scheduler does not answer within five minutes.
    """
    manifest = own.manifest(run_id, shards)
    name = manifest["metadata"]["name"]
    _ask_for(manifest)
    try:
        _wait_for(f"http://{name}-scheduler:8787/health", name)
        yield f"tcp://{name}-scheduler:8786"
    finally:
        _remove(name)


def _ask_for(manifest: dict[str, Any]) -> None:
    """Make the cluster, or find the one that a pod before us has made."""
    name = manifest["metadata"]["name"]
    end_s = time.monotonic() + READY_WITHIN_S
    with dask_objects() as kubernetes:
        while True:
            made = kubernetes.post("/daskclusters", json=manifest)
            if made.is_success:
                return
            if made.status_code != CONFLICT or time.monotonic() > end_s:
                raise OwnClusterFailed(name, f"Kubernetes answered {made.status_code}: {made.text[:200]}")
            there = kubernetes.get(f"/daskclusters/{name}")
            if there.is_success and "deletionTimestamp" not in there.json()["metadata"]:
                return
            time.sleep(1)  # it is on its way out


def _remove(name: str) -> None:
    with dask_objects() as kubernetes:
        gone = kubernetes.delete(f"/daskclusters/{name}")
        if gone.status_code != GONE:
            gone.raise_for_status()


def dask_objects() -> httpx.Client:
    """Kubernetes' API of the Dask operator's objects in the namespace of this pod."""
    namespace = (ACCOUNT / "namespace").read_text()
    token = (ACCOUNT / "token").read_text()
    return httpx.Client(
        base_url=f"{API}/namespaces/{namespace}",
        headers={"Authorization": f"Bearer {token}"},
        verify=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")),
        trust_env=False,
        timeout=30,
    )


def _wait_for(address: str, name: str) -> None:
    end_s = time.monotonic() + READY_WITHIN_S
    reason = ""
    while time.monotonic() < end_s:
        try:
            if httpx.get(address, timeout=5, trust_env=False).is_success:
                return
        except httpx.HTTPError as error:
            reason = str(error)
        time.sleep(0.5)
    raise OwnClusterFailed(name, reason)

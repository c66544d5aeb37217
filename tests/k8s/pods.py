"""The pods that a rendered chart makes, in whatever they are wrapped, as pods."""

import json
from collections.abc import Iterator
from typing import Any

type Document = dict[str, Any]


def pods_of(documents: list[Document]) -> Iterator[Document]:
    """Every pod: of Deployments, Jobs and hooks, of the Dask operator, and that of a run."""
    for document in documents:
        spec = document.get("spec", {})
        name = document["metadata"]["name"]
        if document["kind"] in ("Deployment", "Job"):
            yield _pod(name, spec["template"]["metadata"]["labels"], spec["template"]["spec"])
        elif document["kind"] == "Pod":
            yield document
        elif document["kind"] == "DaskCluster":
            yield from _pods_of_cluster(name, spec)
        elif document["kind"] == "ConfigMap" and "spec.json" in document["data"]:
            yield from _pods_of_cluster(name, json.loads(document["data"]["spec.json"]))
        elif document["kind"] == "ConfigMap" and "job-template.json" in document["data"]:
            template = json.loads(document["data"]["job-template.json"])
            job = template["job_configuration"]["job_manifest"]["spec"]["template"]
            default = template["variables"]["properties"]["memory_limit"]["default"]
            filled = json.loads(json.dumps(job["spec"]).replace("{{ memory_limit }}", default))
            filled["containers"][0]["args"] = ["prefect"]
            yield _pod("run", job["metadata"]["labels"], filled)


def _pods_of_cluster(name: str, spec: Document) -> Iterator[Document]:
    for part in ("worker", "scheduler"):
        operators = {"dask.org/cluster-name": name, "dask.org/component": part}
        labels = {**spec[part]["metadata"]["labels"], **operators}
        yield _pod(f"{name}-{part}", labels, spec[part]["spec"])


def _pod(name: str, labels: dict[str, str], spec: Document) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }

"""Programs of Debian's package `prometheus`: found, started, asked."""

import math
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = ROOT / "infra" / "chart" / "microtome" / "files"
STEP_S = 1
SHARED = (
    "microtome_intake_",
    "cluster:",
    "namespace:",
    "volume:",
    "microtome_pool_",
    "microtome_exporter_",
)
"""Of the intake, of a queue that all models share, of pools, of disks or of the exporter itself."""

type Kind = tuple[str | None, str | None]
"""Model and precision."""


def program(name: str, package: str) -> str:
    """Path of a program; without it the test is skipped. .ci/run installs them."""
    if found := shutil.which(name):
        return found
    pytest.skip(f"no {name} here; apt-get install {package}")


class Prometheus:
    """A server of our own, asked by its API."""

    def __init__(self, url: str) -> None:
        self.url, self.began_s = url, time.time()

    def at_once(self, query: str) -> list[dict]:
        return self._ask("query", query=query)

    def over_time(self, query: str) -> list[dict]:
        """Series of the query from the beginning to now, each with its finite values."""
        end_s = time.time()
        # Whole steps before the end, for else the last one comes before what was seen just now.
        start_s = end_s - (end_s - self.began_s) // STEP_S * STEP_S
        span = {"start": start_s, "end": end_s, "step": STEP_S}
        found = self._ask("query_range", query=query, **span)
        for series in found:
            series["values"] = [float(value) for _, value in series["values"] if math.isfinite(float(value))]
        return [series for series in found if series["values"]]

    def without_series(self, asked: dict[str, str], within_s: float = 60) -> list[str]:
        """Names of the queries that show nothing, however long one waits.

        Rules are made of other rules and of what the exporter tells: some rounds later each.
        """
        end_s = time.monotonic() + within_s
        while (empty := [name for name, query in asked.items() if not self.over_time(query)]) and (
            time.monotonic() < end_s
        ):
            time.sleep(1)
        return empty

    def kinds_of_work(self) -> dict[str, set[Kind]]:
        """For the name of each series about work: the models and precisions that it was seen with."""
        answer = httpx.get(f"{self.url}/api/v1/label/__name__/values", timeout=30).json()
        names = [name for name in answer["data"] if "microtome_" in name and not name.startswith(SHARED)]
        return {name: self._kinds(name) for name in names}

    def _kinds(self, name: str) -> set[Kind]:
        found = [series["metric"] for series in self.over_time(f"count by (model, precision) ({name})")]
        # A run that fails before its plan has neither.
        return {(one.get("model"), one.get("precision")) for one in found} - {(None, None)}

    def _ask(self, path: str, **asked) -> list[dict]:
        answer = httpx.post(f"{self.url}/api/v1/{path}", data=asked, timeout=60).json()
        assert answer["status"] == "success", (asked, answer)
        return answer["data"]["result"]


def not_told_apart(found: dict[str, set[Kind]], kinds: set[Kind]) -> dict[str, set[Kind]]:
    """Those series about work that have other models and precisions than these, or counters that lack one."""

    def is_wrong(name: str, has: set[Kind]) -> bool:
        # The others have nothing of a run between two scrapes.
        counts_all = name.endswith(("_total", "_count"))
        return not has or not has <= kinds or (counts_all and has != kinds)

    return {name: has for name, has in found.items() if is_wrong(name, has)}


@contextmanager
def running(command: list[str], ready: str) -> Iterator[None]:
    """A server, from when it answers to the end of the block."""
    # A file, for a pipe that nobody reads would stop it when it is full.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: process.poll() is not None or answers(ready), within_s=60)
            log.seek(0)
            assert process.poll() is None, log.read()
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def target_of(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod of Kubernetes as a target of a file, with the labels that Prometheus would find out.

    Debian's package does not know Kubernetes; infra/prometheus/kubernetes.yaml does its work on these.
    """
    about = pod["metadata"]
    address = pod["status"].get("podIP", "")
    told = {"namespace": about["namespace"], "pod_name": about["name"], "pod_ip": address}
    told["pod_phase"] = pod["status"]["phase"]
    told |= {f"pod_label_{name}": value for name, value in about.get("labels", {}).items()}
    told |= {f"pod_annotation_{name}": value for name, value in about.get("annotations", {}).items()}
    labels = {"__meta_kubernetes_" + re.sub(r"\W", "_", name): value for name, value in told.items()}
    return {"targets": [f"{address}:1"], "labels": labels}


def kubernetes_scrape(targets: Path) -> dict[str, Any]:
    """How pods are scraped, by infra/prometheus/kubernetes.yaml, of the pods that a file names."""
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "kubernetes.yaml").read_text())
    scrape: dict[str, Any] = config["scrape_configs"][0]
    assert scrape.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    return scrape | {"file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}

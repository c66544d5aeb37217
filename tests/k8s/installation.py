"""The chart on a real cluster, with a store on the host: what the tests say to kubectl, helm and Prefect."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.labels import PREFIX

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "infra" / "chart" / "microtome"
VALUES = [ROOT / "infra" / "examples" / "small-node.yaml", Path(__file__).with_name("values.yaml")]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Installation:
    """One release in a namespace of its own."""

    def __init__(self, tools: Path, namespace: str, environment: dict[str, str]) -> None:
        self._tools, self.namespace, self.store = tools, namespace, environment
        self.release = "microtome"

    def run(self, program: str, *words: str, check: bool = True, given: str | None = None) -> str:
        """Output of a program; with `check` false, that of a failure too."""
        found = shutil.which(program) or str(self._tools / program)
        command = [found, "--namespace", self.namespace, *words]
        done = subprocess.run(command, capture_output=True, text=True, input=given, timeout=400)
        if check and done.returncode:
            pytest.fail(f"{program} {' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout + ("" if check else done.stderr)

    def kubectl(self, *words: str, check: bool = True, given: str | None = None) -> str:
        return self.run("kubectl", *words, check=check, given=given)

    def get(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        words = ["get", kind, "-o", "json", *(["-l", selector] if selector else [])]
        items: list[dict[str, Any]] = json.loads(self.kubectl(*words))["items"]
        return items

    def pods(self, part: str) -> list[str]:
        """Names of the pods of a part that are not on their way out."""
        found = self.get("pods", f"app.kubernetes.io/component={part}")
        return [
            pod["metadata"]["name"]
            for pod in found
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] in ("Pending", "Running")
        ]

    def make_namespace(self) -> None:
        """A namespace of the restricted standard, with the store's keys in a Secret."""
        self.kubectl("create", "namespace", self.namespace)
        self.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
        keys = {name: value for name, value in self.store.items() if "KEY" in name}
        literals = [f"--from-literal={name}={value}" for name, value in keys.items()]
        self.kubectl("create", "secret", "generic", "store", *literals)

    def helm(self, verb: str, *settings: str) -> None:
        """`install` or `upgrade` with the values of the tests, until everything is ready."""
        self.run(
            "helm", verb, self.release, str(CHART), "--wait", "--timeout", "300s", *self._values(settings)
        )

    def revision(self) -> str:
        """Number of the release as it is."""
        status = json.loads(self.run("helm", "status", self.release, "--output", "json"))
        return str(status["version"])

    def _values(self, settings: tuple[str, ...]) -> list[str]:
        words = [f"--values={values}" for values in VALUES]
        endpoint = f"storage.env.AWS_ENDPOINT_URL={self.store['AWS_ENDPOINT_URL']}"
        return words + [f"--set={setting}" for setting in (endpoint, *settings)]

    @property
    def api(self) -> str:
        """Prefect's API, by the address of its Service: the host reaches it."""
        return f"http://{self._address('microtome-prefect')}:4200/api"

    @property
    def intake(self) -> str:
        return f"http://{self._address('microtome-intake')}:9000"

    def _address(self, service: str) -> str:
        return self.kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")

    def token(self) -> str:
        """What the intake wants to hear."""
        secret = self.kubectl(
            "get",
            "secret",
            "microtome-intake",
            "-o",
            "go-template={{.data.MICROTOME_INTAKE_TOKEN | base64decode}}",
        )
        return secret.strip()

    def submit(self, slide: str, output: str, **parameters: object) -> str:
        """A run of segment-slide/on-demand: its id."""
        deployment = self.ask("GET", "/deployments/name/segment-slide/on-demand")
        told = {"parameters": {"slide": slide, "output": output, **parameters}}
        run: str = self.ask("POST", f"/deployments/{deployment['id']}/create_flow_run", told)["id"]
        return run

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{run}")["state"]
        return found

    def has_plan(self, run: str) -> bool:
        """Whether it is known by its model and precision."""
        labels = self.ask("GET", f"/flow_runs/{run}")["labels"] or {}
        return f"{PREFIX}precision" in labels

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("POST", "/flow_runs/filter", {"limit": 200})
        return found

    def runs_of(self, key: str) -> list[dict[str, Any]]:
        """The runs of a slide in the bucket `slides`."""
        return [run for run in self.runs() if run["parameters"].get("slide") == f"s3://slides/{key}"]

    def succeeded(self, run: str) -> list[int]:
        """How many pods of each Job of a run succeeded."""
        jobs = self.get("jobs", f"prefect.io/flow-run-id={run}")
        return [job["status"].get("succeeded", 0) for job in jobs]

    def ended(self, run: str, within_s: float = 300) -> dict[str, Any]:
        """The last state of a run."""
        return wait_until(
            lambda: state if (state := self.state(run))["type"] in FINAL else None, within_s, run
        )

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Prefect's answer; asked again while it is away."""

        def answer() -> Any:
            try:
                given = httpx.request(method, self.api + path, json=body, timeout=30)
            except httpx.TransportError:
                return None
            return given.json() if given.is_success else None

        return wait_until(answer, 120, path)


def wait_until[T](look: Callable[[], T | None], within_s: float, what: str, every_s: float = 0.5) -> T:
    """What a look finds that is not None; fails when time is up."""
    end_s = time.monotonic() + within_s
    while (found := look()) is None:
        if time.monotonic() > end_s:
            pytest.fail(f"{what}: not within {within_s:.0f} s")
        time.sleep(every_s)
    return found

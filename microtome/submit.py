"""Give a slide to Prefect's server by its REST API: the library itself needs no Prefect."""

import json
import os
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from microtome.errors import PrefectRefused, PrefectUnreachable

DEPLOYMENT = "segment-slide/on-demand"
DEFAULT_API = "http://127.0.0.1:4200/api"
FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
ANSWER_WITHIN_S = 90.0
"""Longer than a server waits for its database: 60 s in a small lab."""
BUSY, BUSY_S = 503, 60.0
"""What Prefect answers while its database is locked, and how long to ask again."""
LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Submitted:
    """A run that Prefect has made."""

    id: str
    url: str


class PrefectApi:
    """The few requests that are made without Prefect; settings as its own, from the environment."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self.url = environ.get("PREFECT_API_URL", DEFAULT_API).rstrip("/")
        self.pages = environ.get("PREFECT_UI_URL", self.url.removesuffix("/api")).rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if key := environ.get("PREFECT_API_KEY"):
            self._headers["Authorization"] = f"Bearer {key}"
        elif pair := environ.get("PREFECT_API_AUTH_STRING"):
            self._headers["Authorization"] = "Basic " + b64encode(pair.encode()).decode()

    def submit(self, slide: str, output: str, parameters: Mapping[str, object]) -> Submitted:
        """Make a run of `segment-slide/on-demand`.

        Raises
        ------
        PrefectUnreachable
            If no server answers.
        PrefectRefused
            If it has no such deployment, or a parameter does not fit.
        """
        deployment = self.request("GET", f"/deployments/name/{DEPLOYMENT}")
        places = {"slide": slide, "output": output, **_places_among(parameters)}
        told = {**parameters, **{name: _absolute(place) for name, place in places.items()}}
        run = self.request("POST", f"/deployments/{deployment['id']}/create_flow_run", {"parameters": told})
        return Submitted(run["id"], self.page(run["id"]))

    def page(self, run_id: str) -> str:
        """Address of a run for people."""
        return f"{self.pages}/runs/flow-run/{run_id}"

    def wait(self, run: Submitted) -> tuple[bool, str]:
        """Wait for the end of a run: whether it was completed, and its last message."""
        while True:
            state: dict[str, Any] = self.request("GET", f"/flow_runs/{run.id}")["state"]
            if state["type"] in FINAL:
                return state["type"] == "COMPLETED", state.get("message") or state["name"]
            time.sleep(LOOK_EVERY_S)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """What the server answers, from JSON; None where it has nothing to say.

        Raises
        ------
        PrefectUnreachable
            If no server answers.
        PrefectRefused
            If it answers with an error, or is too busy for a minute.
        """
        give_up_s = time.monotonic() + BUSY_S
        while True:
            try:
                return self._request(method, path, body)
            except PrefectRefused as error:
                if error.status != BUSY or time.monotonic() > give_up_s:
                    raise
            time.sleep(LOOK_EVERY_S)

    def _request(self, method: str, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, self._headers, method=method)
            with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:
                content = answer.read()
            return json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            raise PrefectRefused(self.url, error.code, _detail(error.read())) from error
        except (OSError, HTTPException) as error:
            raise PrefectUnreachable(self.url, str(getattr(error, "reason", error))) from error
        except ValueError as error:
            raise PrefectUnreachable(self.url, "no address of Prefect's API; they end in /api") from error


def _detail(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:200]


def _places_among(parameters: Mapping[str, object]) -> dict[str, str]:
    """A model may be a folder or a name: it is a folder where one is."""
    given = {name: str(parameters[name]) for name in ("model", "tissue") if parameters.get(name)}
    return {name: place for name, place in given.items() if name == "tissue" or Path(place).is_dir()}


def _absolute(place: str) -> str:
    """Relative paths are those of this terminal; the worker runs elsewhere."""
    return place if "://" in place else str(Path(place).expanduser().absolute())

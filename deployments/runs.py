"""What Prefect knows of the runs now: those that ended, those that are under way, who would take the next.

Read again and again; what ended a while ago does not change and is kept. By Prefect's REST API: its
own client would take 230 MB where 30 do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from microtome.submit import FINAL, PrefectApi

UNDER_WAY = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
HEARTBEAT = "prefect.flow-run.heartbeat"
PAGE = 200
"""The most that Prefect's server hands out at once."""
MAY_CHANGE = timedelta(hours=1)
"""A run that counts as crashed may come back; later than this it is not looked at again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowRun:
    """A flow run, as far as it matters here. Times are Unix seconds."""

    id: str
    state: str
    """As people see it: `Late` is one, of the type SCHEDULED."""
    is_running: bool
    slide: str
    """As it was given; empty for a run that is about none."""
    deployment: str
    """Name; empty for a run without."""
    labels: Mapping[str, Any]
    due_at: float | None
    started_at: float | None
    ended_at: float | None
    seconds: float
    """Of its process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The runs at one moment."""

    ended: tuple[FlowRun, ...]
    """Newest first."""
    under_way: tuple[FlowRun, ...]
    """Due, waiting or going on; what a schedule has in mind for later is left out."""
    heartbeats: Mapping[str, float]
    """Unix time of the last one of each run that goes on and sends any."""
    pools: Mapping[str, float]
    """Unix time at which a Prefect worker of each work pool was last heard of; 0 for never."""
    deployments: frozenset[str]
    """Names."""


class Runs:
    """Reads Prefect, and remembers what cannot change any more."""

    def __init__(self, api: PrefectApi, most: int, within: timedelta) -> None:
        self._api, self._most, self._within = api, most, within
        self._ended: dict[str, FlowRun] = {}
        self._since: datetime | None = None

    def read(self, now: datetime) -> Seen:
        """The runs as they are.

        Raises
        ------
        PrefectUnreachable, PrefectRefused
            If Prefect does not answer, or with an error.
        """
        names = {made["id"]: made["name"] for made in self._all("/deployments/filter")}
        under_way = self._under_way(now, names)
        return Seen(
            ended=self._read_ended(now, names),
            under_way=under_way,
            heartbeats=dict(self._heartbeats(under_way)),
            pools={pool["name"]: self._last_heard(pool["name"]) for pool in self._all("/work_pools/filter")},
            deployments=frozenset(names.values()),
        )

    def _under_way(self, now: datetime, names: Mapping[str, str]) -> tuple[FlowRun, ...]:
        due = {"before_": (now + timedelta(seconds=1)).isoformat()}
        wanted = {"state": {"type": {"any_": UNDER_WAY}}, "expected_start_time": due}
        found = self._all("/flow_runs/filter", flow_runs=wanted, sort="ID_DESC")
        return tuple(_flow_run(run, names) for run in found)

    def _read_ended(self, now: datetime, names: Mapping[str, str]) -> tuple[FlowRun, ...]:
        oldest = now - self._within
        after = max(oldest, self._since - MAY_CHANGE) if self._since else oldest
        wanted = {"state": {"type": {"any_": sorted(FINAL)}}, "end_time": {"after_": after.isoformat()}}
        for found in self._all("/flow_runs/filter", flow_runs=wanted, sort="END_TIME_DESC"):
            self._ended[found["id"]] = _flow_run(found, names)
        self._since = now
        newest = sorted(self._ended.values(), key=lambda run: run.ended_at or 0.0, reverse=True)
        kept = [run for run in newest if (run.ended_at or 0.0) >= oldest.timestamp()][: self._most]
        self._ended = {run.id: run for run in kept}
        return tuple(kept)

    def _all(self, path: str, **wanted: Any) -> Iterator[dict[str, Any]]:
        """Page after page, but no more than are kept of runs."""
        for offset in range(0, self._most, PAGE):
            page = self._api.request("POST", path, {**wanted, "limit": PAGE, "offset": offset})
            yield from page
            if len(page) < PAGE:
                return

    def _heartbeats(self, runs: tuple[FlowRun, ...]) -> Iterator[tuple[str, float]]:
        for run in runs:
            if run.is_running:
                wanted = {
                    "event": {"name": [HEARTBEAT]},
                    "resource": {"id": [f"prefect.flow-run.{run.id}"]},
                    "order": "DESC",
                }
                answer = self._api.request("POST", "/events/filter", {"filter": wanted, "limit": 1})
                for event in answer["events"]:
                    yield run.id, datetime.fromisoformat(event["occurred"]).timestamp()

    def _last_heard(self, pool: str) -> float:
        heard = (worker["last_heartbeat_time"] for worker in self._all(f"/work_pools/{pool}/workers/filter"))
        return max((_unix(at) or 0.0 for at in heard), default=0.0)


def _flow_run(found: Mapping[str, Any], names: Mapping[str, str]) -> FlowRun:
    return FlowRun(
        id=found["id"],
        state=str(found["state_name"]),
        is_running=found["state_type"] == "RUNNING",
        slide=str(found["parameters"].get("slide", "")),
        deployment=names.get(found["deployment_id"], ""),
        labels=found["labels"] or {},
        due_at=_unix(found["expected_start_time"]),
        started_at=_unix(found["start_time"]),
        ended_at=_unix(found["end_time"]),
        seconds=float(found["total_run_time"]),
    )


def _unix(time: str | None) -> float | None:
    return datetime.fromisoformat(time).timestamp() if time else None

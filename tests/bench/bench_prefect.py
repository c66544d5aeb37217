"""A slide of 40,960 px that Prefect starts, on a whole installation: what is not work on shards."""

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from distributed import Client

from deployments.begin import VARIABLE
from deployments.lab import POOL, Lab
from microtome.cpu import cores
from microtome.records import busy_s
from microtome.store import ResultStore
from microtome.submit import FINAL
from tests.bench.bench_end_to_end import ordinary_pieces, ordinary_slide
from tests.bench.figures import Bench, Figure, figure
from tests.deployments.labs import Api, lab_in
from tests.waiting import until

WITHIN_S = 120
LOOKS_EVERY_S = 3
"""A look is 10 ms of the server's."""


def figures(bench: Bench) -> Iterator[Figure]:
    """All services are up, as in a lab; the run's process is forked from the starter."""
    made = ordinary_slide(bench, ordinary_pieces(bench))
    run_s, submitted_s, idle_s = [], [], []
    with lab_in(bench.work / "lab", bench.data) as (lab, _):
        api = Api(lab)
        _wait_until_up(lab, api)
        for number in range(bench.rounds):
            output = bench.work / str(number)
            run = api.start("segment-slide/on-demand", slide=str(made.path), output=str(output))
            while (ended := api.run(run))["state"]["type"] not in FINAL:
                time.sleep(LOOKS_EVERY_S)
            if ended["state"]["type"] != "COMPLETED":
                raise RuntimeError(ended["state"]["message"])
            times = (ended[name] for name in ("created", "start_time", "end_time"))
            created_s, start_s, end_s = (datetime.fromisoformat(time).timestamp() for time in times)
            run_s.append(end_s - start_s)
            submitted_s.append(end_s - created_s)
            idle_s.append(end_s - start_s - _busy_s(output / f"{made.path.stem}.ome.zarr"))
    yield figure("prefect", "wall time, from submitted to completed", "s", submitted_s)
    yield figure("prefect", "of that: until it runs", "s", _differences(submitted_s, run_s))
    yield figure("prefect", "it runs, but no shard is worked on", "s", idle_s)
    share = [100 * idle / taken for idle, taken in zip(idle_s, run_s, strict=True)]
    yield figure("prefect", "Prefect, Dask and the plan, once it runs", "% of run", share)
    before = _differences(submitted_s, run_s)
    both = [
        100 * (idle + wait) / taken for idle, wait, taken in zip(idle_s, before, submitted_s, strict=True)
    ]
    yield figure("prefect", "the same from submitted to completed", "% of wall", both, "<= 4")


def _wait_until_up(lab: Lab, api: Api) -> None:
    """`make up` does not: a run finds them, a little later."""
    with Client(lab.scheduler, set_as_default=False) as client:
        client.wait_for_workers(cores(), timeout=WITHIN_S)
    until(Path(lab.environment[VARIABLE]).exists, WITHIN_S, "the starter")
    until(lambda: api.request("POST", f"/work_pools/{POOL}/workers/filter", {}), WITHIN_S, "the worker")


def _busy_s(result: Path) -> float:
    store = ResultStore(str(result))
    return busy_s([report for sweep in store.stages() for report in store.recorded(sweep).values()])


def _differences(whole: list[float], part: list[float]) -> list[float]:
    return [one - other for one, other in zip(whole, part, strict=True)]

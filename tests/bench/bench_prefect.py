"""A slide of 40,960 px that Prefect starts, on a whole installation: what is not work on shards."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from microtome.records import busy_s
from microtome.store import ResultStore
from tests.bench.bench_end_to_end import ordinary_pieces, ordinary_slide
from tests.bench.figures import Bench, Figure, figure
from tests.deployments.labs import Api, lab_in

WITHIN_S = 900


def figures(bench: Bench) -> Iterator[Figure]:
    """The worker and the Dask cluster are up, as in a lab; the run is a process of its own."""
    made = ordinary_slide(bench, ordinary_pieces(bench))
    run_s, submitted_s, idle_s = [], [], []
    with lab_in(bench.work / "lab", bench.data) as (lab, _):
        api = Api(lab)
        for number in range(bench.rounds):
            output = bench.work / str(number)
            run = api.start("segment-slide/on-demand", slide=str(made.path), output=str(output))
            ended = api.ended(run, WITHIN_S)
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
    yield figure("prefect", "Prefect, Dask and the plan: no shard is worked on", "% of run", share, "<= 4")
    before = _differences(submitted_s, run_s)
    both = [
        100 * (idle + wait) / taken for idle, wait, taken in zip(idle_s, before, submitted_s, strict=True)
    ]
    yield figure("prefect", "the same from submitted on, with the start of the process", "% of wall", both)


def _busy_s(result: Path) -> float:
    store = ResultStore(str(result))
    return busy_s([report for sweep in store.stages() for report in store.recorded(sweep).values()])


def _differences(whole: list[float], part: list[float]) -> list[float]:
    return [one - other for one, other in zip(whole, part, strict=True)]

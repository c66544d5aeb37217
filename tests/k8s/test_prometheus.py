"""A Prometheus beside the cluster: it scrapes every part, and knows of a run whose pod is gone."""

import json
import re
import threading

import pytest
import yaml

from tests.infra.dashboards import queries
from tests.infra.prometheus import (
    FILES,
    Prometheus,
    kubernetes_scrape,
    not_told_apart,
    program,
    running,
    target_of,
)
from tests.s3 import free_port
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PRECISIONS = ("int8", "f32")
NEED_MORE = ("volume:", "Room on the disks", "Runs that failed")
"""Disks are the kubelet's to tell, which Debian's Prometheus cannot find; and no run of ours has failed."""
GOING_ON = (
    'microtome_runs{state="Running", precision!=""}',
    'microtome_run_heartbeat_timestamp_seconds{precision!=""}',
)
"""What the exporter shows of a run that has its plan, as long as it goes on."""


@pytest.fixture(scope="module")
def unwatched(installed, tmp_path_factory):
    """Prometheus with the chart's rules; it is told of the pods every second, as Kubernetes would."""
    folder = tmp_path_factory.mktemp("prometheus")
    pods = folder / "pods.json"

    def tell() -> None:
        found = [target_of(pod) for pod in installed.get("pods")]
        fresh = folder / "pods.fresh"
        fresh.write_text(json.dumps(found))
        fresh.replace(pods)

    (rules,) = [
        found for found in installed.get("configmaps") if found["metadata"]["name"] == "microtome-rules"
    ]
    for name, text in rules["data"].items():
        (folder / name).write_text(text)
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(folder / name) for name in rules["data"]],
        "scrape_configs": [kubernetes_scrape(pods)],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    tell()
    url = f"http://127.0.0.1:{free_port()}"
    command = [program("prometheus", "prometheus"), f"--config.file={folder / 'prometheus.yaml'}"]
    command += [
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(2):
            tell()

    teller = threading.Thread(target=go_on)
    with running(command, f"{url}/-/ready"):
        teller.start()
        yield Prometheus(url)
        ended.set()
        teller.join()


@pytest.fixture(scope="module")
def runs(installed, unwatched, store, cmu_slide) -> dict[str, str]:
    """Two runs at once, which ended while Prometheus watched and whose pods are gone: ids by precision."""
    folder = store.folder / "slides" / "watched"
    folder.mkdir()
    (folder / cmu_slide.name).write_bytes(cmu_slide.read_bytes())
    slide = f"s3://slides/watched/{cmu_slide.name}"
    runs = {
        precision: installed.submit(slide, f"s3://results/watched/{precision}", precision=precision)
        for precision in PRECISIONS
    }
    # A run that finds no store at its start fails; one that has its plan waits for it.
    until(lambda: all(installed.has_plan(run) for run in runs.values()), within_s=120)
    with store.silent():  # as short as they are, they could end between two looks of the exporter
        for query in GOING_ON:
            until(lambda query=query: unwatched.at_once(query), within_s=60, what=query)
    for run in runs.values():
        assert installed.ended(run)["type"] == "COMPLETED"
    until(lambda: not installed.pods("run"), within_s=60)
    for run in runs.values():
        until(lambda run=run: unwatched.at_once(f'microtome_slide_nuclei{{run="{run}"}}'), within_s=60)
    return runs


@pytest.fixture(scope="module")
def run(runs) -> str:
    """One of them."""
    return runs["int8"]


@pytest.fixture(scope="module")
def prometheus(unwatched, run) -> Prometheus:
    """Prometheus, when it has seen a run."""
    return unwatched


def test_every_part_is_scraped(prometheus, installed):
    up = {series["metric"]["job"]: series["value"][1] for series in prometheus.at_once("max by (job) (up)")}
    parts = ("scheduler", "worker", "intake", "exporter", "prefect")
    assert up == {f"microtome-{part}": "1" for part in parts}
    namespaces = {series["metric"]["namespace"] for series in prometheus.at_once("up")}
    assert namespaces == {installed.namespace}


def test_a_runs_figures_outlive_its_pod(prometheus, run):
    (info,) = prometheus.at_once(f'microtome_slide_info{{run="{run}"}}')
    assert info["metric"]["report"].startswith("s3://results/watched/")
    assert info["metric"]["page"].endswith(run)
    (nuclei,) = prometheus.at_once(f'microtome_slide_nuclei{{run="{run}"}}')
    assert float(nuclei["value"][1]) > 1_000


def test_two_precisions_at_once_are_told_apart_in_every_series_about_work(prometheus, installed, runs):
    at_once = [installed.ask("GET", f"/flow_runs/{run}") for run in runs.values()]
    assert max(run["start_time"] for run in at_once) < min(run["end_time"] for run in at_once)
    found = prometheus.kinds_of_work()
    assert {"microtome_shard_seconds_count", "microtome_pixels_total", "microtome_cpu_seconds_total"} <= set(
        found
    )
    assert not_told_apart(found, {("he-nuclei", precision) for precision in PRECISIONS}) == {}


def test_the_maximum_is_what_the_chart_allows(prometheus, installed):
    (scaler,) = installed.get("daskautoscalers")
    (maximum,) = prometheus.at_once("cluster:microtome_workers:maximum")
    assert float(maximum["value"][1]) == scaler["spec"]["maximum"]
    assert maximum["metric"]["dask_cluster"] == scaler["spec"]["cluster"]


def test_rules_record_and_panels_show_what_happens(prometheus):
    recorded = set(re.findall(r"record: (\S+)", (FILES / "recording.yaml").read_text()))
    asked = {**{name: name for name in recorded}, **dict(queries())}
    wanted = {name: q for name, q in asked.items() if not any(more in name for more in NEED_MORE)}
    assert prometheus.without_series(wanted) == []

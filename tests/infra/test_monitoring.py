"""A real run, watched by a real Prometheus: every rule records, and no panel of the dashboards is empty.

A whole installation (Prefect, two Dask workers, the intake, the exporter) segments two slides in two
precisions and fails at a third.
"""

import json
import os
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
import yaml

from deployments import lab as installation
from deployments.lab import Lab
from microtome.grid import Window
from microtome.slides import open_slide
from microtome.submit import PrefectApi
from tests.deployments.labs import OF_AN_INSTALLATION, TOKEN
from tests.infra.dashboards import queries
from tests.infra.prometheus import FILES, ROOT, Prometheus, answers, not_told_apart, running
from tests.s3 import free_port
from tests.waiting import until

pytestmark = OF_AN_INSTALLATION

FIELD = Window(1900, 6592, 2400, 7192)
SMALL, LARGE, MISSING = "field.tif", "TCGA-V5-A7RE-11A-01-TS1.tif", "missing.svs"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Everything up but Prometheus; the exporter looks every second."""
    names = ("PREFECT", "DASK", "DASK_PAGES", "INTAKE", "EXPORTER")
    told = {f"MICROTOME_{name}_PORT": str(free_port()) for name in names}
    told |= {"MICROTOME_WORKERS": "2", "MICROTOME_INTAKE_TOKEN": TOKEN, "MICROTOME_SOURCES": "s3://slides"}
    lab = Lab(tmp_path_factory.mktemp("lab"), {**os.environ, **told})
    lab.services["exporter"] += ["--every", "1"]
    try:
        installation.up(lab)
        yield lab
    finally:
        installation.down(lab)


@pytest.fixture(scope="module")
def configured(lab, prometheus_program, node_exporter_program, tmp_path_factory):
    """Prometheus with the small lab's configuration, but for ports and pace."""
    folder = tmp_path_factory.mktemp("prometheus")
    pages = f"http://127.0.0.1:{lab.given['MICROTOME_DASK_PAGES_PORT']}"
    identity = f"{pages}/json/identity.json"
    until(lambda: answers(identity) and httpx.get(identity, timeout=30).json()["n_workers"] == 2, within_s=60)
    workers = httpx.get(identity, timeout=30).json()["workers"].values()
    targets = [f"127.0.0.1:{worker['services']['dashboard']}" for worker in workers]
    (folder / "workers.json").write_text(json.dumps([{"targets": targets}]))
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "small-lab.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FILES / Path(name).name) for name in config["rule_files"]]
    ports = {"8787": "DASK_PAGES", "9000": "INTAKE", "9464": "EXPORTER", "4200": "PREFECT"}
    node = free_port()
    for job in config["scrape_configs"]:
        for static in job.get("static_configs", []):
            port = static["targets"][0].rsplit(":")[-1]
            port = lab.given[f"MICROTOME_{ports[port]}_PORT"] if port in ports else node
            static["targets"] = [f"127.0.0.1:{port}"]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    node_exporter = [node_exporter_program, f"--web.listen-address=127.0.0.1:{node}"]
    # A test machine may have nothing but an overlay.
    node_exporter += ["--collector.disable-defaults", "--collector.filesystem"]
    node_exporter += ["--collector.filesystem.fs-types-exclude=^(proc|sysfs|cgroup.*|devpts|mqueue)$"]
    server = [prometheus_program, f"--config.file={folder / 'prometheus.yaml'}"]
    server += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    with running(node_exporter, f"http://127.0.0.1:{node}/metrics"), running(server, f"{url}/-/ready"):
        yield Prometheus(url)


@pytest.fixture(scope="module")
def slides(tcga_slide, tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    """By name: where it lies and with which options it is run."""
    small = tmp_path_factory.mktemp("slides") / SMALL
    with open_slide(str(tcga_slide)) as slide:
        tissue = np.ascontiguousarray(slide.read(0, FIELD).transpose(1, 2, 0))
    per_cm = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}  # 0.25 um/px
    tifffile.imwrite(small, tissue, tile=(256, 256), photometric="rgb", **per_cm)
    return {
        # Long enough for some looks of Prometheus while it is at work: a rate needs two.
        LARGE: (tcga_slide, {"precision": "int8"}),
        SMALL: (small, {"precision": "f32"}),
        MISSING: (small.with_name(MISSING), {}),
    }


@pytest.fixture(scope="module")
def summaries(lab, configured, slides, tmp_path_factory) -> dict[str, dict]:
    """report/summary.json of the slides that were segmented while Prometheus watched."""
    output = tmp_path_factory.mktemp("results")
    api = PrefectApi(lab.environment)
    submitted = {name: api.submit(str(path), str(output), more) for name, (path, more) in slides.items()}
    ended = {name: api.wait(run)[0] for name, run in submitted.items()}
    assert ended == {LARGE: True, SMALL: True, MISSING: False}
    events = f"http://127.0.0.1:{lab.intake_port}/events"
    assert (
        httpx.post(events, content=b"junk", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 400
    )
    until(lambda: len(configured.at_once("microtome_slide_info")) == 2, within_s=60)
    until(lambda: configured.at_once('microtome_run_end_timestamp_seconds{state="Failed"}'), within_s=60)
    until(lambda: configured.at_once("increase(microtome_intake_refused_total[1m]) > 0"), within_s=60)
    paths = {
        name: output / Path(name).with_suffix(".ome.zarr") / "report" / "summary.json"
        for name in (LARGE, SMALL)
    }
    return {name: json.loads(path.read_text()) for name, path in paths.items()}


@pytest.fixture(scope="module")
def prometheus(configured, summaries) -> Prometheus:
    """Prometheus, when all has been seen."""
    return configured


def test_every_part_is_scraped(prometheus):
    up = {(series["metric"]["job"], series["value"][1]) for series in prometheus.at_once("up")}
    parts = ("scheduler", "worker", "intake", "exporter", "prefect", "node")
    assert up == {(f"microtome-{part}", "1") for part in parts}
    assert len(prometheus.at_once('up{job="microtome-worker"}')) == 2


def test_every_rule_records_something(prometheus):
    recorded = sorted(set(re.findall(r"record: (\S+)", (FILES / "recording.yaml").read_text())))
    assert len(recorded) > 20
    assert prometheus.without_series({name: name for name in recorded}) == []


def test_no_panel_of_the_dashboards_is_empty(prometheus):
    asked = list(queries())
    assert len(asked) > 40
    assert prometheus.without_series({f"{name}: {query}": query for name, query in asked}) == []


BOTH = {("he-nuclei", "int8"), ("he-nuclei", "f32")}


def test_both_precisions_are_told_apart_in_every_series_about_work(prometheus):
    found = prometheus.kinds_of_work()
    assert len(found) > 25
    assert not_told_apart(found, BOTH) == {}


def test_no_worker_metric_names_a_slide(prometheus):
    found = prometheus.at_once('{job=~"microtome-(worker|scheduler)"}')
    labels = {(name, value) for series in found for name, value in series["metric"].items()}
    assert not [label for label in labels if LARGE in label[1] or SMALL in label[1] or label[0] == "run"]
    by_name: dict[str, set[str]] = {}
    for name, value in labels:
        by_name.setdefault(name, set()).add(value)
    assert by_name["stage"] <= {"chunk", "infer", "stitch", "pyramid", "export", "publish"}


@pytest.mark.parametrize("slide", [LARGE, SMALL])
def test_figures_of_a_slide_are_those_of_its_summary(prometheus, summaries, slide):
    summary = summaries[slide]

    def figure(name):
        (series,) = prometheus.at_once(f'microtome_slide_{name}{{slide="{slide}"}}')
        return float(series["value"][1])

    assert figure("nuclei") == summary["nuclei"] > 100
    assert figure("nuclei_per_mm2") == pytest.approx(summary["nuclei_per_mm2"])
    assert figure("seconds") == pytest.approx(summary["wall_s"])
    pace = prometheus.at_once(
        f'microtome_slide_tissue_pixels{{slide="{slide}"}} / microtome_slide_seconds{{slide="{slide}"}} / 1e6'
    )
    assert float(pace[0]["value"][1]) == pytest.approx(summary["tissue_mp_s"])
    costs = prometheus.at_once(f'microtome_slide_cpu_seconds{{slide="{slide}"}}')
    assert {series["metric"]["stage"]: float(series["value"][1]) for series in costs} == {
        stage["stage"]: pytest.approx(stage["cpu_s"]) for stage in summary["stages"]
    }


def test_a_slide_leads_to_its_run_and_its_report(prometheus, lab):
    (info,) = prometheus.at_once(f'microtome_slide_info{{slide="{LARGE}"}}')
    assert httpx.get(info["metric"]["page"].replace("/runs/flow-run/", "/api/flow_runs/")).json()[
        "state_type"
    ] == ("COMPLETED")
    assert Path(info["metric"]["report"]).is_file()


def test_quantiles_of_the_tiles_are_those_of_the_summary_but_for_the_buckets(prometheus, summaries):
    for slide, precision in ((LARGE, "int8"), (SMALL, "f32")):
        infer = next(stage for stage in summaries[slide]["stages"] if stage["stage"] == "infer")
        query = (
            "histogram_quantile(0.5, sum by (le) (last_over_time("
            f'microtome_tile_seconds_bucket{{stage="infer",precision="{precision}"}}[10m])))'
        )
        (series,) = prometheus.at_once(query)
        true_s = infer["tile_s"]["p50_s"]
        assert true_s / 1.7 <= float(series["value"][1]) <= true_s * 1.7


def test_the_queue_of_shards_was_seen_and_is_empty_in_the_end(prometheus):
    def values():
        (unfinished,) = prometheus.over_time("cluster:microtome_unfinished:shards")
        return unfinished["values"]

    assert max(values()) >= 2
    until(lambda: values()[-1] == 0, within_s=60)


def test_only_what_is_wrong_raises_an_alert(prometheus):
    expected = {"MicrotomeRunFailed", "MicrotomeIntakeRefuses"}
    alerts = 'ALERTS{alertstate="firing"}'
    until(lambda: expected <= {found["metric"]["alertname"] for found in prometheus.at_once(alerts)}, 60)
    firing = prometheus.at_once(alerts)
    # The machine's disks are not ours.
    about_runs = {series["metric"]["alertname"] for series in firing} - {"MicrotomeDiskFilling"}
    assert about_runs == expected
    (failed,) = [series for series in firing if series["metric"]["alertname"] == "MicrotomeRunFailed"]
    assert failed["metric"]["slide"] == MISSING

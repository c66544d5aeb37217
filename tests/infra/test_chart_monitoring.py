"""What the chart gives to Prometheus and Grafana: rendered, and read by Prometheus itself where it can be."""

import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from tests.infra.dashboards import DASHBOARDS
from tests.infra.prometheus import FILES, ROOT, kubernetes_scrape, running, target_of
from tests.needs import lacking
from tests.s3 import free_port
from tests.waiting import until

CHART = ROOT / "infra" / "chart" / "microtome"
PARTS = {"scheduler": "8787", "worker": "8788", "intake": "9000", "exporter": "9464", "prefect": "4200"}


@pytest.fixture(scope="module")
def helm(shared_data) -> Path:
    found = shared_data.parent / "k8s" / "helm"
    if found.exists():
        return found
    lacking(f"no Helm at {found}")


@pytest.fixture(scope="module")
def rendered(helm):
    """The chart's objects with settings of our own."""

    def render(*settings: str) -> list[dict]:
        told = [word for setting in settings for word in ("--set", setting)]
        command = [helm, "template", "lab", CHART, "--namespace", "slides", *told]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [found for found in yaml.safe_load_all(done.stdout) if found]

    return render


def of_kind(objects: list[dict], kind: str) -> dict[str, dict]:
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pods(objects: list[dict]) -> list[dict]:
    """Templates of the pods that stay."""
    found = [made["spec"]["template"] for made in of_kind(objects, "Deployment").values()]
    for cluster in of_kind(objects, "DaskCluster").values():
        found += [cluster["spec"]["worker"], cluster["spec"]["scheduler"]]
    return found


def port_names(pod: dict) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0].get("ports", [])}


def chosen(pods: list[dict], selector: dict[str, str]) -> list[dict]:
    return [pod for pod in pods if selector.items() <= pod["metadata"]["labels"].items()]


def test_every_part_is_monitored_at_a_port_that_it_has(rendered):
    objects = rendered("monitoring.scrape=operator")
    monitors = [*of_kind(objects, "PodMonitor").values(), *of_kind(objects, "ServiceMonitor").values()]
    seen = {}
    for monitor in monitors:
        (endpoint,) = monitor["spec"].get("podMetricsEndpoints") or monitor["spec"]["endpoints"]
        (pod,) = chosen(pods(objects), monitor["spec"]["selector"]["matchLabels"])
        job = next(rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job")
        seen[job.removeprefix("microtome-")] = str(port_names(pod)[endpoint["port"]])
    assert seen == PARTS


def test_a_service_monitor_finds_one_service_with_its_port(rendered):
    objects = rendered("monitoring.scrape=operator")
    services = of_kind(objects, "Service").values()
    for monitor in of_kind(objects, "ServiceMonitor").values():
        labels = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [found for found in services if labels.items() <= found["metadata"]["labels"].items()]
        assert monitor["spec"]["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]


def test_without_the_operator_pods_are_annotated_and_nothing_of_it_is_made(rendered):
    objects = rendered()
    assert not {found["kind"] for found in objects} & {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    annotated = {
        re.sub("^dask-", "", pod["metadata"]["labels"]["app.kubernetes.io/component"]): pod["metadata"][
            "annotations"
        ]
        for pod in pods(objects)
        if "prometheus.io/scrape" in pod["metadata"].get("annotations", {})
    }
    assert {part: found["prometheus.io/port"] for part, found in annotated.items()} == PARTS


def test_nothing_is_scraped_where_nobody_scrapes(rendered):
    for pod in pods(rendered("monitoring.scrape=none")):
        assert "prometheus.io/scrape" not in pod["metadata"].get("annotations", {})


@pytest.mark.parametrize("scrape", ["operator", "annotations"])
def test_promtool_takes_the_rules_of_the_chart(rendered, promtool, scrape, tmp_path):
    objects = rendered(f"monitoring.scrape={scrape}", "dask.maximum=12")
    if scrape == "operator":
        (rule,) = of_kind(objects, "PrometheusRule").values()
        files = {"all.yaml": yaml.safe_dump({"groups": rule["spec"]["groups"]})}
    else:
        files = of_kind(objects, "ConfigMap")["lab-microtome-rules"]["data"]
    for name, rules in files.items():
        (tmp_path / name).write_text(rules)
    done = subprocess.run([promtool, "check", "rules", *tmp_path.iterdir()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = [
        rule for text in files.values() for group in yaml.safe_load(text)["groups"] for rule in group["rules"]
    ]
    ours = [
        rule
        for name in ("recording.yaml", "alerts.yaml")
        for group in yaml.safe_load((FILES / name).read_text())["groups"]
        for rule in group["rules"]
    ]
    (maximum,) = [rule for rule in rules if rule not in ours]
    assert maximum["record"] == "cluster:microtome_workers:maximum"
    assert maximum["expr"] == 'cluster:microtome_workers:count{namespace="slides"} * 0 + 12'
    assert [rule for rule in ours if rule not in rules] == []


def test_grafana_gets_the_dashboards_as_they_are(rendered):
    objects = rendered("monitoring.dashboards.labels.team=pathology")
    maps = [
        found for found in of_kind(objects, "ConfigMap").values() if "team" in found["metadata"]["labels"]
    ]
    given = {name: json.loads(text) for found in maps for name, text in found["data"].items()}
    assert given == {path.name: json.loads(path.read_text()) for path in DASHBOARDS}
    assert all(found["metadata"]["labels"]["grafana_dashboard"] == "1" for found in maps)


def test_a_prometheus_without_the_operator_gives_every_pod_the_job_that_the_rules_ask_for(
    rendered, prometheus_program, tmp_path
):
    found = [target_of(as_running(pod)) for pod in pods(rendered())]
    (tmp_path / "pods.json").write_text(json.dumps(found))
    config = {"scrape_configs": [kubernetes_scrape(tmp_path / "pods.json")]}
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    command = [prometheus_program, f"--config.file={tmp_path / 'prometheus.yaml'}"]
    command += [
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with running(command, f"{url}/-/ready"):
        until(lambda: httpx.get(f"{url}/api/v1/targets").json()["data"]["activeTargets"], within_s=60)
        targets = httpx.get(f"{url}/api/v1/targets").json()["data"]["activeTargets"]
    assert {
        target["labels"]["job"].removeprefix("microtome-"): target["scrapeUrl"] for target in targets
    } == {
        part: f"http://127.0.0.2:{port}{'/api/metrics' if part == 'prefect' else '/metrics'}"
        for part, port in PARTS.items()
    }
    clusters = {target["labels"]["job"] for target in targets if "dask_cluster" in target["labels"]}
    assert clusters == {"microtome-scheduler", "microtome-worker"}
    assert {target["labels"]["namespace"] for target in targets} == {"slides"}


def as_running(pod: dict) -> dict:
    """What Kubernetes would say of a pod of the template, on 127.0.0.2 where nobody listens."""
    about = pod["metadata"] | {"namespace": "slides", "name": "a-pod"}
    if about["labels"]["app.kubernetes.io/component"].startswith("dask-"):
        about["labels"] = about["labels"] | {"dask.org/cluster-name": "slides"}  # the operator's
    return {"metadata": about, "status": {"podIP": "127.0.0.2", "phase": "Running"}}

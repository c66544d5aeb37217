"""The chart as it is rendered: linted, scored, and refusing what makes no sense."""

import re
import shutil
import subprocess

import pytest
import yaml

from tests.k8s.definitions import definitions
from tests.k8s.installation import CHART, ROOT, VALUES
from tests.k8s.pods import pods_of
from tests.needs import lacking

EXAMPLES = sorted((ROOT / "infra" / "examples").glob("*.yaml"))
EXCEPTIONS = {
    "container-image-pull-policy": "images have a version for a tag; a node has to start what it holds, "
    "with the registry away",
}
"""kube-score's findings that we do not follow, each with its reason."""


@pytest.fixture
def helm(tools):
    def run(*words):
        program = shutil.which("helm") or str(tools / "helm")
        return subprocess.run([program, *words], capture_output=True, text=True)

    return run


def documents(helm, *words):
    name = () if "--name-template" in words else ("microtome",)
    done = helm("template", *name, str(CHART), *words)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def test_helm_finds_nothing_to_complain_about(helm):
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["shared", "per-run"])
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_gives_sealed_pods_with_requests_and_limits(helm, values, mode):
    found = list(pods_of(documents(helm, "--values", str(values), "--set", f"dask.mode={mode}")))
    assert len(found) >= 8
    for pod in found:
        for container in pod["spec"]["containers"]:
            resources, sealed = container["resources"], container["securityContext"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"]), pod["metadata"]
            assert {"cpu", "memory"} <= set(resources["limits"]), pod["metadata"]
            assert sealed["readOnlyRootFilesystem"] is True
            assert sealed["allowPrivilegeEscalation"] is False
            assert sealed["capabilities"]["drop"] == ["ALL"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    "setting",
    [
        "dask.maxmum=3",
        "storage.output=results",
        "runs.atOnce=0",
        "image.pullPolicy=Sometimes",
        "prefect.url=here",
        "dask.mode=own",
        "dask.idleSeconds=5",
    ],
)
def test_values_that_make_no_sense_are_refused(helm, setting):
    done = helm("template", "microtome", str(CHART), "--set", setting)
    assert done.returncode != 0
    assert setting.partition("=")[0].rpartition(".")[2] in done.stderr


def test_another_image_makes_another_dask_cluster_behind_the_same_service(helm):
    def of(*words):
        found = documents(helm, *words)
        (cluster,) = [one for one in found if one["kind"] == "DaskCluster"]
        (service,) = [one for one in found if one["metadata"]["name"] == "microtome-dask"]
        assert service["spec"]["selector"]["dask.org/cluster-name"] == cluster["metadata"]["name"]
        return cluster["metadata"]["name"]

    assert of() == of("--set", "dask.maximum=9") != of("--set", "image.tag=other")


def test_the_quick_start_needs_no_operator_but_dasks(helm, tmp_path):
    """The values of docs/kubernetes.md, as they stand there."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (values,) = re.findall(r"^cat > values.yaml <<END\n(.*?)^END$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "values.yaml").write_text(values)
    found = documents(helm, "--values", str(tmp_path / "values.yaml"))
    assert not NEED_OPERATORS & {document["kind"] for document in found}
    assert {"s3://slides/in", "s3://results", "eu-central-1"} <= set(strings_in(found))
    secrets = {document["metadata"]["name"] for document in found if document["kind"] == "Secret"}
    asked = {source["secretRef"]["name"] for source in dicts_in(found) if "secretRef" in source}
    assert asked <= secrets | {"store"}, "the only one that the page makes"


def dicts_in(found):
    """Every mapping in documents, at any depth."""
    if isinstance(found, dict):
        yield found
    for inner in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from dicts_in(inner)


def strings_in(found):
    return [value for mapping in dicts_in(found) for value in mapping.values() if isinstance(value, str)]


@pytest.mark.parametrize("setting", ["prefect.server.databaseSecret=database", "noticeUrl=https://a.example"])
def test_prefects_server_reaches_its_database_and_who_gets_notices(helm, setting):
    def ports(*words):
        policies = [one for one in documents(helm, *words) if one["metadata"]["name"] == "microtome-server"]
        rules = [rule for policy in policies for rule in policy["spec"]["egress"]]
        return {port["port"] for rule in rules for port in rule["ports"]}

    on = ("--set", "networkPolicy.enabled=true")
    assert ports(*on) == set()
    assert ports(*on, "--set", setting) == {5432, 443}
    assert ports(*on, "--set", setting, "--set", "networkPolicy.server[0].ports[0].port=6432") == {6432}


NEED_OPERATORS = {"ExternalSecret", "PodMonitor", "ServiceMonitor", "PrometheusRule"}
"""Kinds of operators that the tests do not install."""
OF_OPERATORS = (
    "monitoring.scrape=operator",
    "credentials.externalSecret.enabled=true",
    "credentials.externalSecret.storeRef.name=vault",
    "credentials.externalSecret.storeRef.kind=ClusterSecretStore",
    "credentials.externalSecret.key=microtome/s3",
)
EVERYTHING = (
    "intake.ingress.enabled=true",
    "intake.ingress.host=intake.example.org",
    "intake.ingress.tlsSecret=certificate",
    "storage.claim.enabled=true",
    "storage.claim.storageClass=shared",
    "networkPolicy.enabled=true",
    "priorityClasses.create=true",
)


@pytest.mark.parametrize("mode", ["shared", "per-run"])
@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_kubernetes_takes_every_object_of_every_example_without_a_warning(helm, installed, values, mode):
    settings = [word for setting in (*EVERYTHING, f"dask.mode={mode}") for word in ("--set", setting)]
    where = ("--namespace", installed.namespace, "--name-template", "tried")
    found = documents(helm, *where, "--values", str(values), *settings)
    asked = [document for document in found if document["kind"] not in NEED_OPERATORS]
    assert {"Ingress", "PersistentVolumeClaim", "NetworkPolicy", "PriorityClass"} <= {
        document["kind"] for document in asked
    }
    for document in asked:
        if document["kind"] == "Pod":  # its own account and priority would have to be there
            document["spec"]["serviceAccountName"] = "default"
            document["spec"].pop("priorityClassName", None)
    answer = installed.kubectl(
        "apply", "--dry-run=server", "-f", "-", given=yaml.safe_dump_all(asked), check=False
    )
    # Among the warnings would be that a pod breaks the namespace's restricted standard.
    wrong = [line for line in answer.splitlines() if not line.endswith("created (server dry run)")]
    assert wrong == []
    assert len(answer.splitlines()) == len(asked)


@pytest.fixture(scope="module")
def defined(installed):
    """The kinds of NEED_OPERATORS, as their operators define them; gone at the end."""
    found = definitions(NEED_OPERATORS)
    names = [f"crd/{name}" for name in found]
    installed.kubectl("apply", "--server-side", "-f", "-", given="---".join(found.values()))
    try:
        installed.kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
        yield
    finally:
        installed.kubectl("delete", *names)


def test_operators_take_what_the_chart_makes_for_them(helm, installed, defined):
    settings = [word for setting in OF_OPERATORS for word in ("--set", setting)]
    found = documents(helm, "--namespace", installed.namespace, "--name-template", "tried", *settings)
    asked = [document for document in found if document["kind"] in NEED_OPERATORS]
    assert {document["kind"] for document in asked} == NEED_OPERATORS
    text = yaml.safe_dump_all(asked)
    answer = installed.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", given=text, check=False
    )
    assert [line for line in answer.splitlines() if not line.endswith("created (server dry run)")] == []
    assert len(answer.splitlines()) == len(asked)


def test_kube_score_finds_nothing_critical_in_the_chart_and_the_pods_that_others_make_of_it(helm, tmp_path):
    program = shutil.which("kube-score") or shutil.which("kube-score", path=str(ROOT / ".venv" / "bin"))
    if program is None:
        reason = "no kube-score: go install github.com/zegl/kube-score/cmd/kube-score@latest"
        lacking(reason, ci_has_it=shutil.which("go") is not None)
    rendered = documents(helm, *(f"--values={values}" for values in VALUES))
    # Pods of the operator and of Prefect: without them the policies and Services for them select nothing.
    made = [pod for pod in pods_of(rendered) if pod["metadata"]["name"] not in _names(rendered)]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(rendered + made))
    ignored = [word for test in EXCEPTIONS for word in ("--ignore-test", test)]
    done = subprocess.run(
        [program, "score", str(tmp_path / "all.yaml"), "--output-format", "ci", *ignored],
        capture_output=True,
        text=True,
    )
    assert "[OK]" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("[CRITICAL]")] == []


def _names(rendered):
    return {
        document["metadata"]["name"]
        for document in rendered
        if document["kind"] in ("Deployment", "Job", "Pod")
    }

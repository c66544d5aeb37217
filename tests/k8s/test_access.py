"""What the parts of an installation may not do, and what the namespace refuses."""

import json

import pytest

PARTS = (
    "worker",
    "register",
    "run",
    "dask-scheduler",
    "dask-worker",
    "test",
    "prefect",
    "intake",
    "exporter",
)
NEVER = (
    "get secrets",
    "list secrets",
    "create pods",
    "create pods/exec",
    "delete pods",
    "create deployments.apps",
    "patch deployments.apps",
    "delete persistentvolumeclaims",
    "create rolebindings.rbac.authorization.k8s.io",
    "patch daskclusters.kubernetes.dask.org",
    "get nodes",
    "list namespaces",
)
OF_THE_WORKER = (
    "create jobs.batch",
    "delete jobs.batch",
    "watch jobs.batch",
    "list pods",
    "get pods/log",
    "list events",
)


def may(installed, part, deed):
    account = f"system:serviceaccount:{installed.namespace}:microtome-{part}"
    answer = installed.kubectl("auth", "can-i", *deed.split(), "--as", account, check=False)
    return answer.split()[0] == "yes"


@pytest.mark.parametrize("part", PARTS)
def test_every_account_is_refused_what_it_does_not_need(installed, part):
    wrong = NEVER if part == "worker" else NEVER + OF_THE_WORKER
    assert [deed for deed in wrong if may(installed, part, deed)] == []


def test_the_worker_may_do_what_runs_need_in_its_namespace_only(installed):
    assert [deed for deed in OF_THE_WORKER if not may(installed, "worker", deed)] == []
    elsewhere = ("create", "jobs.batch", "--namespace", "default")
    account = f"system:serviceaccount:{installed.namespace}:microtome-worker"
    answer = installed.kubectl("auth", "can-i", *elsewhere, "--as", account, check=False)
    assert answer.split()[0] == "no"


def test_only_pods_that_talk_to_kubernetes_get_a_token(installed):
    with_token = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for pod in installed.get("pods", "app.kubernetes.io/instance=microtome")
        if any("projected" in volume for volume in pod["spec"]["volumes"])
    }
    assert with_token <= {"worker"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("securityContext", "runAsNonRoot"), False),
        (("hostNetwork",), True),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
        (("containers", 0, "securityContext", "capabilities"), {"add": ["NET_ADMIN"]}),
    ],
)
def test_a_pod_of_ours_that_broke_the_restricted_standard_would_be_refused(installed, path, value):
    (pod, *_) = installed.get("pods", "app.kubernetes.io/component=intake")
    spec = {key: pod["spec"][key] for key in ("securityContext", "containers", "volumes")}
    place = spec
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    bad = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": spec}
    answer = installed.kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(bad), check=False)
    assert 'violates PodSecurity "restricted' in answer

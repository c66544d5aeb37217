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


OF_A_RUN_PER_RUN = tuple(f"{verb} daskclusters.kubernetes.dask.org" for verb in ("create", "get", "delete"))
"""What the account of a run may do where each has a Dask cluster of its own, and nobody elsewhere."""


def allowed(installed, part, deeds, namespace=None):
    """Which of the deeds Kubernetes would let the account of a part do."""
    account = f"system:serviceaccount:{installed.namespace}:microtome-{part}"
    asked = [review(account, deed, namespace or installed.namespace) for deed in deeds]
    told = {"apiVersion": "v1", "kind": "List", "items": asked}
    verdict = "jsonpath={.status.allowed}{'\\n'}"
    answers = installed.kubectl("create", "-f", "-", "-o", verdict, given=json.dumps(told)).split()
    return [deed for deed, answer in zip(deeds, answers, strict=True) if answer == "true"]


def review(account, deed, namespace):
    """`create pods/exec` or `list jobs.batch` as a question to Kubernetes."""
    verb, what = deed.split()
    name, _, group = what.partition(".")
    resource, _, sub = name.partition("/")
    about = {"verb": verb, "group": group, "resource": resource, "subresource": sub, "namespace": namespace}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "groups": ["system:serviceaccounts"], "resourceAttributes": about},
    }


@pytest.mark.parametrize("part", PARTS)
def test_every_account_is_refused_what_it_does_not_need(installed, part):
    wrong = NEVER if part == "worker" else NEVER + OF_THE_WORKER
    assert allowed(installed, part, wrong + OF_A_RUN_PER_RUN) == []


def test_the_worker_may_do_what_runs_need_in_its_namespace_only(installed):
    assert allowed(installed, "worker", OF_THE_WORKER) == list(OF_THE_WORKER)
    assert allowed(installed, "worker", OF_THE_WORKER, namespace="default") == []


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

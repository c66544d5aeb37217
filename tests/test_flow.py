"""The Prefect flow on a real server: what people see there, and that it makes the same bytes."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from microtome import stages
from microtome.cluster import ClusterSpec, connect
from microtome.errors import SlideNotFound
from microtome.options import Options
from microtome.pipeline import finish, prepare
from tests.damaged import damaged_copy

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prefect server of this module's own."""
    from prefect.settings import PREFECT_HOME, PREFECT_SERVER_ANALYTICS_ENABLED, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    home = tmp_path_factory.mktemp("prefect")
    ours = {PREFECT_HOME: home, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    with temporary_settings(updates=ours), prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def client(server):
    from prefect import get_client

    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def segmented(server, cmu_slide, tmp_path_factory):
    """(folder, final state) of a slide that went through the flow."""
    from flows.segment import segment_slide

    folder = tmp_path_factory.mktemp("flow")
    return folder, segment_slide(slide=str(cmu_slide), output=str(folder), return_state=True)


def flow_run_of(client, state):
    return client.read_flow_run(state.state_details.flow_run_id)


def artifacts_of(client, run_id: UUID, kind: str):
    return [a for a in client.read_artifacts() if a.flow_run_id == run_id and a.type == kind]


def task_runs_of(client, run_id: UUID):
    return [run for run in client.read_task_runs() if run.flow_run_id == run_id]


def digests(result: Path) -> dict[str, str]:
    """Of everything that must be the same bytes whoever ran it."""
    return {
        str(path.relative_to(result)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(result.rglob("*"))
        if path.is_file() and path.relative_to(result).parts[0] not in ("report", "manifest")
    }


def test_the_flow_makes_the_same_bytes_as_the_command_line(segmented, cmu_slide, tmp_path):
    folder, state = segmented
    assert state.is_completed(), state.message
    prepared = prepare(str(cmu_slide), str(tmp_path), Options())
    with connect(ClusterSpec(workers=1)) as cluster:
        finish(prepared, cluster, lambda progress: None)
    name = "CMU-1-Small-Region.ome.zarr"
    assert len(digests(folder / name)) > 10
    assert digests(folder / name) == digests(tmp_path / name)


def test_the_run_is_named_and_tagged_by_slide_and_model(segmented, client):
    run = flow_run_of(client, segmented[1])
    assert run.name == "CMU-1-Small-Region.svs · he-nuclei 1.0"
    assert "model:he-nuclei-1.0" in run.tags


def test_a_slide_is_one_task_run_a_stage(segmented, client):
    runs = task_runs_of(client, segmented[1].state_details.flow_run_id)
    names = [run.name.rsplit("-", 1)[0] for run in runs]
    assert sorted(names) == sorted(stages.NAMES)
    assert all(run.state.is_completed() for run in runs)


def test_every_stage_has_a_progress_artifact_that_reached_its_end(segmented, client):
    artifacts = artifacts_of(client, segmented[1].state_details.flow_run_id, "progress")
    assert len({artifact.task_run_id for artifact in artifacts}) == len(artifacts) >= 5
    assert {artifact.data for artifact in artifacts} == {100.0}


def test_the_summary_artifact_says_how_many_nuclei_and_where_the_result_lies(segmented, client):
    folder, state = segmented
    (artifact,) = artifacts_of(client, state.state_details.flow_run_id, "markdown")
    assert artifact.key == "slide-cmu-1-small-region-svs"
    assert f"| nuclei | {state.result().nuclei:,} |" in artifact.data
    assert str(folder / "CMU-1-Small-Region.ome.zarr") in artifact.data


def test_a_second_run_finds_it_done_and_runs_no_stage(segmented, client, cmu_slide):
    from flows.segment import segment_slide

    folder, first = segmented
    again = segment_slide(slide=str(cmu_slide), output=str(folder), return_state=True)
    assert again.result() == first.result()
    assert not task_runs_of(client, again.state_details.flow_run_id)


def test_a_users_mistake_is_the_runs_message(server, tmp_path):
    from flows.segment import segment_slide

    missing = tmp_path / "S-001.svs"
    state = segment_slide(slide=str(missing), output=str(tmp_path / "out"), return_state=True)
    assert state.is_failed()
    assert str(SlideNotFound(str(missing))) in state.message
    assert not (tmp_path / "out").exists()


def test_a_damaged_slide_fails_once_and_leaves_nothing(server, client, cmu_slide, tmp_path):
    from flows.segment import segment_slide

    damaged = damaged_copy(cmu_slide, tmp_path / "damaged.svs", 20)
    state = segment_slide(slide=str(damaged), output=str(tmp_path / "out"), return_state=True)
    assert "--on-bad-tile blank" in state.message
    runs = task_runs_of(client, state.state_details.flow_run_id)
    tries = {run.name.rsplit("-", 1)[0]: run.run_count for run in runs}
    assert tries == dict.fromkeys(stages.NAMES, 1)
    assert not list((tmp_path / "out").rglob("*.parquet"))
    assert not (tmp_path / "out" / "damaged.ome.zarr").exists()


def test_a_stage_is_tried_again_unless_the_user_is_at_fault():
    from prefect.states import Failed

    from tasks.engine import may_pass

    assert may_pass(None, None, Failed(data=OSError("connection reset")))
    assert not may_pass(None, None, Failed(data=SlideNotFound("S-001.svs")))


def test_a_models_scores_are_a_table_in_prefect_and_a_file(server, client, shared_data, tmp_path):
    from flows.evaluate import evaluate

    for kind in ("images", "masks"):
        (tmp_path / "few" / kind).mkdir(parents=True)
        for path in sorted((shared_data / "nuclei" / "tnbc" / kind).iterdir())[:4]:
            (tmp_path / "few" / kind / path.name).symlink_to(path)
    scores = tmp_path / "scores.json"
    state = evaluate(str(tmp_path / "few"), precision="f32", output=str(scores), return_state=True)
    assert state.is_completed(), state.message
    (artifact,) = artifacts_of(client, state.state_details.flow_run_id, "table")
    told = json.loads(scores.read_text())
    assert artifact.key == "model-he-nuclei"
    assert json.loads(artifact.data) == told["scores"] == state.result()["scores"]
    assert [row["IoU"] for row in told["scores"]] == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert told["scores"][0]["AP"] > 0.4


def test_training_without_its_environment_says_how_to_make_it(server, tmp_path, monkeypatch):
    from flows.train import train

    monkeypatch.setenv("MICROTOME_TRAIN_ENV", str(tmp_path / "nowhere"))
    state = train(str(tmp_path), str(tmp_path / "out"), name="new", version="1", return_state=True)
    assert state.is_failed()
    assert "make train-env" in state.message
    assert not (tmp_path / "out").exists()


DEPLOYMENTS = (
    "segment-slide/on-demand",
    "segment-slide/on-upload",
    "sweep/nightly",
    "clean-up/weekly",
    "evaluate/on-demand",
    "train/on-demand",
)


def test_every_deployment_registers_and_its_form_explains_every_parameter(server, client):
    from prefect.settings import get_current_settings

    env = os.environ | get_current_settings().to_environment_variables(exclude_unset=True)
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for command in (["work-pool", "create", "slides", "--type", "process"], ["deploy", "--all"]):
        subprocess.run([*prefect, *command], cwd=ROOT, env=env, check=True, capture_output=True)
    for name in DEPLOYMENTS:
        deployment = client.read_deployment_by_name(name)
        assert deployment.enforce_parameter_schema
        assert deployment.global_concurrency_limit.limit == 1, name
        form = deployment.parameter_openapi_schema["properties"]
        assert [field for field, told in form.items() if not told.get("description")] == [], name
    assert len(client.read_deployments()) == len(DEPLOYMENTS)
    deployment = client.read_deployment_by_name("segment-slide/on-demand")
    form = deployment.parameter_openapi_schema["properties"]
    assert form["slide"]["description"].startswith("The slide")


def test_the_same_definition_registers_with_a_kubernetes_pool(server, client, tmp_path):
    from prefect.settings import get_current_settings
    from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

    template = KubernetesWorker.get_default_base_job_template()
    template["variables"]["properties"]["image"]["default"] = "registry.lab/microtome:0.1.0"
    (tmp_path / "template.json").write_text(json.dumps(template))
    env = os.environ | get_current_settings().to_environment_variables(exclude_unset=True)
    command = [sys.executable, "-m", "deployments.register", "--pool", "kube", "--at-once", "3"]
    command += ["--job-template", str(tmp_path / "template.json")]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True)
    pool = client.read_work_pool("kube")
    assert pool.type == "kubernetes"
    for name in DEPLOYMENTS:
        deployment = client.read_deployment_by_name(name)
        assert deployment.work_pool_name == "kube"
        is_chore = name in ("sweep/nightly", "clean-up/weekly")
        assert deployment.work_queue_name == ("chores" if is_chore else "segment")
        # What the worker makes of pool and deployment: a Job that Kubernetes would take.
        job = asyncio.run(
            KubernetesWorkerJobConfiguration.from_template_and_values(
                pool.base_job_template, deployment.job_variables
            )
        ).job_manifest
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert (job["kind"], container["image"]) == ("Job", "registry.lab/microtome:0.1.0")
    assert client.read_work_queue_by_name("segment", work_pool_name="kube").concurrency_limit == 3

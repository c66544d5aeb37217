"""The whole installation: a real server, worker, intake, Dask cluster and S3, from upload to result."""

import json
import os
import shutil
import subprocess
import sys

import boto3
import dask
import httpx
import pytest
from distributed import Client

from deployments import lab as installation
from deployments.lab import ROOT
from microtome.forks import ENVIRONMENT
from microtome.model import default_model
from microtome.submit import FINAL
from tests.deployments.labs import OF_AN_INSTALLATION, Api, lab_in
from tests.waiting import until

pytestmark = OF_AN_INSTALLATION

ODD = "in/A b+c%d é.tif"


@pytest.fixture(scope="module")
def lab(shared_data, tmp_path_factory):
    """Everything up, with S3 whose notifications go to the intake."""
    with lab_in(tmp_path_factory.mktemp("lab"), shared_data, notifies=True, MICROTOME_WORKERS="1") as (
        lab,
        _,
    ):
        yield lab


@pytest.fixture
def api(lab):
    return Api(lab)


@pytest.fixture(scope="module")
def bucket(lab):
    names = {"endpoint_url": "AWS_ENDPOINT_URL", "region_name": "AWS_REGION"}
    keys = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    client = boto3.client("s3", **{name: lab.given[variable] for name, variable in (names | keys).items()})
    yield client
    client.close()


def finished(api, *keys, runs=1):
    """Waits until each key has so many runs and all of them have ended: the runs."""
    slides = [f"s3://slides/{key}" for key in keys]

    def look():
        found = [run for run in api.runs("on-upload") if run["parameters"]["slide"] in slides]
        all_made = sorted(run["parameters"]["slide"] for run in found) == sorted(slides * runs)
        return all_made and all(run["state"]["type"] in FINAL for run in found) and found

    return until(look, 240, f"the end of {runs} of each of {keys}")


def verified(lab, run):
    """Whether `microtome verify` accepts the result of a run."""
    name = run["parameters"]["slide"].rsplit("/", 1)[-1].rsplit(".", 1)[0]
    result = f"{run['parameters']['output']}/{name}.ome.zarr"
    return microtome(lab, "verify", result).returncode == 0


def microtome(lab, *words, cwd=None):
    command = [sys.executable, "-m", "microtome", *words]
    return subprocess.run(command, env=lab.environment, cwd=cwd, capture_output=True, text=True)


def test_an_upload_with_an_odd_name_ends_as_a_verified_result(lab, api, bucket, slides):
    bucket.put_object(Bucket="slides", Key=ODD, Body=slides(0))
    (run,) = finished(api, ODD)
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert "upload" in run["tags"]
    assert verified(lab, run)


def test_a_new_version_of_a_key_makes_a_result_of_its_own(lab, api, bucket, slides):
    bucket.put_object(Bucket="slides", Key=ODD, Body=slides(1))
    both = finished(api, ODD, runs=2)
    assert [run["state"]["type"] for run in both] == ["COMPLETED"] * 2
    assert len({run["parameters"]["output"] for run in both}) == 2
    assert all(verified(lab, run) for run in both)


def test_two_slides_at_once_follow_each_other(lab, api, bucket, slides):
    keys = ["in/two/a.tif", "in/two/b.tif"]
    queue, before = "/work_pools/slides/queues/segment", len(api.runs("on-upload"))
    # Until there are both: the first would be finished before.
    api.request("PATCH", queue, {"is_paused": True})
    bucket.put_object(Bucket="slides", Key=keys[0], Body=slides(10))
    multipart(bucket, keys[1], slides(11))
    until(lambda: len(api.runs("on-upload")) == before + 2, 120, "two runs")
    api.request("PATCH", queue, {"is_paused": False})
    found = finished(api, *keys)
    assert [run["state"]["type"] for run in found] == ["COMPLETED"] * 2
    assert all(verified(lab, run) for run in found)
    first, second = sorted(found, key=lambda run: run["start_time"])
    assert first["end_time"] <= second["start_time"], "it waited"


def multipart(bucket, key, body):
    at = {"Bucket": "slides", "Key": key}
    upload = bucket.create_multipart_upload(**at)["UploadId"]
    part = bucket.upload_part(**at, UploadId=upload, PartNumber=1, Body=body)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    bucket.complete_multipart_upload(**at, UploadId=upload, MultipartUpload=parts)


def test_the_sweep_finds_what_nobody_announced_and_only_that(lab, api, bucket, slides, tmp_path):
    done = len(api.runs("on-upload"))
    installation.stop(installation.running(lab, "intake"))
    bucket.put_object(Bucket="slides", Key="in/lost.tif", Body=slides(20))
    prefect(lab, "deployment", "run", "sweep/nightly", "--watch")
    (run,) = finished(api, "in/lost.tif")
    installation.start(lab, "intake")
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert "nightly" in run["tags"]
    assert verified(lab, run)
    prefect(lab, "deployment", "run", "sweep/nightly", "--watch")
    assert len(api.runs("on-upload")) == done + 1


def prefect(lab, *words):
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    subprocess.run(command, cwd=ROOT, env=lab.environment, check=True, capture_output=True)


def test_a_run_starts_as_one_process_unless_somebody_wants_it_otherwise(lab, api):
    pool = "/work_pools/slides"

    def command_after_registering(told):
        template = api.request("GET", pool)["base_job_template"]
        template["variables"]["properties"]["command"]["default"] = told
        api.request("PATCH", pool, {"base_job_template": template})
        installation.register(lab)
        return api.request("GET", pool)["base_job_template"]["variables"]["properties"]["command"]["default"]

    own = "nice python -m prefect.engine"
    assert command_after_registering(own) == own
    # As Prefect makes pools, and as ours were made once.
    for before in (None, "python -m prefect.engine"):
        assert command_after_registering(before) == "python -m deployments.begin"


def test_runs_are_forked_from_the_starter(lab, api):
    # After the first tests' uploads, that is.
    both = api.runs("on-upload") + api.runs("nightly")
    runs = sum(run["state"]["type"] == "COMPLETED" for run in both)
    forked = (lab.state / "logs" / "starter.log").read_text().count("for a run")
    log = (lab.state / "logs" / "worker.log").read_text()
    assert forked >= runs > 0
    assert "process of its own" not in log


def test_submit_prints_the_address_of_its_run_and_ends_as_it_ends(lab, slides, tmp_path):
    (tmp_path / "a.tif").write_bytes(slides(30))
    shutil.copytree(default_model(), tmp_path / "ours")
    options = ("--model", "ours", "--pixels", "none", "--shard-size", "1024", "--no-tissue")
    done = microtome(lab, "submit", "a.tif", "-o", "out", "--wait", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads((tmp_path / "out" / "a.ome.zarr" / "plan.json").read_text())
    assert (plan["pixels"], plan["shard_px"], plan["tissue"]["source"]) == ("none", 1024, "all")
    assert plan["model"]["uri"] == str(tmp_path / "ours"), "a folder of this terminal's"
    assert done.stdout.startswith(f"{lab.pages}/runs/flow-run/")
    assert microtome(lab, "verify", str(tmp_path / "out" / "a.ome.zarr")).returncode == 0
    missing = microtome(lab, "submit", str(tmp_path / "b.tif"), "-o", str(tmp_path / "out"), "--wait")
    assert missing.returncode == 1
    assert "no such file" in missing.stderr


def test_a_wrong_parameter_is_refused_before_there_is_a_run(lab, api):
    deployment = api.deployment("segment-slide/on-demand")
    wrong = {"parameters": {"slide": "a.svs", "precision": "f99"}}
    address = f"{lab.pages}/api/deployments/{deployment['id']}/create_flow_run"
    answer = httpx.post(address, json=wrong, timeout=30)
    assert answer.status_code == 409
    assert "f99" in answer.text


def test_a_run_that_died_is_watched_for(api):
    names = {automation["name"] for automation in api.request("POST", "/automations/filter", {})}
    assert "microtome run died" in names
    assert "microtome run failed" not in names, "nobody said where notices go"


def test_a_second_up_starts_nothing_twice(lab):
    before = {name: installation.running(lab, name) for name in lab.services}
    installation.up(lab)
    assert {name: installation.running(lab, name) for name in lab.services} == before


def test_the_dask_cluster_has_our_settings_and_its_workers_our_environment(lab):
    with Client(lab.scheduler, set_as_default=False) as client:
        (looks,) = client.run(dask.config.get, "distributed.worker.profile.enabled").values()
        saturation = client.run_on_scheduler(dask.config.get, "distributed.scheduler.worker-saturation")
        (environment,) = client.run(lambda: dict(os.environ)).values()
    assert (looks, saturation) == (False, 1.0)
    assert ENVIRONMENT.items() <= environment.items()

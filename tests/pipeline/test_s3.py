"""Slide and result in buckets of a real S3 server: the same bytes as on the local disk."""

import shutil
import subprocess
import sys

from microtome.model import default_model
from microtome.store import ResultStore
from tests.pipeline.runs import digests


def test_from_bucket_to_bucket_the_bytes_are_those_of_the_local_disk(
    s3, field, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setenv("MICROTOME_CACHE", str(tmp_path / "cache"))
    shutil.copy(field, s3.make_bucket("slides") / "field.png")
    shutil.copytree(default_model(), s3.make_bucket("models") / "he-nuclei")
    s3.make_bucket("results")
    words = ["s3://slides/field.png", "-o", "s3://results/tonight", "--mpp", "0.25", "--precision", "f32"]
    command = [sys.executable, "-m", "microtome", "segment", *words, "--shard-size", "512"]
    command += ["--model", "s3://models/he-nuclei"]
    subprocess.run(command, check=True, capture_output=True)
    there = digests(ResultStore("s3://results/tonight/field.ome.zarr"))
    here = digests(undisturbed)
    assert there.pop("plan.json") != here.pop("plan.json"), "the plan says where slide and model lie"
    assert there == here
    verify = [sys.executable, "-m", "microtome", "verify", "s3://results/tonight/field.ome.zarr"]
    assert subprocess.run(verify, capture_output=True).returncode == 0


def test_a_store_that_does_not_answer_is_said_before_anything_is_done(s3, field, tmp_path):
    s3.stop()
    result = "s3://results/field.ome.zarr"
    for words in (
        ("segment", str(field), "-o", "s3://results", "--mpp", "0.25"),
        ("verify", result),
        ("export", result, "-o", str(tmp_path / "nuclei.csv")),
    ):
        run = subprocess.run([sys.executable, "-m", "microtome", *words], capture_output=True, text=True)
        assert run.returncode == 2, run.stderr
        assert f"{result} cannot be reached" in run.stderr
        assert "AWS_ENDPOINT_URL" in run.stderr
        assert "Traceback" not in run.stderr


def test_a_bucket_that_is_not_there_is_named(s3, field):
    words = [str(field), "-o", "s3://nowhere", "--mpp", "0.25", "--precision", "f32"]
    command = [sys.executable, "-m", "microtome", "segment", *words]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "nowhere" in run.stderr
    assert "Traceback" not in run.stderr

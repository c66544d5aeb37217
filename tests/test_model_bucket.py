"""Models in a bucket of a real S3 server."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from microtome.errors import ModelNotFound, ModelReplaced, ModelUnreachable
from microtome.model import default_model, find_model, read_card, write_card
from microtome.s3 import bucket_of
from microtome.work.network import network_of

URI = "s3://models/lab/he-nuclei"


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("MICROTOME_CACHE", str(tmp_path / "cache"))
    shutil.copytree(default_model(), s3.make_bucket("models") / "lab" / "he-nuclei")


def test_a_model_of_a_bucket_is_copied_once_a_version(bucket, tmp_path):
    first = find_model(URI)
    assert read_card(first) == read_card(default_model())
    assert {path.name for path in first.iterdir()} == {path.name for path in default_model().iterdir()}
    assert find_model(URI) == first
    write_card(replace(read_card(first), version="2.0"), tmp_path)
    bucket_there, key = bucket_of(f"{URI}/model.json")
    bucket_there.put(key, (tmp_path / "model.json").read_bytes())
    assert read_card(find_model(URI)).version == "2.0"
    assert [path.name[0] for path in first.parent.iterdir()].count(".") == 0, "nothing half-copied is left"


def test_what_is_no_model_and_what_cannot_be_asked_is_said(bucket, s3):
    with pytest.raises(ModelNotFound, match="s3://models/lab"):
        find_model("s3://models/lab")
    s3.stop()
    with pytest.raises(ModelUnreachable, match="AWS_ENDPOINT_URL"):
        find_model(URI)


def test_a_model_that_was_replaced_is_not_mixed_into_a_result(bucket):
    model = SimpleNamespace(uri=URI, digest="0" * 64, precision="f32", engine="unet", low=0.0, high=255.0)
    with pytest.raises(ModelReplaced, match="--overwrite"):
        network_of(SimpleNamespace(plan=SimpleNamespace(model=model)))

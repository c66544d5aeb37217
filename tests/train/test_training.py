"""A real, short training by the official package (`make train-test`); without its environment, skipped."""

import json
import os
from pathlib import Path

import pytest

from microtome.errors import NoLabelledImages, OptionError, TrainingEnvironmentMissing, TrainingFailed
from microtome.evaluation import evaluate
from microtome.labelled import find_images
from microtome.model import Normalisation, Precision, default_model, read_card
from microtome.network import macs_px
from microtome.stardist_import import About
from microtome.training import Training, train

NORMALISATION = Normalisation(low_percentile=None, high_percentile=99.8)


@pytest.fixture(scope="module")
def python():
    given = os.environ.get("MICROTOME_TRAIN_ENV")
    if given is None:
        pytest.skip("no environment for training: make train-test makes one")
    return Path(given).absolute() / "bin" / "python"


@pytest.fixture
def few(shared_data, tmp_path):
    """Eight images of one patient and the next: six to train, two to validate."""
    for kind in ("images", "masks"):
        (tmp_path / "few" / kind).mkdir(parents=True)
        for path in sorted((shared_data / "nuclei" / "tnbc" / kind).glob("0[34]_*.png"))[:8]:
            (tmp_path / "few" / kind / path.name).symlink_to(path)
    return tmp_path / "few"


def test_a_model_goes_on_learning_and_comes_out_as_a_candidate_with_card_and_scores(
    python, few, shared_data, tmp_path
):
    start = shared_data / "models" / "stardist-reference"
    training = Training(
        epochs=2,
        steps_per_epoch=8,
        start=str(start),
        learning_rate=1e-5,
    )
    about = About(name="tried", version="0.1", mpp=0.25, normalisation=NORMALISATION, licence="CC BY 4.0")
    lines = []
    candidate = train(few, None, tmp_path / "out" / "tried-0.1", about, training, python, lines.append)
    assert [line.split(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    card = read_card(candidate.folder)
    assert (card.name, card.version, card.n_rays, card.grid, card.assumptions) == ("tried", "0.1", 32, 2, ())
    assert card.ir(Precision.F32).accuracy.images == len(find_images(few)[1]) == 2
    again = evaluate(str(candidate.folder), few, precision=Precision.F32)
    assert again == candidate.evaluation
    assert json.loads((candidate.folder / "evaluation.json").read_text()) == again.as_json()
    assert again.sets["few"][0].ap > 0.5, "it began with a model that finds nuclei"
    told = json.loads((candidate.folder / "training.json").read_text())
    assert len(told["losses"]["loss"]) == 2
    assert len(told["images"]) == 6


def test_from_nothing_the_loss_falls(python, few, tmp_path):
    training = Training(epochs=3, steps_per_epoch=10, patch_px=96, filters=8, depth=2)
    about = About(name="new", mpp=0.25, normalisation=NORMALISATION)
    candidate = train(few, None, tmp_path / "new", about, training, python)
    assert (candidate.card.halo_px, candidate.card.align_px) == (48, 8)
    assert macs_px(candidate.folder, Precision.F32) < macs_px(default_model(), Precision.F32) / 8
    # Of the images for validation: those that are learnt from are other ones each time.
    losses = json.loads((candidate.folder / "training.json").read_text())["losses"]["val_loss"]
    assert losses[-1] < losses[0]


def test_what_went_wrong_in_the_other_environment_is_said(python, few, tmp_path):
    training = Training(start=str(few))
    with pytest.raises(TrainingFailed, match=r"config\.json"):
        train(few, None, tmp_path / "out", About(name="new"), training, python)
    assert not (tmp_path / "out").exists()


def test_without_its_environment_training_says_how_to_get_it(few, tmp_path):
    training = Training()
    with pytest.raises(TrainingEnvironmentMissing, match="make train-env"):
        train(few, None, tmp_path / "out", About(name="new"), training, tmp_path / "no" / "python")


def test_a_mistake_is_told_before_anything_is_trained(few, tmp_path):
    training, about = Training(), About(name="new")
    python = tmp_path / "python"
    python.touch()
    with pytest.raises(NoLabelledImages):
        train(tmp_path / "nowhere", None, tmp_path / "out", about, training, python)
    with pytest.raises(OptionError, match="not there yet"):
        train(few, None, tmp_path, about, training, python)
    with pytest.raises(OptionError, match="patch_px"):
        Training(patch_px=100)

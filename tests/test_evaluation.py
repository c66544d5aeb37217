"""What a model scores: by set and overlap, the same counts as the shared scorer's."""

import importlib.util
import json
import shutil

import pytest

from microtome import cli
from microtome.evaluation import evaluate, results, score_all
from microtome.labelled import find_images, find_sets
from microtome.model import Precision, default_model, read_card
from microtome.scores import IOUS, agree


@pytest.fixture(scope="module")
def scorer(shared_data):
    spec = importlib.util.spec_from_file_location("scorer", shared_data / "models" / "score.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sets(shared_data, tmp_path):
    """Two sets of four images: one of binary masks, one of label images."""
    for name in ("tnbc", "dsb2018"):
        for kind in ("images", "masks"):
            (tmp_path / "sets" / name / kind).mkdir(parents=True)
        for image in sorted((shared_data / "nuclei" / name / "images").iterdir())[8:12]:
            for kind in ("images", "masks"):
                there = image.parent.parent / kind / image.name
                shutil.copyfile(there, tmp_path / "sets" / name / kind / image.name)
    return tmp_path / "sets"


def test_counts_are_those_of_the_shared_scorer(shared_data, scorer):
    _, validation = find_images(shared_data / "nuclei", default_model() / "images.json")
    pairs = list(results(default_model(), Precision.F32, validation[5:9]))
    ours = agree(pairs)
    theirs = scorer.score([truth for truth, _ in pairs], [labels for _, labels in pairs], IOUS)
    assert [at.iou for at in ours] == list(IOUS)
    for at in ours:
        expected = theirs[at.iou]
        assert (at.tp, at.fp, at.fn) == (expected["tp"], expected["fp"], expected["fn"])
        for rate in ("precision", "recall", "f1", "ap"):
            assert getattr(at, rate) == pytest.approx(expected[rate])
    assert ours[0].tp > ours[-1].tp > 0


def test_a_model_is_scored_by_set_and_on_all_together(sets):
    done = evaluate(None, sets, precision=Precision.F32)
    assert sorted(done.sets) == ["all", "dsb2018", "tnbc"]
    for at, one, other in zip(done.sets["all"], done.sets["tnbc"], done.sets["dsb2018"], strict=True):
        assert (at.images, at.tp, at.fn) == (2, one.tp + other.tp, one.fn + other.fn)
    told = json.loads(done.to_json())
    assert told["precision"] == "f32"
    assert len(told["scores"]) == 3 * len(IOUS)
    assert 0.4 < told["scores"][0]["AP"] <= 1


def test_every_precision_gets_what_it_scores_on_all_sets_into_the_card(sets, tmp_path):
    model = shutil.copytree(default_model(), tmp_path / "model")
    found = score_all(model, sets)
    assert {Precision.F32, Precision.INT8} <= set(found)
    for precision, ir in read_card(model).precisions.items():
        assert ir.accuracy == (found[precision].accuracy if precision in found else None)
    exact, together = found[Precision.F32].accuracy, found[Precision.F32].sets["all"][0]
    assert (exact.ap50, exact.f1_50) == (round(together.ap, 4), round(together.f1, 4))
    assert exact.images == 2


def test_a_folder_may_be_a_set_or_hold_sets(sets):
    assert list(find_sets(sets / "tnbc")) == ["tnbc"]
    assert list(find_sets(sets)) == ["dsb2018", "tnbc"]


def test_the_command_line_says_the_same(sets, monkeypatch, capsys):
    words = [
        "microtome",
        "model",
        "evaluate",
        "he-nuclei",
        "--images",
        str(sets / "tnbc"),
        "--precision",
        "f32",
    ]
    monkeypatch.setattr("sys.argv", [*words, "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    told = json.loads(capsys.readouterr().out)
    assert told == evaluate(None, sets / "tnbc", precision=Precision.F32).as_json()
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit):
        cli.main()
    assert f"tnbc: AP {told['scores'][0]['AP']:.3f}" in capsys.readouterr().out

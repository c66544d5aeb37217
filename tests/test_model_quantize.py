"""A model gets its int8 twin, and what it scores is what the images say."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from microtome import quantize as room
from microtome.errors import BadModel, NoLabelledImages
from microtome.evaluation import results
from microtome.labelled import find_images, find_sets
from microtome.model import Precision, default_model, read_card
from microtome.quantize import quantize
from microtome.scores import agree


@pytest.fixture(scope="module")
def nuclei(shared_data: Path) -> Path:
    return shared_data / "nuclei"


@pytest.fixture
def few(nuclei: Path, tmp_path: Path) -> Path:
    """Four images: three to calibrate, one to validate."""
    folder = tmp_path / "few"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for name in ("01_1.png", "03_1.png", "05_1.png", "02_1.png"):
            (folder / kind / f"{9 if name[1] == '2' else 0}{name}").symlink_to(nuclei / "tnbc" / kind / name)
    return folder


def test_quantize_makes_a_twin_that_scores_as_the_original(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf", reason="NNCF is not installed (extra: quantize)")
    monkeypatch.setattr(room, "CROPS", 24)
    done = quantize(default_model(), few, tmp_path / "out")
    card = read_card(tmp_path / "out")
    exact, int8 = (card.ir(precision).accuracy for precision in (Precision.F32, Precision.INT8))
    assert exact is not None
    assert int8 is not None
    assert int8.images == 1
    assert int8.ap50 > exact.ap50 - 0.05
    assert card.digest(Precision.INT8) != card.digest(Precision.F32)
    assert f"AP at IoU 0.5 {int8.ap50:.3f} in int8" in str(done)


def test_a_model_whose_files_are_damaged_is_not_quantized(few: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="NNCF is not installed (extra: quantize)")
    shutil.copytree(default_model(), tmp_path / "model")
    weights = tmp_path / "model" / "f32.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadModel, match="its digest is"):
        quantize(tmp_path / "model", few, tmp_path / "out")
    weights.unlink()
    with pytest.raises(BadModel, match=r"f32\.bin"):
        quantize(tmp_path / "model", few, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_may_name_sets_by_use(nuclei: Path, shared_data: Path) -> None:
    by_use = find_sets(nuclei, shared_data / "models" / "stardist-reference" / "split.json")
    by_set = find_sets(nuclei, default_model() / "images.json")
    assert by_use.keys() == by_set.keys()
    for name, images in by_use.items():
        named = by_set[name]
        assert [one.image for one in images.train] == [one.image for one in named.train]
        assert [one.image for one in images.validation] == [one.image for one in named.validation]


def test_the_scores_in_the_shipped_card_are_those_of_the_images(nuclei: Path) -> None:
    """One of the three sets, in f32; the reference's README says 0.700."""
    _, validation = find_images(nuclei, default_model() / "images.json")
    tnbc = [image for image in validation if image.image.parent.parent.name == "tnbc"]
    assert len(tnbc) == 7
    half, *_ = agree(results(default_model(), Precision.F32, tnbc))
    assert half.ap == pytest.approx(0.700, abs=0.004)


def test_no_image_is_used_to_calibrate_and_to_validate(nuclei: Path) -> None:
    train, validation = find_images(nuclei, default_model() / "images.json")
    assert not {image.image for image in train} & {image.image for image in validation}
    assert (len(train), len(validation)) == (238, 36)


def test_score_counts_pairs_that_share_more_than_half() -> None:
    truth = np.zeros((20, 40), np.int32)
    truth[2:12, 2:12], truth[2:12, 20:30], truth[14:18, 2:6] = 1, 2, -1
    found = np.zeros_like(truth)
    found[2:12, 3:13] = 5  # IoU 90 / 110
    found[2:12, 26:36] = 6  # IoU 40 / 160
    found[14:18, 2:6] = 7  # on ground that is not judged
    half, *_ = agree([(truth, found)])
    assert half.ap == pytest.approx(1 / 3)
    assert half.f1 == pytest.approx(1 / 2)


def test_merged_nuclei_of_a_binary_mask_are_not_judged(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    mask = np.zeros((100, 200), np.uint8)
    cv2.circle(mask, (40, 50), 20, 255, -1)
    cv2.circle(mask, (120, 50), 20, 255, -1)
    cv2.circle(mask, (163, 50), 20, 255, -1)
    cv2.line(mask, (120, 50), (163, 50), 255, 3)
    mask[50, 40] = mask[2, 2] = 0
    mask[5:7, 5:7] = 255
    for n in range(4):
        for kind in ("images", "masks"):
            cv2.imwrite(str(tmp_path / kind / f"{n}.png"), mask)
    (image,) = find_images(tmp_path)[1]
    alone, merged = image.truth(), type(image)(image.image, image.mask, 1.0, True).truth()
    assert len(np.unique(alone)) == 3, "background, the disc, the pair; dirt is none"
    assert alone[50, 40] > 0, "holes are filled"
    assert set(np.unique(merged[:, 100:])) == {-1, 0}
    assert (merged[:, :80] == alone[:, :80]).all()


def test_a_missing_mask_and_an_empty_folder_are_named(few: Path, tmp_path: Path) -> None:
    (few / "masks" / "001_1.png").unlink()
    with pytest.raises(NoLabelledImages, match=r"masks/001_1\.png is missing"):
        find_images(few)
    with pytest.raises(NoLabelledImages, match="holds no images"):
        find_images(tmp_path / "nothing")
    with pytest.raises(NoLabelledImages, match="is not a split file"):
        find_images(few, few / "split.json")

"""StarDist folders of every known layout become models; what cannot is refused in a sentence."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from microtome.errors import BadModel, OptionError, StarDistFileMissing, UnsupportedModel
from microtome.model import Normalisation, Precision, default_model, read_card
from microtome.network import load_model
from microtome.stardist_import import About, import_stardist, parse_percentiles
from tests.unet.networks import whole

ABOUT = About(name="trial", mpp=0.25, normalisation=Normalisation(low_percentile=None, high_percentile=99.8))


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Path:
    return shared_data / "models" / "stardist-reference"


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    copy = tmp_path / "stardist"
    copy.mkdir()
    for name in ("config.json", "thresholds.json", "weights_best.h5"):
        shutil.copyfile(reference / name, copy / name)
    return copy


def test_the_shipped_model_is_the_reference_bit_for_bit(reference: Path, tmp_path: Path) -> None:
    card = import_stardist(reference, tmp_path, ABOUT)
    shipped = read_card(default_model())
    assert (tmp_path / "f32.bin").read_bytes() == (default_model() / "f32.bin").read_bytes()
    assert card == read_card(tmp_path)
    assert card.source == shipped.source
    assert (card.prob_threshold, card.nms_threshold) == (0.55, 0.4)
    assert (card.halo_px, card.align_px, card.grid, card.n_rays) == (96, 16, 2, 32)


def test_the_network_agrees_with_tensorflow(reference: Path, tmp_path: Path) -> None:
    """`tests/model_tensorflow.npz`: prob and dist of the official package for a seeded image."""
    known = np.load(Path(__file__).parent / "model_tensorflow.npz")
    import_stardist(reference, tmp_path, ABOUT)
    network = load_model(tmp_path, precision=Precision.F32, threads=1, limits=(0.0, 255.0))
    prob, dist = whole(network.run(known["image"].transpose(2, 0, 1)))
    np.testing.assert_allclose(prob, known["prob"], atol=3e-6, rtol=0)
    np.testing.assert_allclose(dist.transpose(1, 2, 0), known["dist"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("group", ["", "model_weights/"])
@pytest.mark.parametrize("first", [0, 9])
def test_every_layout_of_keras_gives_the_same_network(
    folder: Path, tmp_path: Path, group: str, first: int
) -> None:
    """Keras 2 writes `kernel:0`, whole models put all below a group, and conv2d_N starts anywhere."""
    renamed = {"conv2d": f"conv2d_{first}" if first else "conv2d", "conv2d_1": f"conv2d_{first + 1}"}
    with h5py.File(folder / "weights_best.h5") as file, h5py.File(tmp_path / "keras2.h5", "w") as out:
        for layer in file:
            for kind in ("kernel", "bias"):
                if f"{layer}/{layer}/{kind}" in file:
                    name = renamed.get(layer, layer)
                    out[f"{group}{name}/{name}/{kind}:0"] = file[f"{layer}/{layer}/{kind}"][()]
        out["optimizer_weights/Adam/iterations:0"] = np.int64(7)
    shutil.move(tmp_path / "keras2.h5", folder / "weights_best.h5")
    import_stardist(folder, tmp_path / "out", ABOUT)
    assert (tmp_path / "out/f32.bin").read_bytes() == (default_model() / "f32.bin").read_bytes()


def test_what_the_folder_does_not_say_is_listed_as_taken_for_granted(reference: Path, tmp_path: Path) -> None:
    card = import_stardist(reference, tmp_path, About(name="trial"))
    assert card.mpp == 0.25
    assert card.normalisation == Normalisation(low_percentile=1.0, high_percentile=99.8)
    assert len(card.assumptions) == 2
    assert "0.25 um/px" in card.assumptions[0]
    assert "1 to their 99.8 percentile" in card.assumptions[1]


@pytest.mark.parametrize("name", ["config.json", "thresholds.json", "weights_best.h5"])
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StarDistFileMissing, match=f"{name} is missing"):
        import_stardist(folder, tmp_path / "out", ABOUT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "thresholds.json", "weights_best.h5"])
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(BadModel, match=name):
        import_stardist(folder, tmp_path / "out", ABOUT)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n_dim": 3}, "3D model"),
        ({"backbone": "resnet"}, "backbone resnet"),
        ({"n_classes": 2}, "n_classes is 2"),
        ({"n_channel_in": 1}, "n_channel_in is 1"),
        ({"grid": [2, 4]}, "grid is"),
        ({"unet_pool": [4, 4]}, "unet_pool is"),
        ({"unet_activation": "swish"}, "unet_activation is swish"),
        ({"unet_batch_norm": True}, "unet_batch_norm is True"),
    ],
)
def test_a_kind_of_model_that_microtome_does_not_run_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    _configure(folder, change)
    with pytest.raises(UnsupportedModel, match=complaint):
        import_stardist(folder, tmp_path / "out", ABOUT)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"unet_n_filter_base": 64}, "layer conv2d has a kernel of"),
        ({"n_rays": 64}, "layer dist has a kernel of"),
        ({"unet_n_depth": 4}, "layer middle_0 |has no weights down_level_3_no_0/kernel"),
        ({"unet_n_depth": 2}, "layer middle_0 has a kernel of|holds layers"),
        ({"grid": [4, 4]}, "has no weights conv2d_N"),
        ({"net_conv_after_unet": 0}, "layer dist has a kernel of"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    folder: Path, tmp_path: Path, change: dict[str, object], complaint: str
) -> None:
    _configure(folder, change)
    with pytest.raises(BadModel, match=complaint):
        import_stardist(folder, tmp_path / "out", ABOUT)


def test_percentiles_are_read_as_people_write_them() -> None:
    assert parse_percentiles("1,99.8") == Normalisation(low_percentile=1.0, high_percentile=99.8)
    assert parse_percentiles("none, 99.8") == Normalisation(low_percentile=None, high_percentile=99.8)
    for wrong in ("", "1", "99,1", "1,101", "-1,99", "low,high", "1,2,3"):
        with pytest.raises(OptionError, match="--percentiles"):
            parse_percentiles(wrong)


def _configure(folder: Path, change: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))

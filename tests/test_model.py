"""The shipped models: their cards, their networks, what is said of files that are wrong."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from microtome import model
from microtome.errors import BadModel, ModelNotFound, OptionError, PrecisionMissing
from microtome.grid import Sides, Window
from microtome.model import Precision, default_model, find_model, ir_digest, models_folder, read_card
from microtome.network import EngineName, Network, load_model
from microtome.slides import open_slide
from microtome.unet.network import Unet
from tests.unet.networks import whole

GRID_PX = 2
LIMITS = (0.0, 255.0)


@pytest.fixture(scope="module")
def tissue(tcga_slide: Path) -> npt.NDArray[np.uint8]:
    """640 x 832 px of epithelium, (y, x, c)."""
    with open_slide(str(tcga_slide)) as slide:
        return np.ascontiguousarray(slide.read(0, Window(1904, 6592, 2544, 7424)))


SHIPPED = sorted(path.parent for path in models_folder().glob("*/model.json"))


@pytest.fixture(
    scope="module",
    params=product(SHIPPED, [Precision.F32, Precision.INT8], EngineName),
    ids=lambda param: f"{param[0].name}-{param[1]}-{param[2]}",
)
def loaded(request: pytest.FixtureRequest) -> tuple[Network, int]:
    """A network and its halo, px."""
    folder, precision, engine = request.param
    network = load_model(folder, precision=precision, threads=2, limits=LIMITS, engine=engine)
    return network, read_card(folder).halo_px


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_model(), tmp_path / "model"))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("he-nuclei", (32, 2, 96, 16, 0.25)), ("he-nuclei-fast", (32, 2, 96, 16, 0.5))],
)
def test_a_shipped_model_is_complete_small_and_says_whose_it_is(name: str, shape: tuple[float, ...]) -> None:
    folder = models_folder() / name
    card = read_card(folder)
    for precision in Precision:
        ir = card.ir(precision)
        assert card.digest(precision) == ir_digest(folder / ir.xml, folder / ir.bin)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000
    assert (card.n_rays, card.grid, card.halo_px, card.align_px, card.mpp) == shape
    assert "Naylor" in card.attribution
    assert card.licence == "CC BY 4.0"


def test_every_shipped_model_is_told_of_with_its_accuracy() -> None:
    assert {folder.name for folder in SHIPPED} == {"he-nuclei", "he-nuclei-fast"}
    told = (models_folder() / "README.md").read_text()
    for card in map(read_card, SHIPPED):
        about = told.split(f"## {card.name} {card.version}")[1].split("## ")[0]
        for precision, ir in card.precisions.items():
            assert ir.accuracy is not None
            row = next(line for line in about.splitlines() if line.startswith(f"| {precision} |"))
            scores = [float(cell) for cell in row.split("|")[2:4]]
            assert scores == pytest.approx([ir.accuracy.ap50, ir.accuracy.f1_50], abs=0.0006)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_int8_twin_is_as_accurate_as_f32_to_half_a_point(folder: Path) -> None:
    card = read_card(folder)
    exact, int8 = card.ir(Precision.F32).accuracy, card.ir(Precision.INT8).accuracy
    assert exact is not None
    assert int8 is not None
    assert int8.ap50 >= exact.ap50 - 0.005
    assert exact.images == int8.images == 36


@pytest.mark.parametrize("shape", [(320, 320), (304, 512), (640, 272), (400, 832)])
def test_a_pixel_has_the_same_bits_in_any_tile(
    loaded: tuple[Network, int], tissue: npt.NDArray[np.uint8], shape: tuple[int, int]
) -> None:
    network, halo_px = loaded
    prob, dist = whole(network.run(tissue))
    starts = (_starts(side, tile, halo_px) for side, tile in zip(tissue.shape[1:], shape, strict=True))
    for y0, x0 in product(*starts):
        y1, x1 = y0 + shape[0], x0 + shape[1]
        tile_prob, tile_dist = whole(network.run(tissue[:, y0:y1, x0:x1]))
        core = _core((y0, x0, y1, x1), tissue.shape[1:], halo_px)
        here = (slice(core[0], core[2]), slice(core[1], core[3]))
        there = (slice(core[0] - y0 // 2, core[2] - y0 // 2), slice(core[1] - x0 // 2, core[3] - x0 // 2))
        np.testing.assert_array_equal(tile_prob[there], prob[here])
        np.testing.assert_array_equal(tile_dist[:, *there], dist[:, *here])


@pytest.mark.parametrize("shape", [(320, 320), (304, 512), (640, 272)])
@pytest.mark.parametrize("sides", ["1111", "0111", "1001", "0010"])
def test_a_trimmed_tile_has_the_bits_of_the_whole_one_in_its_core(
    loaded: tuple[Network, int], tissue: npt.NDArray[np.uint8], shape: tuple[int, int], sides: str
) -> None:
    network, halo_px = loaded
    tile = tissue[:, : shape[0], : shape[1]]
    trimmed = Sides(*(side == "1" for side in sides))
    prob, dist = whole(network.run(tile))
    trimmed_prob, trimmed_dist = whole(network.run(tile, trimmed=trimmed))
    assert network.trimmed_px == (halo_px if isinstance(network.engine, Unet) else halo_px - 8)
    everything = Window(0, 0, shape[0] // 2, shape[1] // 2)
    left = everything.shrink(network.trimmed_px // 2, trimmed)
    assert trimmed_prob.shape == (left.height, left.width)
    core = everything.shrink(halo_px // 2, trimmed)
    np.testing.assert_array_equal(trimmed_prob[core.within(left)], prob[core.within(everything)])
    np.testing.assert_array_equal(trimmed_dist[:, *core.within(left)], dist[:, *core.within(everything)])


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.55])
def test_what_is_more_probable_than_the_threshold_has_its_distances(
    loaded: tuple[Network, int], tissue: npt.NDArray[np.uint8], threshold: float
) -> None:
    network, _ = loaded
    tile, background = tissue[:, :320, :384], np.full((3, 320, 384), 230, np.uint8)
    prob, dist = whole(network.run(tile))
    whole(network.run(background))
    other_prob, other_dist = whole(network.run(tile, threshold=threshold))
    wanted = prob > np.float32(threshold)
    assert wanted.any()
    np.testing.assert_array_equal(other_prob, prob)
    np.testing.assert_array_equal(other_dist[:, wanted], dist[:, wanted])


def test_limits_say_which_pixel_values_the_network_sees_as_0_and_1(tissue: npt.NDArray[np.uint8]) -> None:
    tile = tissue[:, :256, :256] // 2
    network = load_model(default_model(), precision=Precision.F32, threads=1, limits=(0.0, 200.0))
    bright, _ = whole(network.run(tile))
    network.set_limits((10.0, 110.0))
    darker, _ = whole(network.run((tile // 2 + 10).astype(np.uint8)))
    np.testing.assert_allclose(darker, bright, atol=0.2)
    network.set_limits((0.0, 400.0))
    np.testing.assert_allclose(whole(network.run(tile * 2))[0], bright, atol=1e-4)


def test_probabilities_are_between_0_and_1_without_a_warning() -> None:
    network = load_model(default_model(), precision=Precision.F32, threads=1, limits=(0.0, 0.01))
    prob, _ = whole(network.run(np.full((3, 64, 64), 255, np.uint8)))
    assert prob.dtype == np.float32
    assert 0 <= prob.min() <= prob.max() <= 1


def test_a_model_is_found_by_name_or_by_folder(copy: Path) -> None:
    assert find_model() == find_model("he-nuclei") == default_model()
    assert find_model(str(copy)) == copy
    with pytest.raises(ModelNotFound, match="no model nuclei-9"):
        find_model("nuclei-9")
    with pytest.raises(ModelNotFound, match="microtome model import"):
        read_card(copy / "images.json")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [("mpp", "fine", "mpp"), ("colour", 3, "colour"), ("kind", "cellpose", "kind"), ("format", 2, "format")],
)
def test_a_card_that_says_what_no_card_says_is_refused(
    copy: Path, key: str, value: object, complaint: str
) -> None:
    card = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps(card | {key: value}))
    with pytest.raises(BadModel, match=complaint):
        read_card(copy)


def test_a_card_that_is_no_json_is_refused(copy: Path) -> None:
    (copy / "model.json").write_bytes(b"\x00\xff")
    with pytest.raises(BadModel, match=r"model\.json"):
        read_card(copy)


def test_weights_that_are_not_those_of_the_card_are_refused(copy: Path) -> None:
    weights = bytearray((copy / "f32.bin").read_bytes())
    weights[1000] ^= 1
    (copy / "f32.bin").write_bytes(weights)
    with pytest.raises(BadModel, match=r"f32\.xml: its digest is"):
        load_model(copy, precision=Precision.F32, threads=1, limits=LIMITS)


def test_a_missing_file_and_a_broken_ir_are_named(copy: Path) -> None:
    (copy / "int8.xml").write_text("<net/>")
    card = read_card(copy)
    broken = replace(card.ir(Precision.INT8), digest=ir_digest(copy / "int8.xml", copy / "int8.bin"))
    model.write_card(replace(card, precisions={**card.precisions, Precision.INT8: broken}), copy)
    with pytest.raises(BadModel, match=r"int8\.xml"):
        load_model(copy, precision=Precision.INT8, threads=1, limits=LIMITS)
    (copy / "f32.bin").unlink()
    with pytest.raises(BadModel, match=r"f32\.bin: No such file"):
        load_model(copy, precision=Precision.F32, threads=1, limits=LIMITS)


def test_a_precision_that_the_model_lacks_is_named_with_those_it_has() -> None:
    card = read_card(default_model())
    floats = {name: ir for name, ir in card.precisions.items() if name is not Precision.INT8}
    with pytest.raises(PrecisionMissing, match=r"no int8 network, but bf16, f32; .*quantize"):
        replace(card, precisions=floats).digest(Precision.INT8)


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(OptionError, match="lower one first"):
        load_model(default_model(), precision=Precision.F32, threads=1, limits=(255.0, 0.0))


def _starts(side: int, tile: int, halo_px: int) -> list[int]:
    """Where tiles begin, the last one moved inwards to end at the edge."""
    return sorted({min(start, side - tile) for start in range(0, side, tile - 2 * halo_px)})


def _core(tile: tuple[int, int, int, int], shape: tuple[int, ...], halo_px: int) -> tuple[int, int, int, int]:
    """The part of the output that a tile gives exactly, in px of the whole output."""
    y0, x0, y1, x1 = tile
    return (
        (y0 + halo_px * (y0 > 0)) // GRID_PX,
        (x0 + halo_px * (x0 > 0)) // GRID_PX,
        (y1 - halo_px * (y1 < shape[0])) // GRID_PX,
        (x1 - halo_px * (x1 < shape[1])) // GRID_PX,
    )

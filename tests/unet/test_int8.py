"""The int8 network that is computed here: against plain sums to the last bit, and against OpenVINO's."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as op

from microtome import network
from microtome.cluster import ClusterSpec, connect
from microtome.compiled import Compiled
from microtome.cpu import InstructionSet, machine_record
from microtome.errors import EngineUnsupported
from microtome.grid import Window
from microtome.model import Precision, default_model
from microtome.network import EngineName, engine_of, load_model
from microtome.options import Options
from microtome.pipeline import State, finish, prepare
from microtome.slides import open_slide
from microtome.stardist_import import Config
from microtome.trimming import NO_SIDES
from microtome.unet import int8_kernels, int8_vectors, lanes, products
from microtome.unet.convolutions import LARGEST_SUM, Convolution, Quantized, Seen
from microtome.unet.network import Unet
from microtome.warmup import draw_field
from microtome.work.network import drop_network, network_of
from tests.unet.cpus import given_on
from tests.unet.networks import LIMITS, OTHERS, PLAIN, heads_of, noise, quantized, read_saved, whole


def unet_of(config: Config, threads: int = 1) -> Unet:
    return Unet(read(config), grid_px=config.grid[0], halo_px=config.halo_px, limits=LIMITS, threads=threads)


def read(config: Config) -> tuple[Convolution, ...]:
    found = read_saved(quantized(config), align_px=config.align_px, grid_px=config.grid[0])
    assert found is not None
    return found


def plain_sums(convolutions: tuple[Convolution, ...], tile: np.ndarray) -> np.ndarray:
    """The heads, (n, y, x), of sums taken as they stand."""
    first = convolutions[0]
    assert isinstance(first, Quantized)
    seen = (tile.astype(np.float32) - np.float32(LIMITS[0])) / np.float32(LIMITS[1] - LIMITS[0])
    image = np.clip(np.rint(seen / first.seen_step), 0, 255).astype(np.int64)
    maps: list[np.ndarray] = []
    for each in convolutions:
        assert isinstance(each, Quantized)
        inputs = [image if s.index is None else _seen(maps[s.index], s.seen) for s in each.sources]
        sums = _sums(np.concatenate(inputs), each.kernel.astype(np.int64))
        values = sums.astype(np.float32) * each.scales[:, None, None].astype(np.float64)
        found = (values + each.bias[:, None, None]).astype(np.float32)
        if each is convolutions[-1]:
            return found
        whole = np.clip(np.rint(found), 0, 255).astype(np.int64)
        maps.append(whole if each.table is None else each.table[whole].astype(np.int64))
    raise AssertionError("no heads")


def _seen(values: np.ndarray, seen: Seen) -> np.ndarray:
    if seen is Seen.ENLARGED:
        return values.repeat(2, 1).repeat(2, 2)
    n, height, width = values.shape
    return values.reshape(n, height // 2, 2, width // 2, 2).max((2, 4)) if seen is Seen.POOLED else values


def _sums(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    side, (_, height, width) = kernel.shape[2], values.shape
    padded = np.pad(values, [(0, 0), *[(side // 2, side // 2)] * 2])
    return sum(
        np.tensordot(kernel[:, :, y, x], padded[:, y : y + height, x : x + width], 1)
        for y, x in product(range(side), repeat=2)
    )


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_every_u_net_gives_what_plain_sums_give(config: Config) -> None:
    unet, convolutions = unet_of(config), read(config)
    for rows, cols in ((1, 1), (3, 5), (4, 7)):
        tile = noise(rows * config.align_px, cols * config.align_px)
        expected = plain_sums(convolutions, tile)
        assert expected.std() > 0.05
        np.testing.assert_allclose(heads_of(unet, tile), expected, rtol=1e-6, atol=1e-6)


def test_the_largest_sums_are_right() -> None:
    """All weights and many px as large as they can be: sums at the points go round 2 ** 32."""
    signs = np.random.default_rng(1)
    convolutions, reached = [], []
    for each in read(replace(PLAIN, unet_n_filter_base=24)):
        assert isinstance(each, Quantized)
        of_outputs = signs.choice(np.array([-127, 127], np.int8), (len(each.kernel), 1, 1, 1))
        kernel = np.broadcast_to(of_outputs, each.kernel.shape).copy()
        reached.append(255 * 127 * kernel[0].size)
        scales = np.full(len(kernel), 4 * 255 / reached[-1], np.float32)
        convolutions.append(replace(each, kernel=kernel, scales=scales, table=None))
    assert 0.8 * LARGEST_SUM < max(reached) < LARGEST_SUM
    tile = noise(24, 40)
    tile[:, :, 20:] = 255
    unet = Unet(tuple(convolutions), grid_px=2, halo_px=PLAIN.halo_px, limits=LIMITS, threads=1)
    expected = plain_sums(tuple(convolutions), tile)
    np.testing.assert_allclose(heads_of(unet, tile), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_every_u_net_gives_what_openvino_makes_of_it(config: Config) -> None:
    compiled = Compiled(
        quantized(config),
        grid_px=config.grid[0],
        halo_px=config.halo_px,
        precision=Precision.INT8,
        limits=LIMITS,
        threads=2,
    )
    tile = noise(3 * config.align_px, 5 * config.align_px)
    expected = heads_of(compiled, tile)
    # Where it rounds a byte the other way, a few px around are off by about one unit.
    off = np.abs(heads_of(unet_of(config), tile) - expected)
    assert np.mean(off > 1e-5) < 0.02
    assert off.max() < 0.1 * expected.std()


def test_the_shipped_model_gives_nearly_the_same_by_both_on_real_tissue(tcga_slide: Path) -> None:
    with open_slide(str(tcga_slide)) as slide:
        tile = slide.read(0, Window(1904, 6592, 2544, 7424))
    networks = [
        load_model(default_model(), precision=Precision.INT8, threads=2, limits=(0.0, 240.0), engine=engine)
        for engine in EngineName
    ]
    (prob, dist), (other_prob, other_dist) = (whole(network.run(tile)) for network in networks)
    assert (prob > 0.5).mean() > 0.05
    assert np.abs(prob - other_prob).max() < 0.1
    assert np.abs(dist - other_dist).mean() < 0.02


@pytest.mark.parametrize("name", ["plain", "odd filters", "many rays"])
def test_distances_that_are_wanted_have_the_same_bits_where_others_are_left_out(name: str) -> None:
    config = OTHERS[name]
    unet, tile = unet_of(config), noise(7 * config.align_px, 9 * config.align_px)
    every = heads_of(unet, tile)
    least = float(np.quantile(every[-1], 0.98))
    unet._heads[:] = np.nan
    found = heads_of(unet, tile, NO_SIDES, least)
    dist, logits = found[:-1], found[-1]
    np.testing.assert_array_equal(logits, every[-1])
    wanted = logits > least
    np.testing.assert_array_equal(dist[:, wanted], every[:-1, wanted])
    assert np.isnan(dist[:, ~wanted]).mean() > 0.9


def nodes(model: ov.Model, kind: str) -> list[ov.Node]:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def fewer_levels(model: ov.Model) -> None:
    nodes(model, "FakeQuantize")[3].set_attribute("levels", 255)


def from_below_0(model: ov.Model) -> None:
    node = nodes(model, "FakeQuantize")[3]
    for index in (1, 3):
        node.input(index).replace_source_output(op.constant(np.float32(-1)).output(0))


def other_range_out(model: ov.Model) -> None:
    nodes(model, "FakeQuantize")[3].input(4).replace_source_output(op.constant(np.float32(9)).output(0))


def enlarged_otherwise(model: ov.Model) -> None:
    """A wider range than that of what it is put beside."""
    concat = nodes(model, "Concat")[0]
    node = concat.input_value(0).get_node()
    for index in (2, 4):
        node.input(index).replace_source_output(op.constant(np.float32(99)).output(0))


def of_each_channel(model: ov.Model) -> None:
    node = nodes(model, "FakeQuantize")[3]
    channels = node.get_output_partial_shape(0)[1].get_length()
    for index in (2, 4):
        high = np.linspace(1, 2, channels, dtype=np.float32).reshape(1, -1, 1, 1)
        node.input(index).replace_source_output(op.constant(high).output(0))


def quantized_when_pooled(model: ov.Model) -> None:
    low, high = (op.constant(np.float32(limit)) for limit in (0, 0.4))
    pool = nodes(model, "MaxPool")[0]
    targets = pool.output(0).get_target_inputs()
    again = op.fake_quantize(pool, low, high, low, high, 256)
    for target in targets:
        target.replace_source_output(again.output(0))


def scaled_as_a_whole(model: ov.Model) -> None:
    multiply = nodes(model, "Convolution")[2].input_value(1).get_node()
    multiply.input(1).replace_source_output(op.constant(np.float32(0.01)).output(0))


def zero_point(model: ov.Model) -> None:
    convolution = nodes(model, "Convolution")[2]
    multiply = convolution.input_value(1).get_node()
    moved = op.subtract(multiply.input_value(0), op.constant(np.float32(3)))
    multiply.input(0).replace_source_output(moved.output(0))


def floats_in_one_layer(model: ov.Model) -> None:
    convolution = nodes(model, "Convolution")[2]
    weights = np.zeros(list(convolution.input_value(1).get_shape()), np.float32)
    convolution.input(1).replace_source_output(op.constant(weights).output(0))


def not_quantized_between(model: ov.Model) -> None:
    node = nodes(model, "FakeQuantize")[-1]
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(node.input_value(0))


@pytest.mark.parametrize(
    "changed",
    [
        fewer_levels,
        from_below_0,
        other_range_out,
        enlarged_otherwise,
        of_each_channel,
        quantized_when_pooled,
        scaled_as_a_whole,
        zero_point,
        floats_in_one_layer,
        not_quantized_between,
    ],
    ids=lambda changed: changed.__name__,
)
def test_a_network_that_is_a_little_different_is_left_to_openvino(
    changed: Callable[[ov.Model], None],
) -> None:
    model = quantized(PLAIN)
    assert read_saved(model, align_px=8, grid_px=2) is not None
    changed(model)
    assert read_saved(model, align_px=8, grid_px=2) is None


@pytest.mark.parametrize(("weight", "scale"), [(127, 0.01), (1, 1e6)], ids=["sums", "outputs"])
def test_a_network_whose_numbers_might_be_too_large_is_left_to_openvino(weight: int, scale: float) -> None:
    model = quantized(replace(PLAIN, unet_n_filter_base=32))
    multiply = max(nodes(model, "Convolution"), key=lambda node: node.get_input_shape(1)[1])
    multiply = multiply.input_value(1).get_node()
    outputs, *others = multiply.get_output_shape(0)
    assert 255 * 127 * np.prod(others) > LARGEST_SUM
    whole = op.convert(op.constant(np.full((outputs, *others), weight, np.int8)), "f32")
    multiply.input(0).replace_source_output(whole.output(0))
    scales = op.constant(np.full((outputs, 1, 1, 1), scale, np.float32))
    multiply.input(1).replace_source_output(scales.output(0))
    assert read_saved(model, align_px=8, grid_px=2) is None


@pytest.mark.slow
def test_cpus_of_every_kind_give_the_same_bits(tmp_path: Path) -> None:
    here, no_vnni, narrow = (
        given_on(cpu, tmp_path, test="test_int8", kernels="int8_kernels", kernel="convolve_heads")
        for cpu in ("this one", "no VNNI", "no AVX-512")
    )
    assert (here.wide, no_vnni.wide, narrow.wide) == (True, True, False)
    assert not no_vnni.vnni
    assert not narrow.vnni
    assert here.vnni == ("avx512_vnni" in machine_record().flags)
    assert here.bits == no_vnni.bits == narrow.bits


def on_a(kind: InstructionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one CPU here stands for others: only its name is another one."""
    monkeypatch.setattr(network, "this_instruction_set", lambda: kind)


def test_the_engine_is_the_faster_one_of_those_that_the_cpu_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    by = {}
    for kind in InstructionSet:
        on_a(kind, monkeypatch)
        by[kind] = engine_of(default_model(), Precision.INT8)
    left = {kind for kind, engine in by.items() if engine is EngineName.OPENVINO}
    assert left == {InstructionSet.AMX, InstructionSet.OTHER}


def test_a_result_that_was_begun_on_another_cpu_goes_on_as_it_began(
    field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(mpp=0.25, precision="int8")
    on_a(InstructionSet.AMX, monkeypatch)
    begun = prepare(str(field), str(tmp_path), options).run
    assert begun.plan.model.engine is EngineName.OPENVINO
    on_a(InstructionSet.AVX512_VNNI, monkeypatch)
    again = prepare(str(field), str(tmp_path), options)
    assert (again.state, again.run.plan) == (State.RESUMED, begun.plan)
    assert isinstance(network_of(again.run).engine, Compiled)
    elsewhere = prepare(str(field), str(tmp_path / "elsewhere"), options).run
    assert elsewhere.plan.model.engine is EngineName.UNET
    assert isinstance(network_of(elsewhere).engine, Unet)
    on_a(InstructionSet.OTHER, monkeypatch)
    drop_network()
    with pytest.raises(EngineUnsupported, match="unet in int8, which this CPU"):
        network_of(elsewhere)


def test_what_is_overwritten_is_computed_by_the_faster_engine(
    field: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(mpp=0.25, precision="int8")
    on_a(InstructionSet.AMX, monkeypatch)
    with connect(ClusterSpec(workers=1)) as cluster:
        finish(prepare(str(field), str(tmp_path), options), cluster, lambda progress: None)
    on_a(InstructionSet.AVX512_VNNI, monkeypatch)
    assert prepare(str(field), str(tmp_path), options).state is State.DONE
    new = prepare(str(field), str(tmp_path), options, overwrite=True)
    assert (new.state, new.run.plan.model.engine) == (State.NEW, EngineName.UNET)


@pytest.fixture
def field(tmp_path: Path) -> Path:
    path = tmp_path / "field.png"
    draw_field(path)
    return path


def test_bf16_is_left_to_openvino() -> None:
    with pytest.raises(EngineUnsupported, match="unet in bf16"):
        load_model(
            default_model(), precision=Precision.BF16, threads=1, limits=(0.0, 255.0), engine=EngineName.UNET
        )


def test_the_kernels_are_compiled_anew_when_their_vectors_change() -> None:
    """Numba looks at the file of a kernel alone: so the number there is to be that of what it is made of."""
    files = [Path(module.__file__).read_bytes() for module in (lanes, products, int8_vectors)]
    assert zlib.crc32(b"".join(files)) == int8_kernels.VECTORS_CRC

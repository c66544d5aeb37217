"""The f32 network that is computed here against the same one by OpenVINO, for all that import makes."""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from microtome.compiled import Compiled
from microtome.cpu import machine_record
from microtome.grid import Sides, Window
from microtome.model import Precision
from microtome.network import EngineName
from microtome.options import Options
from microtome.plan import OPENVINO_CORE_PX, Plan, make_plan
from microtome.stardist_import import Config, build
from microtome.trimming import NO_SIDES
from microtome.unet import kernels, vectors
from microtome.unet.layers import Convolution, Seen, Source
from microtome.unet.network import Unet
from microtome.unet.reading import read_unet
from microtome.unet.windows import lay_out

LIMITS = (10.0, 240.0)
PLAIN = Config(
    n_rays=32,
    n_channel_in=3,
    grid=(2, 2),
    unet_n_depth=2,
    unet_kernel_size=(3, 3),
    unet_n_filter_base=16,
    unet_n_conv_per_depth=2,
    unet_pool=(2, 2),
    unet_activation="relu",
    unet_last_activation="relu",
    net_conv_after_unet=64,
)
OTHERS = {
    "plain": PLAIN,
    "grid-1": replace(PLAIN, grid=(1, 1)),
    "grid-4": replace(PLAIN, grid=(4, 4)),
    "deep": replace(PLAIN, unet_n_depth=4, unet_n_filter_base=8),
    "shallow": replace(PLAIN, unet_n_depth=1, unet_n_conv_per_depth=3),
    "odd filters": replace(PLAIN, unet_n_filter_base=20, net_conv_after_unet=40),
    "many rays": replace(PLAIN, n_rays=96),
    "no features": replace(PLAIN, net_conv_after_unet=0),
}


def weights_of(config: Config) -> Mapping[str, np.ndarray]:
    """Seeded weights under the names that Keras gives them, of a size that keeps the numbers in range."""
    numbers, found = np.random.default_rng(7), {}
    for name, inputs, outputs, side in _layers(config):
        scale = np.sqrt(2 / (side * side * inputs))
        found[f"{name}/kernel"] = numbers.normal(0, scale, (side, side, inputs, outputs)).astype(np.float32)
        found[f"{name}/bias"] = numbers.normal(0, 0.1, outputs).astype(np.float32)
    return found


def _layers(config: Config) -> Iterator[tuple[str, int, int, int]]:
    """Name, inputs, outputs, side of the kernel."""
    depth, convs, base = config.unet_n_depth, config.unet_n_conv_per_depth, config.unet_n_filter_base
    channels, side = config.n_channel_in, config.unet_kernel_size[0]
    for index in range(convs * (config.grid[0].bit_length() - 1)):
        yield f"conv2d_{index}", channels, base, side
        channels = base
    names = [(f"down_level_{level}_no_{i}", base * 2**level) for level in range(depth) for i in range(convs)]
    names += [(f"middle_{i}", base * 2**depth) for i in range(convs - 1)]
    names.append((f"middle_{convs}", base * 2 ** (depth - 1)))
    for name, outputs in names:
        yield name, channels, outputs, side
        channels = outputs
    for level in reversed(range(depth)):
        channels += base * 2**level
        for i in range(convs - 1):
            yield f"up_level_{level}_no_{i}", channels, base * 2**level, side
            channels = base * 2**level
        outputs = base * 2 ** max(0, level - 1)
        yield f"up_level_{level}_no_{convs}", channels, outputs, side
        channels = outputs
    if config.net_conv_after_unet:
        yield "features", channels, config.net_conv_after_unet, side
        channels = config.net_conv_after_unet
    yield "dist", channels, config.n_rays, 1
    yield "prob", channels, 1, 1


def model_of(config: Config) -> ov.Model:
    return build(config, weights_of(config), "drawn", "drawn")


def unet_of(config: Config, threads: int = 1) -> Unet:
    return Unet(read(config), grid_px=config.grid[0], halo_px=config.halo_px, limits=LIMITS, threads=threads)


def read(config: Config) -> tuple[Convolution, ...]:
    found = read_unet(model_of(config), align_px=config.align_px, grid_px=config.grid[0])
    assert found is not None
    return found


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, height, width), dtype=np.uint8)


@pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)
def test_every_u_net_gives_what_openvino_makes_of_it(config: Config) -> None:
    unet = unet_of(config)
    compiled = Compiled(
        model_of(config),
        grid_px=config.grid[0],
        halo_px=config.halo_px,
        precision=Precision.F32,
        limits=LIMITS,
        threads=2,
    )
    for rows, cols in ((1, 1), (3, 5), (8, 7)):
        tile = noise(rows * config.align_px, cols * config.align_px)
        expected = compiled.run(tile, NO_SIDES)
        assert expected.std() > 0.05
        np.testing.assert_allclose(unet.run(tile, NO_SIDES), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["plain", "deep", "grid-1"])
def test_a_core_has_the_same_bits_whichever_sides_are_trimmed_and_however_many_threads(name: str) -> None:
    config = OTHERS[name]
    unets = [unet_of(config), unet_of(config, threads=3)]
    side = 2 * config.halo_px + 3 * config.align_px
    tile = noise(side, side + config.align_px)
    whole = unets[0].run(tile, NO_SIDES).copy()
    out = Window(0, 0, *whole.shape[1:])
    for sides in map(Sides._make, product([False, True], repeat=4)):
        core = out.shrink(unets[0].trimmed_px // config.grid[0], sides)
        for unet in unets:
            np.testing.assert_array_equal(unet.run(tile, sides), whole[:, *core.within(out)])


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_that_an_earlier_tile_has_left_is_ever_seen(name: str) -> None:
    config = OTHERS[name]
    unet, align_px = unet_of(config), config.align_px
    small, large = noise(3 * align_px, 2 * align_px), noise(5 * align_px, 4 * align_px)
    first = unet.run(small, NO_SIDES).copy()
    unet.run(large, NO_SIDES)
    unet._maps[:] = np.nan
    np.testing.assert_array_equal(unet.run(small, NO_SIDES), first)


def no_bias(model: ov.Model) -> None:
    added = next(node for node in model.get_ordered_ops() if node.get_type_name() == "Add")
    for target in added.output(0).get_target_inputs():
        target.replace_source_output(added.input_value(0))


def change(kind: str, name: str, value: object) -> Callable[[ov.Model], None]:
    def changed(model: ov.Model) -> None:
        next(node for node in model.get_ordered_ops() if node.get_type_name() == kind).set_attribute(
            name, value
        )

    return changed


@pytest.mark.parametrize(
    "changed",
    [
        no_bias,
        change("Convolution", "dilations", [2, 2]),
        change("MaxPool", "kernel", [3, 3]),
        change("MaxPool", "rounding_type", "ceil"),
        change("Interpolate", "nearest_mode", "ceil"),
        change("Interpolate", "pads_begin", [0, 0, 1, 1]),
        change("Concat", "axis", 2),
    ],
)
def test_a_network_that_is_a_little_different_is_left_to_openvino(
    changed: Callable[[ov.Model], None],
) -> None:
    model = model_of(PLAIN)
    assert read_unet(model, align_px=8, grid_px=2) is not None
    changed(model)
    assert read_unet(model, align_px=8, grid_px=2) is None


@pytest.mark.parametrize(
    "other",
    [
        {"unet_activation": "elu"},
        {"unet_last_activation": "linear"},
        {"unet_kernel_size": (5, 5)},
        {"n_channel_in": 1},
    ],
    ids=str,
)
def test_other_networks_that_import_makes_are_left_to_openvino(other: dict[str, object]) -> None:
    config = replace(PLAIN, **other)
    assert read_unet(model_of(config), align_px=config.align_px, grid_px=2) is None


@pytest.mark.parametrize(("align_px", "grid_px"), [(4, 2), (12, 2), (8, 4)])
def test_a_network_that_is_not_that_of_its_card_is_left_to_openvino(align_px: int, grid_px: int) -> None:
    assert read_unet(model_of(PLAIN), align_px=align_px, grid_px=grid_px) is None


def test_a_second_thread_is_told_that_a_network_takes_one_tile_at_a_time() -> None:
    unet, tile = unet_of(PLAIN), noise(512, 512)
    unet.run(tile, NO_SIDES)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(unet.run, tile, NO_SIDES) for _ in range(2)]
    errors = [result.exception() for result in results]
    assert [error is None for error in errors].count(True) == 1
    with pytest.raises(RuntimeError, match="one tile at a time"):
        raise next(error for error in errors if error)


def test_a_plan_says_what_computes_its_network(tcga_slide: Path) -> None:
    f32 = make_plan(str(tcga_slide), Options(precision="f32"))
    int8 = make_plan(str(tcga_slide), Options(precision="int8"))
    assert (f32.model.engine, f32.core_px) == (EngineName.UNET, 2048)
    assert (int8.model.engine, int8.core_px) == (EngineName.OPENVINO, 2048)
    assert Plan.from_json(f32.to_json()) == f32
    assert OPENVINO_CORE_PX[Precision.F32] < f32.core_px


def test_a_plan_of_before_was_computed_by_openvino(tcga_slide: Path) -> None:
    plan = make_plan(str(tcga_slide), Options(precision="f32"))
    old = plan.to_json().replace(b',\n  "engine": "unet"', b"")
    assert old != plan.to_json()
    assert Plan.from_json(old).model.engine is EngineName.OPENVINO
    assert Plan.from_json(old).fingerprint != plan.fingerprint


@pytest.mark.parametrize("name", OTHERS)
def test_maps_that_are_needed_at_the_same_time_have_places_of_their_own(name: str) -> None:
    config = OTHERS[name]
    convolutions = read(config)
    side = 2 * config.halo_px + 4 * config.align_px
    out = Window(0, 0, side // config.grid[0], side // config.grid[0])
    layout = lay_out(convolutions, Window(0, 0, side, side), out)
    for index, convolution in enumerate(convolutions):
        used = [(source.index, place) for source, place in _seen(layout, convolution)]
        used += (
            [(index, place) for place in layout.places[index].values()] if index < len(layout.places) else []
        )
        later = [
            (source.index, place)
            for other in convolutions[index + 1 :]
            for source, place in _seen(layout, other)
            if source.index is not None and source.index < index
        ]
        for (one, a), (other, b) in combinations({(i, p) for i, p in used + later}, 2):
            assert a.end <= b.start or b.end <= a.start, (index, one, other)


def test_all_that_is_pooled_has_a_place_where_more_is_needed_in_full() -> None:
    """A way around the deeper levels with convolutions of its own needs more of a map than they do."""
    around = [Source(1), *(Source(index) for index in range(6, 13))]
    sources = [
        [Source(None)],
        [Source(0)],
        [Source(1, Seen.POOLED)],
        *([Source(index)] for index in (2, 3, 4)),
        *([source] for source in around),
        [Source(5, Seen.ENLARGED), Source(13)],
        [Source(14)],
        [Source(15)],
    ]
    deeper = range(2, 6)
    convolutions = [
        Convolution(
            sources=tuple(seen),
            kernel=np.zeros((16, 16 * len(seen), 3, 3), np.float32),
            bias=np.zeros(16, np.float32),
            halvings=int(index in deeper),
        )
        for index, seen in enumerate(sources)
    ]
    layout = lay_out(convolutions, Window(0, 0, 128, 128), Window(60, 60, 68, 68))
    assert layout.pooled[1] == layout.quads(1)
    assert layout.places[1][Seen.POOLED].window == layout.quads(1)


def _seen(layout, convolution: Convolution):
    for source in convolution.sources:
        if source.index and layout.places[min(source.index, len(layout.places) - 1)]:
            yield source, layout.place_of(source)


def test_the_kernels_are_compiled_anew_when_their_vectors_change() -> None:
    """Numba looks at the file of a kernel alone: so the number there is to be that of vectors.py."""
    assert zlib.crc32(Path(vectors.__file__).read_bytes()) == kernels.VECTORS_CRC


SUM = """
import zlib
import numpy as np
from tests.unet.test_unet import PLAIN, noise, unet_of
from microtome.trimming import NO_SIDES
from microtome.unet.kernels import convolve
heads = unet_of(PLAIN).run(noise(96, 160), NO_SIDES)
wide = any("%zmm" in code for code in convolve.inspect_asm().values())
print(wide, f"{np.abs(heads).mean():.4f}", zlib.crc32(np.ascontiguousarray(heads).tobytes()))
"""
CPUS = {
    "this one": {},
    "no AVX-512": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"},
    "no FMA": {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse4.2,-avx,-fma"},
}


@pytest.mark.slow
def test_cpus_of_every_kind_give_the_same_bits_or_nearly_so_where_they_round_twice(tmp_path: Path) -> None:
    if "avx512f" not in machine_record().flags:
        pytest.skip("this CPU has no AVX-512: what it would give cannot be had here")
    found = {}
    for name, cpu in CPUS.items():
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)} | cpu
        command = [sys.executable, "-c", SUM]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[name] = run.stdout.split()
    wide, mean, bits = zip(*found.values(), strict=True)
    assert wide == ("True", "False", "False")
    assert len(set(mean)) == 1
    assert bits[0] == bits[1] != bits[2]

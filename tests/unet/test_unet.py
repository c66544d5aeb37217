"""The f32 network that is computed here against the same one by OpenVINO, for all that import makes."""

import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from microtome.compiled import Compiled
from microtome.grid import Window
from microtome.model import Precision
from microtome.network import EngineName
from microtome.options import Options
from microtome.plan import OPENVINO_CORE_PX, Plan, make_plan
from microtome.stardist_import import Config
from microtome.trimming import NO_SIDES
from microtome.unet import kernels, lanes, products, vectors
from microtome.unet.convolutions import Convolution, Seen, Source
from microtome.unet.network import Unet
from microtome.unet.windows import lay_out
from tests.unet.cpus import given_on
from tests.unet.networks import LIMITS, OTHERS, PLAIN, heads_of, model_of, noise, read_saved


def unet_of(config: Config, threads: int = 1) -> Unet:
    return Unet(read(config), grid_px=config.grid[0], halo_px=config.halo_px, limits=LIMITS, threads=threads)


def read(config: Config) -> tuple[Convolution, ...]:
    found = read_saved(model_of(config), align_px=config.align_px, grid_px=config.grid[0])
    assert found is not None
    return found


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
        expected = heads_of(compiled, tile)
        assert expected.std() > 0.05
        np.testing.assert_allclose(heads_of(unet, tile), expected, atol=2e-5, rtol=1e-5)


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
    ],
)
def test_a_network_that_is_a_little_different_is_left_to_openvino(
    changed: Callable[[ov.Model], None],
) -> None:
    model = model_of(PLAIN)
    assert read_saved(model, align_px=8, grid_px=2) is not None
    changed(model)
    assert read_saved(model, align_px=8, grid_px=2) is None


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
    assert read_saved(model_of(config), align_px=config.align_px, grid_px=2) is None


@pytest.mark.parametrize(("align_px", "grid_px"), [(4, 2), (12, 2), (8, 4)])
def test_a_network_that_is_not_that_of_its_card_is_left_to_openvino(align_px: int, grid_px: int) -> None:
    assert read_saved(model_of(PLAIN), align_px=align_px, grid_px=grid_px) is None


def test_a_second_thread_is_told_that_a_network_takes_one_tile_at_a_time() -> None:
    unet, tile = unet_of(PLAIN), noise(512, 512)
    heads_of(unet, tile)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(heads_of, unet, tile) for _ in range(2)]
    errors = [result.exception() for result in results]
    assert [error is None for error in errors].count(True) == 1
    with pytest.raises(RuntimeError, match="one tile at a time"):
        raise next(error for error in errors if error)


def test_the_heads_of_a_tile_need_no_more_memory_than_its_planes() -> None:
    unet, tile = unet_of(PLAIN), noise(2048, 2048)
    for _ in unet.run(tile[:, :256, :256], NO_SIDES):
        pass
    tracemalloc.start()
    rows = [dist.shape[1] for _, _, dist in unet.run(tile, NO_SIDES)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(rows) == 1024
    assert peak - unet._maps.nbytes < 1.3 * tile.nbytes, "138 MB are the distances of all px"


def test_pixels_in_any_layout_give_the_same_and_are_not_copied_beside_the_heads() -> None:
    unet, tile = unet_of(PLAIN), noise(1024, 1024)
    first = heads_of(unet, tile)
    interleaved = np.ascontiguousarray(tile.transpose(1, 2, 0)).transpose(2, 0, 1)
    tracemalloc.start()
    for _ in unet.run(interleaved, NO_SIDES):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(heads_of(unet, interleaved), first)
    assert peak < 0.5 * tile.nbytes


def test_a_plan_says_what_computes_its_network(tcga_slide: Path) -> None:
    f32 = make_plan(str(tcga_slide), Options(precision="f32"))
    assert (f32.model.engine, f32.core_px) == (EngineName.UNET, 2048)
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
    """Numba looks at the file of a kernel alone: so the number there is to be that of what it is made of."""
    files = [Path(module.__file__).read_bytes() for module in (lanes, products, vectors)]
    assert zlib.crc32(b"".join(files)) == kernels.VECTORS_CRC


@pytest.mark.slow
def test_cpus_of_every_kind_give_the_same_bits_or_nearly_so_where_they_round_twice(tmp_path: Path) -> None:
    here, narrow, old = (
        given_on(cpu, tmp_path, test="test_unet", kernels="kernels", kernel="convolve")
        for cpu in ("this one", "no AVX-512", "no FMA")
    )
    assert (here.wide, narrow.wide, old.wide) == (True, False, False)
    assert here.mean == narrow.mean == old.mean
    assert here.bits == narrow.bits != old.bits

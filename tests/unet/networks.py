"""Networks for tests: U-Nets of every kind that import makes, with drawn weights, and their int8 twins."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openvino as ov
from openvino import opset13 as op

from microtome.arrays import Band
from microtome.grid import Sides
from microtome.network import Engine
from microtome.stardist_import import Config, build
from microtome.trimming import NO_SIDES
from microtome.unet.convolutions import Convolution
from microtome.unet.reading import read_unet

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
    "few rays": replace(PLAIN, n_rays=8),
    "31 rays": replace(PLAIN, n_rays=31),
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


def read_saved(model: ov.Model, *, align_px: int, grid_px: int) -> tuple[Convolution, ...] | None:
    """The convolutions of a model that is stored as import and quantize store theirs."""
    with TemporaryDirectory() as folder:
        xml, weights = Path(folder) / "model.xml", Path(folder) / "model.bin"
        ov.serialize(model, xml, weights)
        return read_unet(xml, weights, align_px=align_px, grid_px=grid_px)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (3, height, width), dtype=np.uint8)


def heads_of(engine: Engine, tile: np.ndarray, sides: Sides = NO_SIDES, least: float = -np.inf) -> np.ndarray:
    """(n_rays + 1, y, x): distances, and the logits last."""
    logits, dist = whole(engine.run(tile, sides, least))
    return np.concatenate([dist, logits[None]])


def whole(bands: Iterable[Band]) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) and (n_rays, y, x), put together of copies; each band begins where the one before it ends."""
    kept = [(row, first.copy(), dist.copy()) for row, first, dist in bands]
    assert [row for row, _, _ in kept] == [0, *np.cumsum([len(first) for _, first, _ in kept])[:-1]]
    return np.concatenate([first for _, first, _ in kept]), np.concatenate(
        [dist for *_, dist in kept], axis=1
    )


def quantized(config: Config) -> ov.Model:
    """The int8 twin of a drawn network, as NNCF makes it, its ranges from noise."""
    model = model_of(config)
    largest = _largest(model, noise(8 * config.align_px, 8 * config.align_px))
    (image,) = model.get_parameters()
    _insert(image.output(0), 1.05)
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() == "Convolution":
            _with_int8_weights(node)
        elif node.get_type_name() == "Relu":
            _insert(node.output(0), largest[name])
        elif node.get_type_name() == "Interpolate":
            # As wide as what it is put beside.
            (concat,) = (target.get_node() for target in node.output(0).get_target_inputs())
            beside = concat.input_value(1).get_node()
            if beside.get_type_name() == "FakeQuantize":
                beside = beside.input_value(0).get_node()
            _insert(node.output(0), largest[beside.get_friendly_name()])
    model.validate_nodes_and_infer_types()
    return model


def _largest(model: ov.Model, image: np.ndarray) -> dict[str, float]:
    """Of what every ReLU gives for an image, a little less: so that some of it is cut off."""
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "Relu"]
    every = ov.Model([op.result(node) for node in nodes], model.get_parameters())
    found = ov.compile_model(every, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image[None] / np.float32(255))
    return {node.get_friendly_name(): 0.9 * float(found[i].max()) for i, node in enumerate(nodes)}


def _insert(output: ov.Output, largest: float) -> None:
    consumers = output.get_target_inputs()
    low, high = (op.constant(np.float32(limit)) for limit in (0, largest))
    bytes_of = op.fake_quantize(output, low, high, low, high, 256)
    for consumer in consumers:
        consumer.replace_source_output(bytes_of.output(0))


def _with_int8_weights(node: ov.Node) -> None:
    kernel = node.input_value(1).get_node().get_data()
    scale = np.abs(kernel).max((1, 2, 3), keepdims=True) / 127
    whole = op.convert(op.constant(np.rint(kernel / scale).astype(np.int8)), "f32")
    node.input(1).replace_source_output(op.multiply(whole, op.constant(scale)).output(0))

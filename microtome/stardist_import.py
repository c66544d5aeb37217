"""A StarDist model folder becomes an OpenVINO model, without TensorFlow.

Reads `config.json`, `thresholds.json` and `weights_best.h5` as the official package writes them
(Keras 2 and 3) and builds the same network from OpenVINO operations: bit for bit the same numbers
up to the order of sums. Source of the architecture: Schmidt et al. 2018,
doi:10.1007/978-3-030-00934-2_30, and `stardist/models/model2d.py` of the package.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import openvino as ov
from openvino import opset1
from openvino import opset13 as op
from pydantic import TypeAdapter, ValidationError

from microtome.arrays import Floats
from microtome.errors import BadModel, OptionError, StarDistFileMissing, UnsupportedModel
from microtome.model import Ir, ModelCard, Normalisation, Precision, ir_digest, make_folder, write_card

CONFIG_FILE, THRESHOLDS_FILE, WEIGHTS_FILE = "config.json", "thresholds.json", "weights_best.h5"
ACTIVATIONS: Mapping[str, Callable[[ov.Node], ov.Node]] = {
    "relu": op.relu,
    "elu": lambda node: op.elu(node, 1.0),
    "sigmoid": op.sigmoid,
    "tanh": op.tanh,
    "linear": lambda node: node,
}
"""By their names in Keras."""

ASSUMED_MPP = 0.25
"""Slides scanned at 40x."""
ASSUMED_NORMALISATION = Normalisation(low_percentile=1.0, high_percentile=99.8)
"""What the package's examples do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What a StarDist folder does not say."""

    name: str
    version: str = "1.0"
    stain: str = "H&E"
    mpp: float | None = None
    normalisation: Normalisation | None = None
    licence: str = "not stated"
    attribution: str = "not stated"

    def __post_init__(self) -> None:
        if self.mpp is not None and not self.mpp > 0:
            raise OptionError("--mpp", self.mpp, "above 0, in um/px")


@dataclass(frozen=True)
class Kind:
    """What `config.json` says of every StarDist model."""

    n_dim: int
    backbone: str = "unet"


@dataclass(frozen=True)
class Thresholds:
    """`thresholds.json`."""

    prob: float
    nms: float


@dataclass(frozen=True)
class Config:
    """The part of `config.json` that shapes the network."""

    n_rays: int
    n_channel_in: int
    grid: tuple[int, int]
    unet_n_depth: int
    unet_kernel_size: tuple[int, int]
    unet_n_filter_base: int
    unet_n_conv_per_depth: int
    unet_pool: tuple[int, int]
    unet_activation: str
    unet_last_activation: str
    net_conv_after_unet: int
    unet_expansion: int = 2
    unet_batch_norm: bool = False
    unet_prefix: str = ""
    n_classes: int | None = None

    @property
    def align_px(self) -> int:
        return int(self.grid[0] * 2**self.unet_n_depth)

    @property
    def halo_px(self) -> int:
        """How far an output px sees, at most: walked from the output back to the image."""
        radius, convs = self.unet_kernel_size[0] // 2, self.unet_n_conv_per_depth
        reach = radius if self.net_conv_after_unet else 0
        for _ in range(self.unet_n_depth):
            reach = -(-(reach + convs * radius) // 2)
        reach += convs * radius
        for _ in range(self.unet_n_depth):
            reach = 2 * reach + convs * radius
        for _ in range(self.grid[0].bit_length() - 1):
            reach = 2 * reach + convs * radius
        return -(-reach // self.align_px) * self.align_px


_KINDS, _CONFIGS, _THRESHOLDS = TypeAdapter(Kind), TypeAdapter(Config), TypeAdapter(Thresholds)


def import_stardist(folder: Path, out: Path, about: About) -> ModelCard:
    """Turn a StarDist folder into a model of microtome in the folder `out`, and return its card.

    What neither the folder nor `about` says is assumed, and the assumptions stand in the card.

    Raises
    ------
    StarDistFileMissing
        If a file of the StarDist folder is missing.
    BadModel
        If a file cannot be read, or the weights do not fit the configuration.
    CannotWrite
        If `out` cannot be made.
    UnsupportedModel
        If it is a StarDist model of a kind that microtome does not run.
    """
    config = _read_config(folder / CONFIG_FILE)
    thresholds = _read_json(folder / THRESHOLDS_FILE, _THRESHOLDS)
    weights_path = folder / WEIGHTS_FILE
    model = build(config, read_weights(weights_path), str(weights_path), about.name)
    make_folder(out)
    ov.serialize(model, out / "f32.xml", out / "f32.bin")
    ir = Ir(xml="f32.xml", bin="f32.bin", digest=ir_digest(out / "f32.xml", out / "f32.bin"))
    card = ModelCard(
        name=about.name,
        version=about.version,
        stain=about.stain,
        mpp=about.mpp or ASSUMED_MPP,
        n_rays=config.n_rays,
        grid=config.grid[0],
        halo_px=config.halo_px,
        align_px=config.align_px,
        prob_threshold=thresholds.prob,
        nms_threshold=thresholds.nms,
        normalisation=about.normalisation or ASSUMED_NORMALISATION,
        precisions={Precision.F32: ir, Precision.BF16: ir},
        licence=about.licence,
        attribution=about.attribution,
        source="sha256:" + hashlib.sha256(weights_path.read_bytes()).hexdigest(),
        assumptions=_assumptions(about),
    )
    write_card(card, out)
    return card


def _assumptions(about: About) -> tuple[str, ...]:
    low, high = ASSUMED_NORMALISATION.low_percentile, ASSUMED_NORMALISATION.high_percentile
    assumed = {
        f"trained at {ASSUMED_MPP} um/px": about.mpp is None,
        f"trained on images normalised from their {low:g} to their {high:g} percentile, "
        "as in the package's examples": about.normalisation is None,
    }
    return tuple(sentence for sentence, is_assumed in assumed.items() if is_assumed)


def read_weights(path: Path) -> dict[str, Floats]:
    """Every array of a Keras weights file by `layer/kernel` and `layer/bias`, whatever the layout.

    Known layouts: Keras 2 (`layer/layer/kernel:0`), Keras 3 (`layer/layer/kernel`), and either
    of them below `model_weights` (a whole model was saved).
    """
    weights: dict[str, Floats] = {}

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        steps = name.removesuffix(":0").split("/")
        if isinstance(item, h5py.Dataset) and len(steps) >= 2 and steps[0] != "optimizer_weights":
            weights["/".join(steps[-2:])] = np.asarray(item[()], np.float32)

    try:
        with h5py.File(path) as file:
            file.visititems(take)
    except FileNotFoundError:
        raise StarDistFileMissing(str(path)) from None
    except OSError as error:
        raise BadModel(str(path), f"not a readable HDF5 file ({error})") from error
    return weights


def build(config: Config, weights: Mapping[str, Floats], path: str, name: str) -> ov.Model:
    """The network as an OpenVINO model with static channels and free height and width.

    Its input is (1, c, y, x) float32, normalised; its output, `heads`, (1, n_rays + 1, y / grid,
    x / grid) float32: the distances, then what the probability is the sigmoid of. `path` names
    the weights in errors.
    """
    layers = _Layers(weights, path)
    shape = ov.PartialShape([1, config.n_channel_in, -1, -1])
    image = op.parameter(shape, ov.Type.f32, name="image")
    node = _halve_to_grid(image, config, layers)
    node = _unet(node, config, layers)
    if config.net_conv_after_unet:
        node = layers.conv(node, "features", config.net_conv_after_unet, config.unet_activation)
    heads = layers.heads(node, config.n_rays)
    layers.check_all_used()
    heads.output(0).set_names({"heads"})
    return ov.Model([op.result(heads, name="heads/result")], [image], name)


def _halve_to_grid(node: ov.Node, config: Config, layers: "_Layers") -> ov.Node:
    """Convolutions and pools down to the grid. Keras numbers these layers from any number on."""
    names = iter(layers.numbered("conv2d"))
    for _ in range(config.grid[0].bit_length() - 1):
        for _ in range(config.unet_n_conv_per_depth):
            conv_name = next(names, "conv2d_N")
            node = layers.conv(node, conv_name, config.unet_n_filter_base, config.unet_activation)
        node = _pool(node)
    return node


def _unet(node: ov.Node, config: Config, layers: "_Layers") -> ov.Node:
    """`unet_block` of csbdeep 0.8."""
    prefix, depth, convs = config.unet_prefix, config.unet_n_depth, config.unet_n_conv_per_depth
    activation = config.unet_activation

    def filters(level: int) -> int:
        return int(config.unet_n_filter_base * 2 ** max(0, level))

    skips = []
    for level in range(depth):
        for i in range(convs):
            node = layers.conv(node, f"{prefix}down_level_{level}_no_{i}", filters(level), activation)
        skips.append(node)
        node = _pool(node)
    for i in range(convs - 1):
        node = layers.conv(node, f"{prefix}middle_{i}", filters(depth), activation)
    node = layers.conv(node, f"{prefix}middle_{convs}", filters(depth - 1), activation)
    for level in reversed(range(depth)):
        node = op.concat([_enlarge(node), skips[level]], axis=1)
        for i in range(convs - 1):
            node = layers.conv(node, f"{prefix}up_level_{level}_no_{i}", filters(level), activation)
        last = activation if level else config.unet_last_activation
        node = layers.conv(node, f"{prefix}up_level_{level}_no_{convs}", filters(level - 1), last)
    return node


def _pool(node: ov.Node) -> ov.Node:
    return opset1.max_pool(node, [2, 2], [0, 0], [0, 0], [2, 2])


def _enlarge(node: ov.Node) -> ov.Node:
    """Each px becomes 2 x 2 px."""
    scales = op.constant(np.array([2, 2], np.float32))
    return op.interpolate(
        node, scales, "nearest", "scales", axes=op.constant(np.array([2, 3])),
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _convolve(node: ov.Node, kernel: Floats, bias: Floats, name: str) -> ov.Node:
    turned = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
    pads = [side // 2 for side in kernel.shape[:2]]
    out = op.convolution(node, op.constant(turned), [1, 1], pads, pads, [1, 1], name=name)
    return op.add(out, op.constant(bias.reshape(1, -1, 1, 1)), name=f"{name}/bias")


class _Layers:
    """Convolutions with the weights of their name; knows which weights were used."""

    def __init__(self, weights: Mapping[str, Floats], path: str) -> None:
        self._weights, self._path = weights, path
        self._unused = set(weights)

    def numbered(self, stem: str) -> list[str]:
        """Layers named `stem` or `stem_7`, by number."""
        found = (re.fullmatch(rf"({stem}(?:_(\d+))?)/kernel", key) for key in self._weights)
        numbers = {match[1]: int(match[2] or 0) for match in found if match}
        return sorted(numbers, key=lambda layer: numbers[layer])

    def conv(self, node: ov.Node, name: str, filters: int, activation: str) -> ov.Node:
        """A convolution that keeps the size, its bias, its activation."""
        return ACTIVATIONS[activation](_convolve(node, *self._arrays(node, name, filters), name))

    def heads(self, node: ov.Node, n_rays: int) -> ov.Node:
        """Distances, then the probability before its sigmoid, as channels of one convolution.

        Two would read their input, the largest array of the network, twice.
        """
        arrays = [self._arrays(node, "dist", n_rays), self._arrays(node, "prob", 1)]
        kernels, biases = zip(*arrays, strict=True)
        return _convolve(node, np.concatenate(kernels, axis=3), np.concatenate(biases), "heads")

    def _arrays(self, node: ov.Node, name: str, filters: int) -> tuple[Floats, Floats]:
        channels = int(node.get_output_partial_shape(0)[1].get_length())
        kernel, bias = self._take(f"{name}/kernel"), self._take(f"{name}/bias")
        if kernel.shape != (*kernel.shape[:2], channels, filters) or bias.shape != (filters,):
            raise BadModel(
                self._path,
                f"layer {name} has a kernel of {kernel.shape} and a bias of {bias.shape}, "
                f"but {CONFIG_FILE} makes it {filters} filters over {channels} channels",
            )
        return kernel, bias

    def check_all_used(self) -> None:
        if self._unused:
            layers = ", ".join(sorted({key.split("/")[0] for key in self._unused}))
            raise BadModel(self._path, f"holds layers that {CONFIG_FILE} does not speak of: {layers}")

    def _take(self, key: str) -> Floats:
        if key not in self._weights:
            raise BadModel(self._path, f"has no weights {key}, which {CONFIG_FILE} asks for")
        self._unused.discard(key)
        return self._weights[key]


def _read_config(path: Path) -> Config:
    """The configuration, refused where microtome could only run it wrongly."""
    kind = _read_json(path, _KINDS)
    if kind.n_dim != 2 or kind.backbone != "unet":
        what = f"is a StarDist {kind.n_dim}D model with backbone {kind.backbone}"
        raise UnsupportedModel(str(path), what, "2D models with backbone unet")
    config = _read_json(path, _CONFIGS)
    checks = {
        "n_channel_in": (config.n_channel_in, config.n_channel_in == 3, "3 (RGB)"),
        "grid": (config.grid, config.grid in {(1, 1), (2, 2), (4, 4)}, "[1, 1], [2, 2] or [4, 4]"),
        "n_classes": (config.n_classes, config.n_classes is None, "null"),
        "unet_pool": (config.unet_pool, config.unet_pool == (2, 2), "[2, 2]"),
        "unet_expansion": (config.unet_expansion, config.unet_expansion == 2, "2"),
        "unet_kernel_size": (
            config.unet_kernel_size,
            config.unet_kernel_size in {(3, 3), (5, 5), (7, 7)},
            "[3, 3], [5, 5] or [7, 7]",
        ),
        "unet_batch_norm": (config.unet_batch_norm, not config.unet_batch_norm, "false"),
    }
    for name in ("unet_activation", "unet_last_activation"):
        value = getattr(config, name)
        checks[name] = (value, value in ACTIVATIONS, " or ".join(ACTIVATIONS))
    for name, (value, is_fine, supported) in checks.items():
        if not is_fine:
            raise UnsupportedModel(str(path), f"{name} is {value}", f"models with {supported} there")
    return config


def _read_json[T](path: Path, adapter: TypeAdapter[T]) -> T:
    try:
        return adapter.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise StarDistFileMissing(str(path)) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadModel(str(path), f"{where}: {first['msg']}" if where else first["msg"]) from error


def parse_percentiles(text: str) -> Normalisation:
    """`1,99.8` or `none,99.8`, as the command line takes them.

    Raises
    ------
    OptionError
        If the text is not that, or the numbers are not rising within 0..100.
    """
    expected = "two rising numbers from 0 to 100, the first one `none` where pixel value 0 is 0: none,99.8"
    try:
        low_text, high_text = text.split(",")
        low = None if low_text.strip() == "none" else float(low_text)
        high = float(high_text)
    except ValueError:
        raise OptionError("--percentiles", text, expected) from None
    if not 0 <= (low or 0.0) < high <= 100:
        raise OptionError("--percentiles", text, expected)
    return Normalisation(low_percentile=low, high_percentile=high)

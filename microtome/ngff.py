"""Arrays of a result and the OME-NGFF metadata that describes them, versions 0.5 and 0.4. No I/O.

Sources: OME-NGFF 0.5 and 0.4, https://ngff.openmicroscopy.org; Zarr 3 and 2,
https://zarr-specs.readthedocs.io.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import TYPE_CHECKING, Literal

from microtome.grid import Grid

if TYPE_CHECKING:  # a plan's making loads far more than its shapes need
    from microtome.plan import Plan

CHUNK_PX = 512
ZSTD_LEVEL = 1
LABELS = "labels/nuclei"
GLASS = 255
"""Fill value of pixels: what is not written reads as glass."""
TASK_LEVELS = 3
"""Levels that one task makes from a block of the level below them."""

OPENED_BY = (
    "zarr-python 3 with imagecodecs, on Python 3.12 or newer: pip install zarr imagecodecs. Its codec "
    "imagecodecs_jpeg is registered in the program by: import imagecodecs.zarr; "
    "imagecodecs.zarr.register_codecs(); where microtome is installed, it is registered already"
)
"""Who reads an array of JPEG chunks; stands in its metadata."""

type Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Jpeg:
    """How chunks of pixels are compressed, where not by zstd."""

    quality: int
    """1..100."""
    subsampling: str
    """Of chroma, as codecs name it: `420`."""


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One level of the pixels, (c, y, x) uint8, or of the labels, (y, x) uint32."""

    path: str
    """Key of the array within the result, `0` or `labels/nuclei/0`."""
    shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    """What one task writes: a Zarr shard in 0.5, a block of separate chunks in 0.4."""
    chunk_shape: tuple[int, ...]
    dtype: Literal["uint8", "uint32"]
    fill: int
    ngff: Literal["0.5", "0.4"]
    jpeg: Jpeg | None = None
    """Of chunks that are JPEG streams, (c, y, x) pixels only."""

    @cached_property
    def grid(self) -> Grid:
        """Shards of this level."""
        return Grid(self.shape[-2], self.shape[-1], self.shard_shape[-1])

    @property
    def chunks_per_side(self) -> int:
        return self.shard_shape[-1] // self.chunk_shape[-1]

    def key(self, row: int, col: int) -> str:
        """Key of the shard (0.5) or of the chunk (0.4) at a row and column."""
        channel = "0/" if len(self.shape) == 3 else ""
        prefix = f"{self.path}/c/" if self.ngff == "0.5" else f"{self.path}/"
        return f"{prefix}{channel}{row}/{col}"


def level_sizes(plan: "Plan") -> tuple[tuple[int, int], ...]:
    """(height, width) of every level: half of the level below, rounded up."""
    sizes = [(plan.height_px, plan.width_px)]
    while len(sizes) < plan.levels:
        height_px, width_px = sizes[-1]
        sizes.append((-(-height_px // 2), -(-width_px // 2)))
    return tuple(sizes)


def shard_px(finest_px: int, level: int) -> int:
    """Side of a shard: `finest_px` at level 0, then 1/2, 1/4, 1/8 of it, and again from 1/2."""
    return finest_px >> ((level - 1) % TASK_LEVELS + 1 if level else 0)


def image_shard_px(plan: "Plan") -> int:
    """Side of a shard of the pixels' level 0: the plan's, or what the slide's own tiles fill."""
    return plan.copied.shard_px if plan.copied is not None else plan.shard_px


def image_arrays(plan: "Plan") -> tuple[ArraySpec, ...]:
    """Pixels by level; empty if the plan keeps none."""
    if plan.pixels == "none":
        return ()
    return tuple(_image(plan, level, size) for level, size in enumerate(level_sizes(plan)))


def label_arrays(plan: "Plan") -> tuple[ArraySpec, ...]:
    """Labels by level."""
    return tuple(_labels(plan, level, size) for level, size in enumerate(level_sizes(plan)))


def _image(plan: "Plan", level: int, size: tuple[int, int]) -> ArraySpec:
    side, copied = shard_px(image_shard_px(plan), level), plan.copied
    most_px = CHUNK_PX if copied is None or (level and copied.tile_px > CHUNK_PX) else copied.tile_px
    chunk = gcd(side, most_px)
    jpeg = Jpeg(copied.quality, copied.subsampling.replace(":", "")) if copied is not None else None
    return ArraySpec(
        path=str(level),
        shape=(3, *size),
        shard_shape=(3, side, side),
        chunk_shape=(3, chunk, chunk),
        dtype="uint8",
        fill=GLASS,
        ngff=plan.ngff,
        jpeg=jpeg,
    )


def _labels(plan: "Plan", level: int, size: tuple[int, int]) -> ArraySpec:
    side = shard_px(plan.shard_px, level)
    chunk = gcd(side, CHUNK_PX)
    return ArraySpec(
        path=f"{LABELS}/{level}",
        shape=size,
        shard_shape=(side, side),
        chunk_shape=(chunk, chunk),
        dtype="uint32",
        fill=0,
        ngff=plan.ngff,
    )


def metadata(plan: "Plan") -> dict[str, bytes]:
    """Every metadata document of the result by its key; the root comes last.

    Without pixels the root is a plain group and the labels name no source image.
    """
    images, labels = image_arrays(plan), label_arrays(plan)
    documents: dict[str, bytes] = {}
    for spec in (*labels, *images):
        documents |= _array(spec)
    documents |= _group(plan, LABELS, _label_attributes(plan, labels))
    documents |= _group(plan, "labels", {"labels": [LABELS.removeprefix("labels/")]})
    documents |= _group(plan, "", _image_attributes(plan, images) if images else {})
    return documents


def _image_attributes(plan: "Plan", images: Sequence[ArraySpec]) -> Json:
    return {"multiscales": [_multiscale(plan, images, plan.slide.name)], "omero": _omero(plan)}


def _label_attributes(plan: "Plan", labels: Sequence[ArraySpec]) -> Json:
    # No colours: one a nucleus makes a document of megabytes, on which viewers break.
    image_label: dict[str, object] = {} if plan.ngff == "0.5" else {"version": "0.4"}
    if plan.pixels != "none":
        image_label["source"] = {"image": "../../"}
    return {"multiscales": [_multiscale(plan, labels, "nuclei")], "image-label": image_label}


def _multiscale(plan: "Plan", specs: Sequence[ArraySpec], name: str) -> Json:
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    has_channels = len(specs[0].shape) == 3
    version = {} if plan.ngff == "0.5" else {"version": "0.4"}
    return version | {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}, *space] if has_channels else space,
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": _transformations(plan, level, has_channels),
            }
            for level in range(len(specs))
        ],
    }


def _transformations(plan: "Plan", level: int, has_channels: bool) -> list[Json]:
    """Scale and offset of pixel centres: a pixel of level k is the mean of 2**k x 2**k."""
    mpp = (plan.slide.mpp.y, plan.slide.mpp.x)
    scale = [float(um * 2**level) for um in mpp]
    translation = [float(um * (2**level - 1) / 2) for um in mpp]
    return [
        {"type": "scale", "scale": [1.0, *scale] if has_channels else scale},
        {"type": "translation", "translation": [0.0, *translation] if has_channels else translation},
    ]


def _omero(plan: "Plan") -> Json:
    """The whole block: some viewers fail on a part of it."""
    version = {} if plan.ngff == "0.5" else {"version": "0.4"}
    return version | {
        "id": 1,
        "name": plan.slide.name,
        "channels": [
            {
                "active": True,
                "coefficient": 1.0,
                "color": color,
                "family": "linear",
                "inverted": False,
                "label": label,
                "window": {"min": 0.0, "max": 255.0, "start": 0.0, "end": 255.0},
            }
            for label, color in (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))
        ],
        "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"},
    }


def _group(plan: "Plan", path: str, attributes: Json) -> dict[str, bytes]:
    prefix = f"{path}/" if path else ""
    if plan.ngff == "0.4":
        return {
            f"{prefix}.zattrs": _dump(attributes),
            f"{prefix}.zgroup": _dump({"zarr_format": 2}),
        }
    ome = {"ome": {"version": "0.5", **attributes}} if attributes else {}
    return {f"{prefix}zarr.json": _dump({"zarr_format": 3, "node_type": "group", "attributes": ome})}


def _array(spec: ArraySpec) -> dict[str, bytes]:
    if spec.ngff == "0.4":
        return {f"{spec.path}/.zarray": array_document(spec), f"{spec.path}/.zattrs": _dump({})}
    return {f"{spec.path}/zarr.json": array_document(spec)}


def array_document(spec: ArraySpec) -> bytes:
    """Zarr's metadata of an array: its `zarr.json` or `.zarray`."""
    return _dump(_array_v3(spec) if spec.ngff == "0.5" else _array_v2(spec))


def _array_v2(spec: ArraySpec) -> Json:
    return {
        "zarr_format": 2,
        "shape": spec.shape,
        "chunks": spec.chunk_shape,
        "dtype": {"uint8": "|u1", "uint32": "<u4"}[spec.dtype],
        "fill_value": spec.fill,
        "order": "C",
        "compressor": {"id": "zstd", "level": ZSTD_LEVEL},
        "filters": None,
        "dimension_separator": "/",
    }


_ZSTD = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}


def _array_v3(spec: ArraySpec) -> Json:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": spec.chunk_shape,
        "codecs": _jpeg_codecs(spec.jpeg) if spec.jpeg else [little, _ZSTD],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": spec.shape,
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": spec.shard_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": spec.fill,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["c", "y", "x"][-len(spec.shape) :],
        "attributes": {"opened_by": OPENED_BY} if spec.jpeg else {},
    }


def _jpeg_codecs(jpeg: Jpeg) -> list[Json]:
    """JPEG holds (y, x, c); quality and subsampling are those of the levels above 0."""
    options = {"level": jpeg.quality, "subsampling": jpeg.subsampling}
    return [
        {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
        {"name": "imagecodecs_jpeg", "configuration": options},
    ]


def _dump(document: Json) -> bytes:
    return json.dumps(document, indent=1).encode()

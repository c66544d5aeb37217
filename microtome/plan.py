"""Everything a run will do, decided before it starts, as one frozen record with a fingerprint.

A plan holds no clock, host or worker count: two runs of one plan make the same bytes.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import TypeAdapter

from microtome.grid import Grid, Scale
from microtome.slides.base import Level, Mpp


@dataclass(frozen=True, kw_only=True)
class SlideRecord:
    """The slide as it was when the plan was made."""

    name: str
    uri: str
    identity: str
    format: str
    reader: str
    levels: tuple[Level, ...]
    mpp: Mpp
    mpp_source: Literal["the file", "--mpp"]
    on_bad_tile: Literal["fail", "blank"]


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The model and how it will be run."""

    name: str
    version: str
    uri: str
    digest: str
    precision: Literal["f32", "bf16", "int8"]
    mpp: float
    prob_threshold: float
    nms_threshold: float
    low: float
    """Pixel value that the network sees as 0."""
    high: float
    """Pixel value that the network sees as 1."""


@dataclass(frozen=True, kw_only=True)
class TissueRecord:
    """Where nuclei are looked for."""

    source: str
    """`found`, `all` or the file it was read from."""
    cell_px: int
    """Side of a cell of the mask, level-0 px."""
    mask: str
    """`TissueMask.pack()`."""
    area_px: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One slide, one model, one result."""

    version: str
    """Of microtome; another version makes another plan."""
    slide: SlideRecord
    model: ModelRecord
    tissue: TissueRecord
    scale: Scale
    shard_px: int
    tile_px: int
    """Side of the network's input, halo included, network px."""
    halo_px: int
    ngff: Literal["0.5", "0.4"]
    pixels: Literal["lossless", "source", "none"]
    levels: int
    """Levels of the result's pyramid, level 0 included."""

    @property
    def height_px(self) -> int:
        return self.slide.levels[0].height_px

    @property
    def width_px(self) -> int:
        return self.slide.levels[0].width_px

    @cached_property
    def grid(self) -> Grid:
        """Shards of level 0."""
        return Grid(self.height_px, self.width_px, self.shard_px)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the plan's canonical JSON, hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        return _PLANS.dump_json(self, indent=1)

    @classmethod
    def from_json(cls, text: bytes) -> "Plan":
        return _PLANS.validate_json(text)


_PLANS: TypeAdapter[Plan] = TypeAdapter(Plan)

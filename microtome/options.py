"""What a user may choose for one slide, checked when made."""

from dataclasses import dataclass
from typing import Literal

from microtome.errors import OptionError

PrecisionOption = Literal["auto", "f32", "bf16", "int8"]
Ngff = Literal["0.5", "0.4"]
PixelsOption = Literal["lossless", "source", "none"]
BadTileOption = Literal["fail", "blank"]

SHARD_STEP_PX = 512
"""Shards are whole chunks, and whole tiles of every level that they hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a slide is to be segmented; everything left out is decided by the slide and the CPU."""

    model: str | None = None
    """Folder of a model, or the name of a shipped one; the default model when None."""
    mpp: float | None = None
    """um/px of level 0; overrides what the file says."""
    precision: PrecisionOption = "auto"
    tissue: str | None = None
    """GeoJSON or mask image that says where the tissue is."""
    no_tissue: bool = False
    """Look for nuclei everywhere."""
    ngff: Ngff = "0.5"
    pixels: PixelsOption | None = None
    """What the result holds of the slide's pixels; by the slide's size when None."""
    shard_px: int | None = None
    """Side of a shard, level-0 px; by the size of the slide when None."""
    on_bad_tile: BadTileOption = "fail"

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, tuple[object, ...]]] = {
            "--precision": (self.precision, ("auto", "f32", "bf16", "int8")),
            "--ngff": (self.ngff, ("0.5", "0.4")),
            "--pixels": (self.pixels, (None, "lossless", "source", "none")),
            "--on-bad-tile": (self.on_bad_tile, ("fail", "blank")),
        }
        for option, (value, allowed) in choices.items():
            if value not in allowed:
                raise OptionError(option, value, "one of " + ", ".join(str(one) for one in allowed if one))
        if self.tissue is not None and self.no_tissue:
            raise OptionError("--tissue", self.tissue, "left out together with --no-tissue")
        if self.shard_px is not None and not (
            SHARD_STEP_PX <= self.shard_px <= 16_384 and self.shard_px % SHARD_STEP_PX == 0
        ):
            raise OptionError(
                "--shard-size", self.shard_px, f"a multiple of {SHARD_STEP_PX} from {SHARD_STEP_PX} to 16,384"
            )

"""Everything a run will do, decided before it starts, as one frozen record with a fingerprint.

A plan holds no clock, host or worker count: two runs of one plan make the same bytes.
"""

import hashlib
import math
from dataclasses import astuple, dataclass, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import TypeAdapter

import microtome
from microtome.copying import CopiedJpeg, choose_pixels, in_words
from microtome.cpu import choose_precision, this_instruction_set
from microtome.errors import AbsurdResolution, NoResolution, OptionError
from microtome.grid import Grid, Scale, Window, levels_of
from microtome.model import ModelCard, Precision, find_model, read_card
from microtome.network import EngineName, engine_of
from microtome.options import BadTileOption, Options, PixelsOption
from microtome.slides import BadTiles, OnBadTile, Slide, open_slide
from microtome.slides.base import Level, Mpp
from microtome.stain import StainLimits, check_brightfield, find_limits
from microtome.tiling import Tiling
from microtome.tissue import find_tissue
from microtome.tissue_file import read_tissue
from microtome.tissue_mask import TissueMask, all_tissue

LEAST_MPP, MOST_MPP = 0.05, 5.0
"""A pathology scanner's finest and coarsest level 0, um/px, with room to spare."""

MOST_ZOOM = 4
"""Slides finer or coarser than the model by more than this are refused: nothing of what the
network learnt would be left."""

OPENVINO_CORE_PX = {Precision.F32: 1024, Precision.BF16: 1408, Precision.INT8: 2048}
"""Longest side of a tile's core, by what OpenVINO computes in: as large as a worker of 2 GB can hold, for
the halo's share falls."""
UNET_CORE_PX = 2048
"""The same for `unet`, which takes less than half of OpenVINO's memory for a tile."""


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
    precision: Precision
    why_precision: str
    mpp: float
    prob_threshold: float
    nms_threshold: float
    grid: int
    """Network px per px of the network's output."""
    low: float
    """Pixel value that the network sees as 0."""
    high: float
    """Pixel value that the network sees as 1."""
    engine: EngineName = EngineName.OPENVINO

    @property
    def core_px(self) -> int:
        """Longest side of a tile's core, network px."""
        return UNET_CORE_PX if self.engine is EngineName.UNET else OPENVINO_CORE_PX[self.precision]


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
    bad_tiles: tuple[tuple[int, int, int, int], ...] = ()
    """Of coarser levels, that were taken as glass when it was found: as in `ShardReport`."""


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
    core_px: int
    """Longest side of a tile's core, network px."""
    halo_px: int
    """Context that the network sees around a core, network px."""
    align_px: int
    ngff: Literal["0.5", "0.4"]
    pixels: PixelsOption
    levels: int
    """Levels of the result's pyramid, level 0 included."""
    why_pixels: str = ""
    copied: CopiedJpeg | None = None
    """How the slide's tiles are copied, where `pixels` is `source`."""

    @property
    def pixels_in_words(self) -> str:
        """What is kept of the pixels and why, for people."""
        return in_words(self.pixels, self.why_pixels, self.copied)

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

    @property
    def network_window(self) -> Window:
        """The slide in network px."""
        return self.scale.to_network(self.grid.window)

    @cached_property
    def tiling(self) -> Tiling:
        network = self.network_window
        return Tiling(
            height_px=network.height,
            width_px=network.width,
            core_px=self.core_px,
            halo_px=self.halo_px,
            align_px=self.align_px,
        )

    @cached_property
    def tissue_mask(self) -> TissueMask:
        return TissueMask.unpack(self.tissue.mask, self.tissue.cell_px)

    @property
    def pixel_area_um2(self) -> float:
        return self.slide.mpp.y * self.slide.mpp.x

    @property
    def tissue_mm2(self) -> float:
        return self.tissue.area_px * self.pixel_area_um2 / 1e6

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the plan's canonical JSON, hex.

        Where the slide and the model lie does not count, nor why a precision or a way to keep
        pixels was chosen: what they are does.
        """
        anywhere = replace(
            self,
            slide=replace(self.slide, uri=""),
            model=replace(self.model, uri="", why_precision=""),
            why_pixels="",
        )
        return hashlib.sha256(anywhere.to_json()).hexdigest()

    def to_json(self) -> bytes:
        return _PLANS.dump_json(self, indent=1)

    @classmethod
    def from_json(cls, text: bytes) -> "Plan":
        return _PLANS.validate_json(text)

    def computed_by(self, engine: EngineName) -> "Plan":
        """The same plan, its network computed by another engine."""
        model = replace(self.model, engine=engine)
        return replace(self, model=model, core_px=model.core_px)

    def differences(self, other: "Plan") -> str:
        """In words, what distinguishes this plan from another: `model.precision int8, now f32`."""
        found = []
        for part in fields(self):
            old, new = getattr(self, part.name), getattr(other, part.name)
            if old == new:
                continue
            if not hasattr(old, "__dataclass_fields__"):
                found.append(f"{part.name} {old}, now {new}")
                continue
            for inner in fields(old):
                before, now = getattr(old, inner.name), getattr(new, inner.name)
                if before != now:
                    found.append(f"{part.name}.{inner.name} {_short(before)}, now {_short(now)}")
        return "; ".join(found[:3])


_PLANS: TypeAdapter[Plan] = TypeAdapter(Plan)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def make_plan(uri: str, options: Options) -> Plan:
    """Look at the slide and the model and decide everything.

    Raises
    ------
    MicrotomeError
        If the slide, the model or an option is not fit for a run; nothing was written.
    """
    folder = find_model(options.model).absolute()
    card = read_card(folder)
    with open_slide(uri, on_bad_tile=OnBadTile.BLANK) as slide:
        check_brightfield(slide)
        how = _how_computed(card, folder, options)
        mpp, mpp_source = _resolution(slide, options.mpp)
        tissue, tissue_source = _tissue(slide, mpp, options)
        limits = find_limits(
            slide, tissue, card.normalisation.low_percentile, card.normalisation.high_percentile
        )
        bad_tiles = _bad_overview(slide, options.on_bad_tile)
        shard_px = options.shard_px or _shard_px(slide)
        model = _model_record(card, folder, options, limits, how)
        pixels = choose_pixels(slide, options, shard_px)
        return Plan(
            version=microtome.__version__,
            slide=SlideRecord(
                name=PurePosixPath(uri.rstrip("/")).name,
                uri=slide.uri if "://" in slide.uri else str(Path(slide.uri).absolute()),
                identity=slide.identity,
                format=slide.format,
                reader=slide.reader,
                levels=slide.levels,
                mpp=mpp,
                mpp_source=mpp_source,
                on_bad_tile=options.on_bad_tile,
            ),
            model=model,
            tissue=TissueRecord(
                source=tissue_source,
                cell_px=tissue.cell_px,
                mask=tissue.pack(),
                area_px=tissue.area_px(),
                bad_tiles=bad_tiles,
            ),
            scale=scale_for(slide.uri, mpp, card, shard_px),
            shard_px=shard_px,
            core_px=model.core_px,
            halo_px=card.halo_px,
            align_px=card.align_px,
            ngff=options.ngff,
            pixels=pixels.kept,
            why_pixels=pixels.why,
            copied=pixels.copied,
            levels=levels_of(slide.levels[0].height_px, slide.levels[0].width_px),
        )


def _bad_overview(slide: Slide, on_bad_tile: BadTileOption) -> tuple[tuple[int, int, int, int], ...]:
    """Tiles of the overview that could not be decoded: what lies there looks like glass.

    Those of level 0 are found again when it is read as a whole.

    Raises
    ------
    BadTiles
        If there are some and they are not to be taken as glass.
    """
    bad = tuple(sorted(tile for tile in slide.bad_tiles if tile.level > 0))
    if bad and on_bad_tile == "fail":
        raise BadTiles(slide.uri, bad, slide.tiles)
    return tuple(astuple(tile) for tile in bad)


def _how_computed(card: ModelCard, folder: Path, options: Options) -> tuple[Precision, str, EngineName]:
    """Precision, why that one, and what computes the network in it."""
    requested = None if options.precision == "auto" else Precision(options.precision)
    precision, why = choose_precision(card, requested, this_instruction_set())
    return precision, why, engine_of(folder, precision)


def _model_record(
    card: ModelCard,
    folder: Path,
    options: Options,
    limits: StainLimits,
    how: tuple[Precision, str, EngineName],
) -> ModelRecord:
    precision, why_precision, engine = how
    return ModelRecord(
        name=card.name,
        version=card.version,
        uri=options.model if options.model and "://" in options.model else str(folder),
        digest=card.digest(precision),
        precision=precision,
        why_precision=why_precision,
        mpp=card.mpp,
        prob_threshold=card.prob_threshold,
        nms_threshold=card.nms_threshold,
        grid=card.grid,
        low=limits.low,
        high=limits.high,
        engine=engine,
    )


def scale_for(uri: str, mpp: Mpp, card: ModelCard, shard_px: int) -> Scale:
    """The power of two that brings the slide nearest to the model's um/px (in the logarithm).

    What is left, a factor of at most the square root of two, is within what the network is
    trained for.
    """
    exponent = round(math.log2(math.sqrt(mpp.y * mpp.x) / card.mpp))
    factor = 2 ** abs(exponent)
    if factor > MOST_ZOOM or (exponent < 0 and shard_px % (factor * card.align_px)):
        raise OptionError(
            f"the resolution of {uri}",
            f"{mpp.x:g} um/px",
            f"within {MOST_ZOOM} times the model's {card.mpp:g}",
        )
    return Scale(factor, 1) if exponent >= 0 else Scale(1, factor)


def _resolution(slide: Slide, given: float | None) -> tuple[Mpp, Literal["the file", "--mpp"]]:
    mpp = Mpp(given, given) if given is not None else slide.mpp
    if mpp is None:
        raise NoResolution(slide.uri)
    source: Literal["the file", "--mpp"] = "the file" if given is None else "--mpp"
    for value in (mpp.y, mpp.x):
        if not LEAST_MPP <= value <= MOST_MPP:
            raise AbsurdResolution(slide.uri, value, source, LEAST_MPP, MOST_MPP)
    return mpp, source


def _tissue(slide: Slide, mpp: Mpp, options: Options) -> tuple[TissueMask, str]:
    if options.no_tissue:
        return all_tissue(slide), "all"
    if options.tissue is not None:
        return read_tissue(options.tissue, slide), options.tissue
    return find_tissue(slide, mpp), "found"


def _shard_px(slide: Slide) -> int:
    """4,096 px; smaller where that leaves too few shards to keep the workers evenly busy."""
    level = slide.levels[0]
    return 4096 if level.height_px * level.width_px >= 500_000_000 else 2048

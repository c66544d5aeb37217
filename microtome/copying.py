"""What a result keeps of the slide's pixels: decided before a run, and said in words.

`source` copies the slide's own JPEG tiles into Zarr shards. What that needs of a slide is here;
how tiles become shards is the business of `ngff` and `shards`.
"""

from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from microtome.errors import OptionError
from microtome.grid import Window
from microtome.ngff import TASK_LEVELS
from microtome.options import Options, PixelsOption
from microtome.slides.base import Slide
from microtome.slides.jpeg_header import frame_of, quality_of
from microtome.slides.tiled import UndecodableTile

LARGE_PX = 5_000_000_000
"""Slides from this on are copied where they can be: lossless, they would take 14 GB and more."""
CANNOT = "the slide's tiles cannot be copied"
SAMPLE = 4
"""Tiles looked at along each side of the slide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedJpeg:
    """How the slide's JPEG tiles become chunks, and how the levels above them are compressed."""

    tile_px: int
    """Side of a tile, which is a chunk of level 0; the levels above have chunks of at most 512 px."""
    shard_px: int
    """Side of a shard of level 0: whole tiles."""
    quality: int
    """1..100, estimated from the source's quantisation tables."""
    subsampling: str
    """Of chroma, `4:2:0`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelsChoice:
    """What is kept, and why."""

    kept: PixelsOption
    why: str
    copied: CopiedJpeg | None = None


class NotCopyable(Exception):
    """Why the slide's tiles cannot be copied; turned into `PixelsChoice.why`."""


def choose_pixels(slide: Slide, options: Options, shard_px: int) -> PixelsChoice:
    """What the result keeps: as asked for; left open, what suits the slide's size.

    A slide whose tiles cannot be copied is kept lossless.

    Raises
    ------
    OptionError
        If `source` was asked for in a version of OME-NGFF that has no shards.
    """
    level = slide.levels[0]
    is_large = level.height_px * level.width_px >= LARGE_PX
    if options.pixels == "source" and options.ngff != "0.5":
        raise OptionError("--pixels", "source", f"lossless or none with --ngff {options.ngff}")
    if options.pixels in ("lossless", "none"):
        return PixelsChoice(kept=options.pixels, why="asked for")
    if options.pixels is None and (not is_large or options.ngff != "0.5"):
        size = "below 5 gigapixels" if not is_large else f"OME-NGFF {options.ngff} holds no JPEG"
        return PixelsChoice(kept="lossless", why=size)
    try:
        copied = find_copy(slide, shard_px)
    except (NotCopyable, UndecodableTile) as reason:
        return PixelsChoice(kept="lossless", why=f"{CANNOT}: {reason}")
    return PixelsChoice(
        kept="source", why="asked for" if options.pixels else "from 5 gigapixels on", copied=copied
    )


def find_copy(slide: Slide, shard_px: int) -> CopiedJpeg:
    """How the slide's tiles can be copied into shards of at most `shard_px`.

    Raises
    ------
    NotCopyable
        If they cannot.
    """
    height_px, width_px = slide.tile_size_px
    samples = _sample(slide)
    if not samples:
        raise NotCopyable(f"they are not JPEG ({slide.format})")
    if height_px != width_px:
        raise NotCopyable(f"they are {width_px:,} x {height_px:,} px, not square")
    for stream in samples:
        check_tile(stream, height_px)
    return CopiedJpeg(
        tile_px=height_px,
        shard_px=_shard_px(height_px, shard_px),
        quality=quality_of(samples[0]),
        subsampling=frame_of(samples[0]).subsampling or "4:4:4",
    )


def in_words(kept: PixelsOption, why: str, copied: CopiedJpeg | None) -> str:
    """For people: what is kept, why, and who can open it where not everyone can."""
    if kept == "none":
        return f"{kept}: {why}; labels and tables only: what opens an image opens labels/nuclei in the result"
    if copied is None:
        return f"{kept}: {why}"
    return (
        f"{kept}: {why}; JPEG tiles of {copied.tile_px:,} px as they are in the slide, the levels above at "
        f"quality {copied.quality}, {copied.subsampling}; opened by zarr-python with imagecodecs only"
    )


def check_tile(stream: bytes, tile_px: int) -> None:
    """A chunk is a whole tile: of its size, with three colours.

    Raises
    ------
    NotCopyable
        If the tile is not.
    """
    try:
        frame = frame_of(stream)
    except UndecodableTile as error:
        raise NotCopyable(f"one is JPEG of an unusual kind ({error})") from error
    if (frame.height_px, frame.width_px) != (tile_px, tile_px):
        size = f"{frame.width_px:,} x {frame.height_px:,} px"
        raise NotCopyable(f"one is a JPEG of {size}, but its place in the file has {tile_px:,} x {tile_px:,}")
    if frame.components != 3:
        raise NotCopyable(f"one has {frame.components} colours, not 3")


def _shard_px(tile_px: int, most_px: int) -> int:
    """The longest side that is whole tiles, and stays whole when it is halved for each level of a task."""
    side_px = most_px // tile_px * tile_px
    while side_px % 2**TASK_LEVELS:
        side_px -= tile_px
    if not side_px:
        raise NotCopyable(f"shards of {most_px:,} px do not hold tiles of {tile_px:,} px")
    return side_px


def _sample(slide: Slide) -> list[bytes]:
    """Tiles evenly spread over the slide, its corners among them, as far as the file holds them."""
    level = slide.levels[0]
    found: list[bytes] = []
    rows, cols = (
        [(size - 1) * step // (SAMPLE - 1) for step in range(SAMPLE)]
        for size in (level.height_px, level.width_px)
    )
    for y, x in product(rows, cols):
        # One that is damaged says nothing of the others; the run will name it.
        with suppress(UndecodableTile):
            found += slide.copy_jpeg(Window(y, x, y + 1, x + 1)).values()
    return found

"""Which pages of a TIFF are the levels of its slide, and where their tiles lie.

Labels, overviews and thumbnails are left out. Decoding is `tiff_decode`'s business.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import tifffile

from microtome.arrays import Ints
from microtome.errors import NotASlide, UnsupportedSlide
from microtome.slides.base import Level
from microtome.slides.tiled import TileGrid

TO_RGB = "make it 8-bit RGB, e.g. with QuPath or: vips colourspace IN OUT.tif srgb"
TO_TILES = "tile it, e.g.: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90"
CHUNK_BYTES = 1 << 20
MAX_TILE_PX = 1 << 28
ASPECT_SLACK_PX = 2.0
TABLES = frozenset({273, 279, 324, 325})
"""Tags: offsets and lengths of strips and of tiles."""
SINGLE_KINDS = {"generic", "uniform", "shaped", "imagej"}


@dataclass(frozen=True, slots=True)
class TiffLevel:
    """A level: its grid, and place and length of each tile's parts in the file."""

    page: tifffile.TiffPage
    grid: TileGrid
    offsets: Ints
    """(tiles, parts); several parts where each colour is a plane of its own."""
    counts: npt.NDArray[np.uint32]
    """(tiles, parts) bytes; 0 where the file holds no pixels."""
    raw_rows: bool
    """Whether the tiles are rows of uncompressed pixels, cut by us and not by the file."""


def find_levels(uri: str, tiff: tifffile.TiffFile) -> tuple[TiffLevel, ...]:
    """The levels of the slide, finest first.

    Raises
    ------
    NotASlide
        If no page holds an image.
    UnsupportedSlide
        If its pixels are not 8-bit RGB, or it has several focal planes or times.
    """
    tiff.pages.cache = True  # else each is parsed again when it is asked for
    for page in tiff.pages:
        _compact_tables(page)
    series = _main_series(uri, tiff)
    images = [level for one in series for level in one.levels]
    images.sort(key=lambda image: -int(np.prod(image.shape)))
    levels: list[TiffLevel] = []
    for image in images:
        level = _level(uri, image)
        if not levels or _is_coarser(levels[0].grid, levels[-1].grid, level.grid):
            levels.append(level)
    return tuple(levels)


def to_levels(grids: Sequence[TileGrid]) -> tuple[Level, ...]:
    """Sizes and downsamples of levels; a downsample within rounding of a whole number is that number."""
    width_px = grids[0].width_px
    levels = []
    for grid in grids:
        ratio = width_px / grid.width_px
        whole = round(ratio)
        exact = abs(ratio - whole) * grid.width_px <= ASPECT_SLACK_PX * whole
        levels.append(Level(grid.height_px, grid.width_px, float(whole) if exact else ratio))
    return tuple(levels)


def _main_series(uri: str, tiff: tifffile.TiffFile) -> list[Any]:
    """The series of the slide itself; for plain TIFF, all that may be levels of it."""
    series: list[Any] = [one for one in tiff.series if one.size > 0]
    if not series:
        raise NotASlide(uri, "a TIFF without an image")
    named = [one for one in series if one.name == "Baseline"]
    if named:
        return named[:1]
    largest = max(series, key=lambda one: int(np.prod(one.shape)))
    if largest.kind not in SINGLE_KINDS:
        _refuse_mosaic(uri, largest, series)
        return [largest]
    return [one for one in series if _is_part_of(largest, one)]


def _is_part_of(largest: Any, one: Any) -> bool:
    """Whether a page of a plain TIFF may be a level: same kind of pixels, no mask."""
    if one is largest:
        return True
    alike = one.dtype == largest.dtype and one.ndim == largest.ndim and len(one.pages) == len(largest.pages)
    return alike and one.keyframe.is_tiled == largest.keyframe.is_tiled and not one.keyframe.subfiletype & 4


def _refuse_mosaic(uri: str, largest: Any, series: list[Any]) -> None:
    """Leica's slides of several scanned regions need putting together."""
    if largest.kind != "scn":
        return
    fine = [one for one in series if _um_per_px(one) <= 1.5 * _um_per_px(largest)]
    if len(fine) > 1:
        raise UnsupportedSlide(uri, f"has {len(fine)} scanned regions", "export the one you want as a TIFF")


def _um_per_px(one: Any) -> float:
    numerator, denominator = one.keyframe.tags.valueof(282, (1, 1))
    return float(denominator / max(1, numerator))


def _is_coarser(finest: TileGrid, last: TileGrid, grid: TileGrid) -> bool:
    """Whether this is the same picture as the finest, smaller than the last level."""
    ratio = finest.width_px / grid.width_px
    slack_px = ASPECT_SLACK_PX + (0.01 * grid.height_px if grid.height_px < 512 else 0)
    same_shape = abs(finest.height_px / ratio - grid.height_px) <= slack_px
    return same_shape and grid.width_px < last.width_px and grid.height_px <= last.height_px


def _level(uri: str, image: Any) -> TiffLevel:
    pages = [page.aspage() for page in image.pages if page is not None]
    page = pages[0]
    _refuse_pixels(uri, page, len(pages), image)
    grid, raw_rows = _grid(uri, page)
    if raw_rows and len(pages) == 1:
        offsets, counts = _row_chunks(page, grid)
    else:
        grid, raw_rows = _stored_grid(page), False
        parts = len(pages) if len(pages) > 1 else (3 if page.planarconfig == 2 else 1)
        offsets = _table([page.dataoffsets for page in pages], parts)
        counts = np.where(offsets > 0, _table([page.databytecounts for page in pages], parts), 0)
    for each in pages:
        _drop_tables(each)
    needed = grid.rows * grid.cols
    if len(offsets) < needed:
        raise NotASlide(
            uri, f"its level of {grid.width_px} x {grid.height_px} px has {len(offsets)} of {needed} tiles"
        )
    # No tile takes 4 GB: a count beyond that is damage, and the file ends before it.
    lengths = np.minimum(counts[:needed], np.iinfo(np.uint32).max).astype(np.uint32)
    return TiffLevel(page, grid, offsets[:needed], lengths, raw_rows)


def _refuse_pixels(uri: str, page: tifffile.TiffPage, pages: int, image: Any) -> None:
    depth = f"{page.bitspersample}-bit"
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise UnsupportedSlide(uri, f"has {depth} pixels ({page.dtype}), but 8-bit RGB is needed", TO_RGB)
    colours = pages * page.samplesperpixel
    axes = image.axes.replace("S", "").replace("C", "").replace("Q", "").replace("I", "")
    if axes != "YX" or (pages > 1 and colours != 3) or page.imagedepth > 1:
        has = (
            f"has {pages} pictures of the same size (axes {image.axes}), but one 8-bit RGB picture is needed"
        )
        raise UnsupportedSlide(uri, has, "export one focal plane or time as RGB TIFF")
    is_rgb = page.photometric in {2, 6} or page.compression in {33003, 33005} or pages == 3
    if colours not in {3, 4} or not is_rgb:
        name = getattr(page.photometric, "name", str(page.photometric))
        has = f"has {colours} channel{'s' * (colours != 1)} of {depth} ({name}), but 8-bit RGB is needed"
        raise UnsupportedSlide(uri, has, TO_RGB)


def _stored_grid(page: tifffile.TiffPage) -> TileGrid:
    height_px, width_px = page.imagelength, page.imagewidth
    if page.is_tiled:
        return TileGrid(height_px, width_px, page.tilelength, page.tilewidth)
    return TileGrid(height_px, width_px, min(page.rowsperstrip, height_px), width_px)


def _grid(uri: str, page: tifffile.TiffPage) -> tuple[TileGrid, bool]:
    """The grid of the file's tiles; one of our own where its pixels lie bare and in one piece."""
    grid = _stored_grid(page)
    bare = page.compression == 1 and page.predictor == 1 and page.planarconfig == 1 and page.fillorder == 1
    if bare and not page.is_tiled and _in_one_piece(page):
        rows = max(1, CHUNK_BYTES // (grid.width_px * page.samplesperpixel))
        return TileGrid(grid.height_px, grid.width_px, min(rows, grid.height_px), grid.width_px), True
    if grid.tile_height_px * grid.tile_width_px > MAX_TILE_PX:
        size = f"{grid.tile_width_px:,} x {grid.tile_height_px:,} px"
        raise UnsupportedSlide(uri, f"is stored in pieces of {size}, too large to read in parts", TO_TILES)
    return grid, False


def _in_one_piece(page: tifffile.TiffPage) -> bool:
    offsets, counts = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    whole = page.imagelength * page.imagewidth * page.samplesperpixel
    return bool((offsets[:-1] + counts[:-1] == offsets[1:]).all() and counts.sum() == whole)


def _row_chunks(page: tifffile.TiffPage, grid: TileGrid) -> tuple[Ints, Ints]:
    row_bytes = grid.width_px * page.samplesperpixel
    first = np.arange(grid.rows, dtype=np.int64) * grid.tile_height_px
    last = np.minimum(first + grid.tile_height_px, grid.height_px)
    offsets = page.dataoffsets[0] + first * row_bytes
    return offsets[:, None], ((last - first) * row_bytes)[:, None]


def _compact_tables(page: tifffile.TiffPage | tifffile.TiffFrame) -> None:
    """Put tifffile's tables of tiles, Python's integers, into arrays, before those of the next page are read.

    Of 27 gigapixels they take 43 MB, of which 8 stayed where they lay among integers that are kept.
    """
    tables = array("Q", page.dataoffsets), array("Q", page.databytecounts)
    page.dataoffsets, page.databytecounts = cast(tuple[tuple[int, ...], tuple[int, ...]], tables)
    if isinstance(page, tifffile.TiffPage):
        _drop_values(page)


def _drop_tables(page: tifffile.TiffPage) -> None:
    """What is in a level's own tables by now."""
    page.dataoffsets = page.databytecounts = ()
    _drop_values(page)


def _drop_values(page: tifffile.TiffPage) -> None:
    for code in TABLES & {tag.code for tag in page.tags}:
        page.tags[code].value = ()


def _table(columns: Sequence[Sequence[int]], parts: int) -> Ints:
    """(tiles, parts) of the tables of one page with planes, or of one page a plane."""
    flat = np.concatenate([np.asarray(column, np.int64) for column in columns])
    return (
        flat.reshape(parts, -1).T
        if flat.size % parts == 0
        else flat[: flat.size // parts * parts].reshape(parts, -1).T
    )

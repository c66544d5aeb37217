"""The drawn slide as a file: a pyramidal TIFF in the manner of Aperio, with its truth beside it."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from drawn_slide.layout import BLOCK_PX, Layout, make_layout
from drawn_slide.paint import Rgb, Textures, make_textures, paint
from drawn_slide.truth import Truth

if TYPE_CHECKING:  # the processes that paint do without it, and start sooner
    import tifffile

TILE_PX = 256
JPEG_QUALITY = 85
MPP = 0.25
SMALL_BLOCKS = 4
"""So few are painted faster here than by processes that must be started."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Encoded tiles of a block: 4 x 4 of level 0, one of level 1; pixels of level 2."""

    tiles: tuple[bytes, ...]
    quarter: bytes
    sixteenth: Rgb


def draw_slide(path: Path, size_px: int = 10_240, seed: int = 7, workers: int = 2) -> Truth:
    """Draw a slide of `size_px` by `size_px` px at 0.25 um/px.

    Parameters
    ----------
    path
        The TIFF to make (usually `.svs`); the truth goes beside it, see `truth_path`.
    size_px
        At least 256. Levels are 1, 1/4 and 1/16 of it; as long as they have a pixel tile's
        worth, all three are written.
    seed
        Same size and seed: same bytes.
    workers
        Processes that paint.

    Returns
    -------
    Truth
        What was drawn.
    """
    if size_px < TILE_PX:
        raise ValueError(f"size_px is {size_px}, but must be at least {TILE_PX}")
    layout = make_layout(size_px, seed)
    blocks = -(-size_px // BLOCK_PX)
    places = [(row, col) for row in range(blocks) for col in range(blocks)]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with _Painters(layout, min(workers, len(places) // SMALL_BLOCKS)) as painters:
        _write(partial, layout, painters.paint(places))
    partial.replace(path)
    layout.nuclei.save(truth_path(path))
    return layout.nuclei


def truth_path(path: Path) -> Path:
    """Where the truth of a drawn slide is: `NAME.truth.npz`."""
    return path.with_name(path.stem + ".truth.npz")


def _write(path: Path, layout: Layout, blocks: Iterator[_Block]) -> None:
    """Level 0 goes straight to the file; of the others, only their small share is kept."""
    import tifffile

    size_px = layout.size_px
    across = -(-size_px // BLOCK_PX)
    quarter_tiles = -(-(size_px // 4) // TILE_PX)
    quarters: list[bytes] = []
    small = np.zeros((across * BLOCK_PX // 16, across * BLOCK_PX // 16, 3), np.uint8)

    def level_0() -> Iterator[bytes]:
        tiles = -(-size_px // TILE_PX)
        per_block = BLOCK_PX // TILE_PX
        for row, line in enumerate(batched(blocks, across)):
            side = BLOCK_PX // 16
            for col, block in enumerate(line):
                if max(row, col) < quarter_tiles:
                    quarters.append(block.quarter)
                small[row * side : (row + 1) * side, col * side : (col + 1) * side] = block.sixteenth
            for y in range(min(per_block, tiles - row * per_block)):
                tiles_of_row = [block.tiles[y * per_block + x] for block in line for x in range(per_block)]
                yield from tiles_of_row[:tiles]

    with tifffile.TiffWriter(path, bigtiff=size_px > 40_000) as tiff:
        _level(tiff, level_0(), size_px, description=_description(layout))
        thumbnail = np.ascontiguousarray(small[: size_px // 16, : size_px // 16])
        tiff.write(thumbnail, photometric="rgb", metadata=None, description=_heading(layout), software=False)
        if size_px // 4 >= TILE_PX:
            _level(tiff, iter(quarters), size_px // 4, description=_heading(layout))
        if size_px // 16 >= TILE_PX:
            _level(tiff, _tiles_of(thumbnail), size_px // 16, description=_heading(layout))


def _level(tiff: "tifffile.TiffWriter", tiles: Iterator[bytes], size_px: int, description: str) -> None:
    tiff.write(
        tiles,
        shape=(size_px, size_px, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(2, 2),
        metadata=None,
        software=False,
        description=description,
    )


def _heading(layout: Layout) -> str:
    size_px = layout.size_px
    return (
        "Aperio in style only: drawn by a program, not scanned, no tissue of anyone \n"
        f"{size_px}x{size_px} [0,0 {size_px}x{size_px}] ({TILE_PX}x{TILE_PX}) JPEG/YCbCr Q={JPEG_QUALITY}"
    )


def _description(layout: Layout) -> str:
    return (
        f"{_heading(layout)}|AppMag = 40|MPP = {MPP}|Drawn nuclei = {len(layout.nuclei)}"
        f"|Seed = {layout.seed}|Filename = drawn"
    )


def _tiles_of(rgb: Rgb) -> Iterator[bytes]:
    height, width = (-(-side // TILE_PX) * TILE_PX for side in rgb.shape[:2])
    whole = np.full((height, width, 3), 255, np.uint8)
    whole[: rgb.shape[0], : rgb.shape[1]] = rgb
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            yield _encode(whole[y : y + TILE_PX, x : x + TILE_PX])


def _encode(rgb: Rgb) -> bytes:
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb),
        quality=JPEG_QUALITY,
        colorspace="RGB",
        colorsubsampling="420",
        fastdct=False,
    )
    return bytes(jpeg)


def _make_block(layout: Layout, textures: Textures, row: int, col: int) -> _Block:
    rgb = paint(layout, textures, row, col)
    quarter = cv2.resize(rgb, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    return _Block(
        tuple(_tiles_of(rgb)),
        _encode(quarter),
        cv2.resize(quarter, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA),
    )


class _Painters:
    """Paints blocks, in this process or in several."""

    def __init__(self, layout: Layout, workers: int) -> None:
        self.layout = layout
        self.pool = (
            ProcessPoolExecutor(
                workers, multiprocessing.get_context("spawn"), initializer=_learn, initargs=(layout,)
            )
            if workers > 1
            else None
        )

    def paint(self, places: list[tuple[int, int]]) -> Iterator[_Block]:
        if self.pool:
            return self.pool.map(_paint_learnt, places)
        textures = make_textures(self.layout.seed)
        return (_make_block(self.layout, textures, row, col) for row, col in places)

    def __enter__(self) -> "_Painters":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


_LEARNT: dict[str, tuple[Layout, Textures]] = {}
"""Of a painting process: what it paints."""


def _learn(layout: Layout) -> None:
    cv2.setNumThreads(1)
    _LEARNT["slide"] = layout, make_textures(layout.seed)


def _paint_learnt(place: tuple[int, int]) -> _Block:
    layout, textures = _LEARNT["slide"]
    return _make_block(layout, textures, *place)

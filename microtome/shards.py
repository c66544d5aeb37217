"""Pixels and labels into Zarr bytes and back: shards of Zarr 3, chunks of Zarr 2.

Our own encoder, because a shard must be made whole in memory before one atomic write, without
the GIL, and faster than zarr-python does it. What is read back on the way to a result is decoded
here too, as to import zarr-python takes each worker longer than all that it has to read; whoever
checks a result reads it with zarr-python (`ResultStore.read_array`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import product

import cv2
import google_crc32c
import numpy as np
import numpy.typing as npt
import simplejpeg
import zstandard

from microtome.arrays import Labels, Pixels
from microtome.grid import Window
from microtome.ngff import ZSTD_LEVEL, ArraySpec, Jpeg

MISSING = 2**64 - 1
"""Offset and size of a chunk that is not there, in the index of a shard."""

PIXELS_HASH_LOG = 10
"""Tissue has next to nothing that repeats: a table this small, in the first cache, finds as much in
15 % less time; 0.1 % larger."""

type Compress = Callable[[npt.NDArray[np.unsignedinteger]], bytes | None]
"""Bytes of a part of a block, padded to a chunk; None where all of it is the fill value."""

type Unpack = Callable[[bytes], npt.NDArray[np.unsignedinteger]]
"""The pixels of a chunk."""


def encode(spec: ArraySpec, row: int, col: int, block: Pixels | Labels) -> Iterator[tuple[str, bytes]]:
    """Keys and bytes of one shard of an array.

    Parameters
    ----------
    spec
        The array.
    row, col
        Place of the shard in `spec.grid`.
    block
        (c, y, x) uint8 or (y, x) uint32, the shard as cut at the edge of the array; a view of
        interleaved memory is as fast.

    Yields
    ------
    tuple of str and bytes
        NGFF 0.5: the shard, or nothing where all of it is the fill value. 0.4: each chunk that is
        not all fill.
    """
    chunks = _encode_chunks(block, spec.chunk_shape, spec.fill, spec.jpeg)
    side = spec.chunks_per_side
    if spec.ngff == "0.4":
        for index, text in chunks:
            yield spec.key(row * side + index[-2], col * side + index[-1]), text
        return
    shard = assemble_shard(chunks, (1,) * (block.ndim - 2) + (side, side))
    if shard is not None:
        yield spec.key(row, col), shard


def assemble_shard(chunks: Iterable[tuple[tuple[int, ...], bytes]], grid: Sequence[int]) -> bytes | None:
    """A Zarr 3 shard of chunks that are encoded already, whatever their codec.

    Parameters
    ----------
    chunks
        With their index in the shard, in raster order; those missing read as the fill value.
    grid
        Chunks along each axis.

    Returns
    -------
    bytes or None
        The chunks, then the index (offset and size, little-endian uint64) and its
        crc32c; None of no chunks.

    Notes
    -----
    `sharding_indexed` of Zarr 3,
    https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
    """
    index = np.full((*grid, 2), MISSING, "<u8")
    # One after the other: beside all chunks, their sum would be 30 MB more.
    shard = BytesIO()
    for place, chunk in chunks:
        index[place] = shard.tell(), len(chunk)
        shard.write(chunk)
    if not shard.tell():
        return None
    table = index.tobytes()
    shard.write(table)
    shard.write(google_crc32c.value(table).to_bytes(4, "little"))
    return shard.getvalue()


def chunks_of(shard: bytes, grid: Sequence[int]) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """The chunks that `assemble_shard` put together, by their index, in raster order.

    Raises
    ------
    ValueError
        If the shard has no such index at its end, or a damaged one.
    """
    entries = int(np.prod(grid))
    table = shard[-16 * entries - 4 : -4]
    index = np.frombuffer(table, "<u8").reshape(*grid, 2)
    if google_crc32c.value(table).to_bytes(4, "little") != shard[-4:]:
        raise ValueError("the index of a shard is damaged")
    for place in np.ndindex(*grid):
        offset, size = index[place].tolist()
        if offset != MISSING:
            yield place, shard[offset : offset + size]


def keys_in(spec: ArraySpec, window: Window) -> dict[str, tuple[int, int]]:
    """Every key of an array that may hold pixels of a window, and where its own begin: (y, x) px."""
    side = (spec.shard_shape if spec.ngff == "0.5" else spec.chunk_shape)[-1]
    rows = range(window.y0 // side, -(-window.y1 // side))
    cols = range(window.x0 // side, -(-window.x1 // side))
    return {spec.key(row, col): (row * side, col * side) for row, col in product(rows, cols)}


def decode(spec: ArraySpec, window: Window, texts: Mapping[str, bytes]) -> Pixels | Labels:
    """A window of an array, from those of `keys_in` that there are.

    Parameters
    ----------
    spec
        The array.
    window
        Within the array, px of its level.
    texts
        Bytes by key, as `encode` made them.

    Returns
    -------
    Pixels or Labels
        (c, y, x) uint8 or (y, x) uint32, as `spec` says; `spec.fill` where nothing was written.

    Raises
    ------
    ValueError, zstandard.ZstdError
        If the bytes are damaged.
    """
    shape: tuple[int, ...] = (window.height, window.width)
    if spec.jpeg is not None:
        block = np.full((*shape, 3), spec.fill, spec.dtype).transpose(2, 0, 1)
    else:
        block = np.full((*spec.shape[:-2], *shape), spec.fill, spec.dtype)
    unpack = _unjpeg if spec.jpeg is not None else _unzstd(spec.chunk_shape, spec.dtype)
    for key, corner in keys_in(spec, window).items():
        for place, text in _chunks_of_key(spec, texts[key]) if key in texts else ():
            y0, x0 = (at + n * side for at, n, side in zip(corner, place, spec.chunk_shape[-2:], strict=True))
            chunk = Window(y0, x0, y0 + spec.chunk_shape[-2], x0 + spec.chunk_shape[-1])
            inside = chunk.intersect(window)
            if not inside.is_empty:
                block[..., *inside.within(window)] = unpack(text)[..., *inside.within(chunk)]
    return block


def _chunks_of_key(spec: ArraySpec, text: bytes) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """(row, col) in the key, and bytes, of each of its chunks."""
    if spec.ngff == "0.4":
        yield (0, 0), text
        return
    side = spec.chunks_per_side
    for place, chunk in chunks_of(text, (1,) * (len(spec.shape) - 2) + (side, side)):
        yield place[-2:], chunk


def _unzstd(chunk_shape: Sequence[int], dtype: npt.DTypeLike) -> Unpack:
    decompressor = zstandard.ZstdDecompressor()

    def unpack(text: bytes) -> npt.NDArray[np.unsignedinteger]:
        return np.frombuffer(decompressor.decompress(text), dtype).reshape(chunk_shape)

    return unpack


def _unjpeg(text: bytes) -> Pixels:
    picture: Pixels = simplejpeg.decode_jpeg(text, "RGB")
    return picture.transpose(2, 0, 1)


def _encode_chunks(
    block: Pixels | Labels, chunk_shape: Sequence[int], fill: int, jpeg: Jpeg | None = None
) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Index and bytes of each chunk that is not all fill, in raster order."""
    side = chunk_shape[-1]
    compress = _zstd(chunk_shape, block.dtype, fill) if jpeg is None else _jpeg(side, jpeg, fill)
    rows, cols = -(-block.shape[-2] // side), -(-block.shape[-1] // side)
    for row, col in product(range(rows), range(cols)):
        chunk = compress(block[..., row * side : (row + 1) * side, col * side : (col + 1) * side])
        if chunk is not None:
            yield (0,) * (block.ndim - 2) + (row, col), chunk


def _zstd(chunk_shape: Sequence[int], dtype: npt.DTypeLike, fill: int) -> Compress:
    """Padded with the fill value."""
    table = {"hash_log": PIXELS_HASH_LOG} if dtype == np.uint8 else {}
    settings = zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVEL, **table)
    compressor = zstandard.ZstdCompressor(compression_params=settings)
    scratch = np.empty(chunk_shape, dtype)

    def compress(part: npt.NDArray[np.unsignedinteger]) -> bytes | None:
        if _is_all(part, fill):
            return None
        _fill_chunk(scratch, part, fill)
        return compressor.compress(scratch.data)

    return compress


def _jpeg(side: int, jpeg: Jpeg, fill: int) -> Compress:
    """Padded with the last row and column: an edge there would ring into the picture."""

    def compress(part: npt.NDArray[np.unsignedinteger]) -> bytes | None:
        if _is_all(part, fill):
            return None
        picture = np.ascontiguousarray(part.transpose(1, 2, 0))
        below, right = side - picture.shape[0], side - picture.shape[1]
        if below or right:
            picture = cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE)
        stream: bytes = simplejpeg.encode_jpeg(
            picture, quality=jpeg.quality, colorspace="RGB", colorsubsampling=jpeg.subsampling
        )
        return stream

    return compress


def _is_all(part: npt.NDArray[np.unsignedinteger], fill: int) -> bool:
    return bool(part[(0,) * part.ndim] == fill and (part == fill).all())


def _fill_chunk(
    scratch: npt.NDArray[np.unsignedinteger], part: npt.NDArray[np.unsignedinteger], fill: int
) -> None:
    """Copy the part into a contiguous chunk, padded with the fill value."""
    if part.shape != scratch.shape:
        scratch[...] = fill
        scratch[..., : part.shape[-2], : part.shape[-1]] = part
    elif part.ndim == 3 and part.strides[0] == 1:
        # numpy copies interleaved pixels to planes ten times slower.
        cv2.split(part.transpose(1, 2, 0), tuple(scratch))
    else:
        scratch[...] = part

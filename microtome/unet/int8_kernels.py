"""Compiled kernels of a U-Net in int8: convolutions of 3 x 3 px by F(4 x 4, 3 x 3) of Winograd, exactly.

A patch of 4 x 4 px of the output is made of 6 x 6 px of the input: these are spread to 36 points, each
point of all input channels is multiplied by weights of its own, and the sums are gathered to the patch:
36 products a channel pair instead of 144. Everything is whole numbers: bytes are spread to words, the
weights' points, the method's fractions times 24 a side, are words too, and sums are taken modulo 2 ** 32,
where a division by 9 is exact; the 64 that are left of 24 * 24 are in the scales. So a px is to the last
bit what a plain sum of products of bytes gives, in any tiling, with any number of threads, on every CPU.

Maps are (y, x, channel) uint8 with a border of at least one px and channels in blocks of 16; of the px that
are read beyond it, up to `BEYOND` on the right and below, nothing is left in the px that are kept.

Lavin and Gray 2016, doi:10.1109/CVPR.2016.435.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from microtome.arrays import Floats, Pixels
from microtome.unet.int8_vectors import (
    PATCHES,
    POINTS,
    SEEN,
    SIDE,
    enter_px,
    gather,
    leave_px,
    look_up,
    move,
    multiply_bytes,
    multiply_words,
    spread_enlarged,
    spread_same,
    sum_bytes,
)
from microtome.unet.kernels import Corners
from microtome.unet.lanes import BLOCK, GROUP

BEYOND = SIDE
"""Px right of and below a map's border that may be read."""

VECTORS_CRC = 1_866_758_800
"""Of lanes.py, products.py and int8_vectors.py one after the other: as in kernels.py."""

_HEADS_PX = PATCHES * SIDE * SIDE

type Words = npt.NDArray[np.int16]
type Weights = npt.NDArray[np.int8]

# Arrays are taken out of their tuples before a loop, not in it: each time, numba counts a reference, by an
# atomic operation. Together they took a tenth of a tile's time.
_kernel = numba.njit(nogil=True, cache=True, error_model="numpy")


class Map(NamedTuple):
    """Pixels of one level, in an array that holds others too."""

    values: Pixels
    """(n,) uint8."""
    at: int
    """Index of channel 0 of px (0, 0), which may lie outside."""
    row: int
    """Steps from a px to the one below it."""
    px: int
    """Steps to the one to its right: the number of channels."""


class Layer(NamedTuple):
    """A convolution's numbers, as the kernels read them."""

    weights: Words | Weights
    """Per block of outputs, per point, per pair of inputs: the block's 16 pairs of weights; without points
    per four inputs, of the first convolution per colour and row of 3 px: the block's 16 times 4."""
    scales: Floats
    """(16 * out_blocks,) float32: what one of the kernels' sums is, in units of the output."""
    bias: Floats
    """(16 * out_blocks,) float32, in units of the output."""
    same_blocks: int
    """Input blocks of the layer's own level."""
    enlarged_blocks: int
    """Input blocks of the level below, each px of which is 2 x 2 px here; they come after the others."""
    out_blocks: int


@_kernel
def aligned(size):  # type: ignore[no-untyped-def]
    """(size,) uint8 zeros that begin with a line of the cache."""
    array = np.zeros(size + 64, np.uint8)
    start = -array.ctypes.data % 64
    return array[start : start + size]


@_kernel
def aligned_words(size):  # type: ignore[no-untyped-def]
    """(size,) int16 zeros that begin with a line of the cache."""
    array = np.zeros(size + 32, np.int16)
    start = -(array.ctypes.data // array.itemsize) % 32
    return array[start : start + size]


@_kernel
def aligned_sums(size):  # type: ignore[no-untyped-def]
    """(size,) int32 zeros that begin with a line of the cache."""
    array = np.zeros(size + BLOCK, np.int32)
    start = -(array.ctypes.data // array.itemsize) % BLOCK
    return array[start : start + size]


@_kernel
def _place_patches(window, first, count, ys, xs):  # type: ignore[no-untyped-def]
    """ys[i], xs[i]: where `count` patches of the window begin, from the `first` on, in raster order."""
    y0, x0, _, x1 = window
    row, column = divmod(first, (x1 - x0 + SIDE - 1) // SIDE)
    y, x = y0 + row * SIDE, x0 + column * SIDE
    for i in range(count):
        ys[i], xs[i] = y, x
        x += SIDE
        if x >= x1:
            y, x = y + SIDE, x0


@_kernel
def _plane(layer):  # type: ignore[no-untyped-def]
    """Numbers of one point of all patches, and a line of the cache more: else points share its places."""
    return (layer.same_blocks + layer.enlarged_blocks) * PATCHES * BLOCK + 2 * BLOCK


@_kernel
def _spread_patches(layer, same, enlarged, ys, xs, count, points):  # type: ignore[no-untyped-def]
    """points[p, block, patch, channel] of `count` patches."""
    plane = _plane(layer)
    same_values, enlarged_values = same.values, enlarged.values
    # Block by block: so the lines of the cache that are written are whole before the next ones are.
    for block in range(layer.same_blocks):
        start = same.at - same.row - same.px + block * BLOCK
        for i in range(count):
            at = start + ys[i] * same.row + xs[i] * same.px
            to = (block * PATCHES + i) * BLOCK
            spread_same(same_values, at, same.row, same.px, points, to, plane)
    for block in range(layer.enlarged_blocks):
        start = enlarged.at - enlarged.row - enlarged.px + block * BLOCK
        for i in range(count):
            at = start + (ys[i] >> 1) * enlarged.row + (xs[i] >> 1) * enlarged.px
            to = ((layer.same_blocks + block) * PATCHES + i) * BLOCK
            spread_enlarged(enlarged_values, at, enlarged.row, enlarged.px, points, to, plane)


@_kernel
def _multiply_patches(layer, block, points, sums):  # type: ignore[no-untyped-def]
    """sums[p, patch, channel] of one block of outputs."""
    blocks, plane = layer.same_blocks + layer.enlarged_blocks, _plane(layer)
    weights = layer.weights
    for p in range(POINTS):
        # Enlarged px have nothing at these points: they are differences of equal px.
        present = layer.same_blocks if p // SEEN == 2 or p % SEEN == 2 else blocks
        at = (block * POINTS + p) * blocks * BLOCK * BLOCK
        multiply_words(
            points, p * plane, PATCHES * BLOCK,
            weights, at, sums, p * PATCHES * BLOCK, present,
        )  # fmt: skip


@_kernel
def _inside(y, x, size, window):  # type: ignore[no-untyped-def]
    """Bits of the `size` x `size` px from (y, x) on that lie in the window."""
    y0, x0, y1, x1 = window
    if y0 <= y and y + size <= y1 and x0 <= x and x + size <= x1:
        return (1 << size * size) - 1
    bits = 0
    for dy in range(size):
        for dx in range(size):
            if y0 <= y + dy < y1 and x0 <= x + dx < x1:
                bits |= 1 << (size * dy + dx)
    return bits


@_kernel
def _mark_patches(window, ys, xs, count, kept, pools, keeps, quads):  # type: ignore[no-untyped-def]
    """keeps[i], quads[i]: bits of a patch's px that are kept, and of its quads that are pooled."""
    y0, x0, y1, x1 = window
    wanted = max(y0, kept[0]), max(x0, kept[1]), min(y1, kept[2]), min(x1, kept[3])
    for i in range(count):
        keeps[i] = _inside(ys[i], xs[i], SIDE, wanted)
        quads[i] = _inside(ys[i] >> 1, xs[i] >> 1, 2, (y0 >> 1, x0 >> 1, y1 >> 1, x1 >> 1)) if pools else 0


@_kernel
def _store_patches(layer, block, sums, ys, xs, count, full, keeps, pooled, quads):  # type: ignore[no-untyped-def] # noqa: PLR0913
    scales, bias, full_values, pooled_values = layer.scales, layer.bias, full.values, pooled.values
    for i in range(count):
        y, x = ys[i], xs[i]
        at = full.at + y * full.row + x * full.px + block * BLOCK
        pool_at = pooled.at + (y >> 1) * pooled.row + (x >> 1) * pooled.px + block * BLOCK
        gather(
            sums, i * BLOCK, scales, bias, block * BLOCK,
            full_values, at, full.row, full.px, keeps[i],
            pooled_values, pool_at, pooled.row, pooled.px, quads[i],
        )  # fmt: skip


@_kernel
def _doubled(window):  # type: ignore[no-untyped-def]
    """The px of a window of quads."""
    return 2 * window[0], 2 * window[1], 2 * window[2], 2 * window[3]


@_kernel
def _convolve_px(layer, same, enlarged, window, full, kept, pooled, pools):  # type: ignore[no-untyped-def]
    points = aligned_words(POINTS * _plane(layer))
    sums = aligned_sums(POINTS * PATCHES * BLOCK)
    ys, xs, keeps, quads = np.empty((4, PATCHES), np.int64)
    y0, x0, y1, x1 = window
    n = ((y1 - y0 + SIDE - 1) // SIDE) * ((x1 - x0 + SIDE - 1) // SIDE)
    for first in range(0, n, PATCHES):
        count = min(PATCHES, n - first)
        _place_patches(window, first, count, ys, xs)
        _mark_patches(window, ys, xs, count, kept, pools, keeps, quads)
        _spread_patches(layer, same, enlarged, ys, xs, count, points)
        for block in range(layer.out_blocks):
            _multiply_patches(layer, block, points, sums)
            _store_patches(layer, block, sums, ys, xs, count, full, keeps, pooled, quads)


def convolve(
    layer: Layer,
    same: Map,
    enlarged: Map,
    window: Corners,
    full: Map,
    kept: Corners,
    pooled: Map,
    pools: bool,
) -> None:
    """A convolution, its bias and ReLU, as bytes, over a window of quads: as `kernels.convolve`."""
    _convolve_px(layer, same, enlarged, _doubled(window), full, _doubled(kept), pooled, pools)


def convolve_deepest(layer: Layer, source: Map, window: Corners, full: Map) -> None:
    """A convolution as `convolve` over a window of px, which may begin anywhere."""
    _convolve_px(layer, source, source, window, full, window, full, False)


@_kernel
def recode(values, at, count, table):  # type: ignore[no-untyped-def]
    """values[at + i] = table[values[at + i]], i < count."""
    look_up(values, at, table, values, at, count)


@_kernel
def convolve_heads(layer, heads, same, enlarged, window, least, dist, logits):  # type: ignore[no-untyped-def]
    """A convolution as `convolve`, and one of 1 x 1 px without ReLU on what it gives, which is not kept.

    Parameters
    ----------
    heads
        Has `out_blocks` whole ones, and after them the weights of the channels that are left, a channel at
        a time, that of the probability the last one.
    least
        Px of which the probability's number is not larger have no distances.
    dist, logits
        (y, x, n) and (y, x) float32, of the window alone.
    """
    points = aligned_words(POINTS * _plane(layer))
    sums = aligned_sums(POINTS * PATCHES * BLOCK)
    # Of (block, px, channel), px of one patch after the other; and what the heads make of some of it.
    features = aligned(layer.out_blocks * _HEADS_PX * BLOCK)
    found = aligned_sums(_HEADS_PX * BLOCK)
    ys, xs = np.empty(PATCHES, np.int64), np.empty(PATCHES, np.int64)
    scales, bias = layer.scales, layer.bias
    y0, x0, y1, x1 = _doubled(window)
    n = ((y1 - y0 + SIDE - 1) // SIDE) * ((x1 - x0 + SIDE - 1) // SIDE)
    for first in range(0, n, PATCHES):
        count = min(PATCHES, n - first)
        _place_patches((y0, x0, y1, x1), first, count, ys, xs)
        _spread_patches(layer, same, enlarged, ys, xs, count, points)
        for block in range(layer.out_blocks):
            _multiply_patches(layer, block, points, sums)
            for i in range(count):
                at = (block * PATCHES + i) * SIDE * SIDE * BLOCK
                gather(
                    sums, i * BLOCK, scales, bias, block * BLOCK,
                    features, at, SIDE * BLOCK, BLOCK, 0xFFFF, features, 0, 0, 0, 0,
                )  # fmt: skip
        _leave(layer, heads, features, found, (y0, x0, y1, x1), ys, xs, count, least, dist, logits)


@_kernel
def _leave(layer, heads, features, found, window, ys, xs, count, least, dist, logits):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """The heads of `count` patches' features: the probability first, then distances where it is wanted."""
    inputs, whole, rays = layer.out_blocks * BLOCK, heads.out_blocks * BLOCK, dist.shape[2]
    weights, scales, bias = heads.weights, heads.scales, heads.bias
    flat, rows = dist.reshape(dist.size), count * SIDE * SIDE
    # Of each row, the px that gets distances; -1 is none.
    px = np.full(_HEADS_PX, -1, np.int64)
    for c in range(rays, whole - 1, -1):
        at = c * inputs
        for row in range(0, rows, GROUP):
            sum_bytes(
                features, row * BLOCK, _HEADS_PX * BLOCK, weights, at, found, row, layer.out_blocks
            )  # fmt: skip
        if c == rays:
            _leave_logits(found, scales[c], bias[c], window, ys, xs, rows, least, logits, px)
        else:
            for row in range(rows):
                if px[row] >= 0:
                    flat[px[row] * rays + c] = np.float32(found[row]) * scales[c] + bias[c]
    for start in range(0, rows, GROUP):
        if max(px[start : start + GROUP]) < 0:
            continue
        for block in range(heads.out_blocks):
            multiply_bytes(
                features, start * BLOCK, _HEADS_PX * BLOCK,
                weights, block * inputs * BLOCK, found, 0, layer.out_blocks,
            )  # fmt: skip
            for r in range(GROUP):
                if px[start + r] >= 0:
                    to = px[start + r] * rays + block * BLOCK
                    leave_px(found, r * BLOCK, scales, bias, block * BLOCK, flat, to)


@_kernel
def _leave_logits(found, scale, bias, window, ys, xs, rows, least, logits, px):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """The logits of some patches' rows, and of those that are above the `least` the px."""
    y0, x0, y1, x1 = window
    for row in range(rows):
        i = row // (SIDE * SIDE)
        y, x = ys[i] + row // SIDE % SIDE, xs[i] + row % SIDE
        if y < y1 and x < x1:
            value = np.float32(found[row]) * scale + bias
            logits[y - y0, x - x0] = value
            if value > least:
                px[row] = (y - y0) * logits.shape[1] + x - x0


@_kernel
def enter(planes, values, first, layer, window, full, kept, pooled, pools):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """The first two convolutions of a network; what the first gives is never held as a whole.

    Parameters
    ----------
    planes
        (3, y, x) uint8.
    values
        (256,) uint8: what the network sees for a byte.
    first
        With weights of 9 rows of 3 px, and of one more that counts nothing.
    layer, window, full, kept, pooled, pools
        As for `convolve`.
    """
    y0, x0, y1, x1 = _doubled(window)
    across = (x1 - x0 + SIDE - 1) // SIDE
    wide = across * SIDE + 2
    px = first.out_blocks * BLOCK
    pixels = np.zeros((3, SEEN + 2, wide + GROUP + 3), np.uint8)
    # The px of a group that lie right of a row are overwritten by the next row's.
    between = aligned((SEEN * wide + GROUP) * px)
    points = aligned_words(POINTS * _plane(layer))
    sums = aligned_sums(POINTS * PATCHES * BLOCK)
    ys, xs, keeps, quads = np.empty((4, PATCHES), np.int64)
    kept_px = _doubled(kept)
    for y in range(y0, y1, SIDE):
        known = 0 if y == y0 else 2
        _read_rows(planes, values, y - 2, x0 - 2, pixels, 2 * known)
        _enter_rows(planes, first, y - 1, x0 - 1, pixels, between, known)
        same = Map(between, ((1 - y) * wide + 1 - x0) * px, wide * px, px)
        row = (y, x0, min(y + SIDE, y1), x1)
        for start in range(0, across, PATCHES):
            count = min(PATCHES, across - start)
            _place_patches(row, start, count, ys, xs)
            _mark_patches(row, ys, xs, count, kept_px, pools, keeps, quads)
            _spread_patches(layer, same, same, ys, xs, count, points)
            for block in range(layer.out_blocks):
                _multiply_patches(layer, block, points, sums)
                _store_patches(layer, block, sums, ys, xs, count, full, keeps, pooled, quads)


@_kernel
def _read_rows(planes, values, y0, x0, pixels, known):  # type: ignore[no-untyped-def]
    """Rows of the image from y0 and column x0 on, zeros around it; `known` of them were the last before."""
    _, height, width = planes.shape
    _, rows, columns = pixels.shape
    left, right = max(0, x0), min(width, x0 + columns)
    flat, image = pixels.reshape(pixels.size), planes.reshape(planes.size)
    for c in range(3):
        move(flat, (c * rows + rows - known) * columns, c * rows * columns, known * columns)
        for r in range(known, rows):
            pixels[c, r] = 0
            if 0 <= y0 + r < height:
                at = (c * height + y0 + r) * width + left
                to = (c * rows + r) * columns + left - x0
                look_up(image, at, values, flat, to, right - left)


@_kernel
def _enter_rows(planes, first, y0, x0, pixels, between, known):  # type: ignore[no-untyped-def]
    """The first convolution's rows from y0 and column x0 on; `known` of them were the last ones before.

    `pixels` are the image's from the px left of and above it.
    """
    _, height, width = planes.shape
    _, seen_rows, columns = pixels.shape
    flat, px = pixels.reshape(pixels.size), first.out_blocks * BLOCK
    weights, scales, bias = first.weights, first.scales, first.bias
    wide = columns - GROUP - 3
    row_step = wide * px
    move(between, (SEEN - known) * row_step, 0, known * row_step)
    for r in range(known, SEEN):
        row = r * row_step
        # Around the image, the next convolution sees zeros, not what this one makes of them.
        if not 0 <= y0 + r < height:
            between[row : row + row_step] = 0
            continue
        for start in range(0, wide, GROUP):
            for block in range(first.out_blocks):
                enter_px(
                    flat, r * columns + start, seen_rows * columns, columns,
                    weights, block * 9 * 4 * BLOCK, scales, bias, block * BLOCK,
                    between, row + start * px + block * BLOCK, px,
                )  # fmt: skip
        if x0 < 0:
            between[row : row + px] = 0
        for x in range(max(0, width - x0), wide):
            between[row + x * px : row + (x + 1) * px] = 0

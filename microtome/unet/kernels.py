"""Compiled kernels of a U-Net in float32: convolutions of 3 x 3 px by F(2 x 2, 3 x 3) of Winograd.

A quad, 2 x 2 px of the output, is made of a patch, 4 x 4 px of the input: the patch is spread to 16
points, each point of all input channels is multiplied by weights of its own, and the sums are gathered
to the quad: 16 products a channel pair instead of 36. A px depends on the 3 x 3 px around it and on
nothing else of its patch, so it has the same bits wherever quads begin at even px; it has them on every
CPU that fuses a * b + c too, for each sum is taken in the order of the channels.

Maps are (y, x, channel) with a border of at least one px and channels in blocks of 16. Quads are done
24 at a time, so that all of their points stay in the second-level cache.

Lavin and Gray 2016, doi:10.1109/CVPR.2016.435.
"""

from typing import NamedTuple

import numba
import numpy as np

from microtome.arrays import Floats
from microtome.unet.lanes import BLOCK, GROUP
from microtome.unet.vectors import (
    FIRST_DEPTH,
    POINTS,
    QUADS,
    activate,
    gather,
    multiply_blocks,
    multiply_first,
    spread_enlarged,
    spread_same,
)

BEYOND = 0
"""Px right of and below a map's border that may be read."""
VECTORS_CRC = 3_507_277_151
"""Of lanes.py, products.py and vectors.py one after the other. Numba uses what it has compiled until this
file changes: so it must when one of them does."""

# Division by zero gives infinity, as in numpy: checks for it would keep loops from being vectorised.
_kernel = numba.njit(nogil=True, cache=True, error_model="numpy")
_inlined = numba.njit(nogil=True, cache=True, error_model="numpy", inline="always")


class Map(NamedTuple):
    """Pixels of one level, in an array that holds others too."""

    values: Floats
    """(n,) float32."""
    at: int
    """Index of channel 0 of px (0, 0), which may lie outside."""
    row: int
    """Steps from a px to the one below it."""
    px: int
    """Steps to the one to its right: the number of channels."""


class Layer(NamedTuple):
    """A convolution's numbers, as the kernels read them."""

    weights: Floats
    """Per block of outputs, per point or tap, per input: the block's 16 weights."""
    bias: Floats
    """(16 * out_blocks,) float32."""
    same_blocks: int
    """Input blocks of the layer's own level."""
    enlarged_blocks: int
    """Input blocks of the level below, each px of which is 2 x 2 px here; they come after the others."""
    out_blocks: int


type Corners = tuple[int, int, int, int]
"""y0, x0, y1, x1 of a window, half-open."""


@_kernel
def aligned(size):  # type: ignore[no-untyped-def]
    """(size,) float32 zeros that begin with a line of the cache: vectors across two take twice as long."""
    array = np.zeros(size + BLOCK, np.float32)
    start = -(array.ctypes.data // array.itemsize) % BLOCK
    return array[start : start + size]


@_inlined
def _spread_quads(layer, same, enlarged, window, first, count, points):  # type: ignore[no-untyped-def]
    """points[p, block, quad, channel] of `count` quads of the window from the `first` on, in raster order."""
    y0, x0, _, x1 = window
    plane = (layer.same_blocks + layer.enlarged_blocks) * QUADS * BLOCK
    for q in range(count):
        y, x = y0 + (first + q) // (x1 - x0), x0 + (first + q) % (x1 - x0)
        at = same.at + (2 * y - 1) * same.row + (2 * x - 1) * same.px
        spread_same(same.values, at, same.row, same.px, points, q * BLOCK, plane, layer.same_blocks)
        at = enlarged.at + (y - 1) * enlarged.row + (x - 1) * enlarged.px
        start = (layer.same_blocks * QUADS + q) * BLOCK
        spread_enlarged(
            enlarged.values, at, enlarged.row, enlarged.px, points, start, plane, layer.enlarged_blocks
        )


@_inlined
def _multiply_quads(layer, block, points, groups, sums):  # type: ignore[no-untyped-def]
    """sums[p, quad, channel] of one block of outputs."""
    blocks = layer.same_blocks + layer.enlarged_blocks
    for p in range(POINTS):
        # Enlarged px have nothing at these points: they are differences of equal px.
        present = layer.same_blocks if p // 4 == 2 or p % 4 == 2 else blocks
        at = (block * POINTS + p) * blocks * BLOCK * BLOCK
        for group in range(groups):
            rows = group * GROUP * BLOCK
            multiply_blocks(
                points, p * blocks * QUADS * BLOCK + rows, QUADS * BLOCK,
                layer.weights, at, sums, p * QUADS * BLOCK + rows, present,
            )  # fmt: skip


@_kernel
def convolve(layer, same, enlarged, window, full, kept, pooled, pools):  # type: ignore[no-untyped-def]
    """A convolution, its bias and ReLU, over a window of quads.

    Parameters
    ----------
    layer
        With weights of 16 points.
    same, enlarged
        Maps of its inputs; with no blocks of one, any map.
    window
        Quads to compute.
    full, kept
        Map of the outputs, and the quads of it that are wanted.
    pooled, pools
        Map of each quad's largest px, and whether it is wanted.
    """
    points = aligned(POINTS * (layer.same_blocks + layer.enlarged_blocks) * QUADS * BLOCK)
    sums = aligned(POINTS * QUADS * BLOCK)
    y0, x0, y1, x1 = window
    n = (y1 - y0) * (x1 - x0)
    for first in range(0, n, QUADS):
        count = min(QUADS, n - first)
        _spread_quads(layer, same, enlarged, window, first, count, points)
        for block in range(layer.out_blocks):
            _multiply_quads(layer, block, points, -(-count // GROUP), sums)
            _store_quads(layer, block, sums, window, first, count, full, kept, pooled, pools)


@_inlined
def _store_quads(layer, block, sums, window, first, count, full, kept, pooled, pools):  # type: ignore[no-untyped-def] # noqa: PLR0913
    y0, x0, _, x1 = window
    for q in range(count):
        y, x = y0 + (first + q) // (x1 - x0), x0 + (first + q) % (x1 - x0)
        at = full.at + 2 * y * full.row + 2 * x * full.px + block * BLOCK
        pool_at = pooled.at + y * pooled.row + x * pooled.px + block * BLOCK
        wanted = kept[0] <= y < kept[2] and kept[1] <= x < kept[3]
        gather(
            sums, q * BLOCK, layer.bias, block * BLOCK, full.values, at, full.row, full.px, wanted,
            pooled.values, pool_at, pools,
        )  # fmt: skip


@_kernel
def convolve_heads(layer, heads, same, enlarged, window, least, dist, logits):  # type: ignore[no-untyped-def]
    """A convolution as `convolve`, and one of 1 x 1 px without ReLU on what it gives, which is not kept.

    `dist` and `logits` are (y, x, n) and (y, x) float32, of the window alone; n < 16 * heads.out_blocks.
    Px have their distances whatever the `least` number of the probability is for which they are wanted.
    """
    points = aligned(POINTS * (layer.same_blocks + layer.enlarged_blocks) * QUADS * BLOCK)
    sums = aligned(POINTS * QUADS * BLOCK)
    features = aligned(layer.out_blocks * 4 * QUADS * BLOCK)
    found = aligned(GROUP * BLOCK)
    y0, x0, y1, x1 = window
    n = (y1 - y0) * (x1 - x0)
    for first in range(0, n, QUADS):
        count = min(QUADS, n - first)
        _spread_quads(layer, same, enlarged, window, first, count, points)
        for block in range(layer.out_blocks):
            _multiply_quads(layer, block, points, -(-count // GROUP), sums)
            for q in range(count):
                at = (block * QUADS + q) * 4 * BLOCK
                gather(
                    sums, q * BLOCK, layer.bias, block * BLOCK, features, at, 2 * BLOCK, BLOCK, True,
                    features, 0, False,
                )  # fmt: skip
        for group in range(-(-count * 4 // GROUP)):
            for block in range(heads.out_blocks):
                at = block * layer.out_blocks * BLOCK * BLOCK
                multiply_blocks(
                    features, group * GROUP * BLOCK, 4 * QUADS * BLOCK,
                    heads.weights, at, found, 0, layer.out_blocks,
                )  # fmt: skip
                channels = min(BLOCK, dist.shape[2] + 1 - block * BLOCK)
                for r in range(min(GROUP, count * 4 - group * GROUP)):
                    q, corner = divmod(group * GROUP + r, 4)
                    y, x = divmod(first + q, x1 - x0)
                    y, x = 2 * y + corner // 2, 2 * x + corner % 2
                    for c in range(channels):
                        value = found[r * BLOCK + c] + heads.bias[block * BLOCK + c]
                        if block * BLOCK + c < dist.shape[2]:
                            dist[y, x, block * BLOCK + c] = value
                        else:
                            logits[y, x] = value


@_kernel
def convolve_deepest(layer, source, window, full):  # type: ignore[no-untyped-def]
    """A convolution as `convolve`, without Winograd: over a window of px, which may begin anywhere.

    `layer` has weights of 9 taps.
    """
    depth = 9 * layer.same_blocks
    rows = aligned(depth * GROUP * BLOCK)
    found = aligned(GROUP * BLOCK)
    y0, x0, y1, x1 = window
    n = (y1 - y0) * (x1 - x0)
    for first in range(0, n, GROUP):
        count = min(GROUP, n - first)
        for r in range(count):
            y, x = y0 + (first + r) // (x1 - x0), x0 + (first + r) % (x1 - x0)
            for tap in range(9):
                at = source.at + (y + tap // 3 - 1) * source.row + (x + tap % 3 - 1) * source.px
                for block in range(layer.same_blocks):
                    to = ((tap * layer.same_blocks + block) * GROUP + r) * BLOCK
                    for c in range(BLOCK):
                        rows[to + c] = source.values[at + block * BLOCK + c]
        for block in range(layer.out_blocks):
            at = block * depth * BLOCK * BLOCK
            multiply_blocks(rows, 0, GROUP * BLOCK, layer.weights, at, found, 0, depth)
            activate(found, layer.bias, block * BLOCK, found, 0, BLOCK, count)
            for r in range(count):
                y, x = y0 + (first + r) // (x1 - x0), x0 + (first + r) % (x1 - x0)
                at = full.at + y * full.row + x * full.px + block * BLOCK
                for c in range(BLOCK):
                    full.values[at + c] = found[r * BLOCK + c]


@_kernel
def enter(planes, values, first, layer, window, full, kept, pooled, pools):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """The first two convolutions of a network; what the first gives is never held as a whole.

    Parameters
    ----------
    planes
        (3, y, x) uint8.
    values
        (256,) float32: what the network sees for a byte.
    first
        With weights of 9 taps of 3 colours.
    layer, window, full, kept, pooled, pools
        As for `convolve`.
    """
    y0, x0, y1, x1 = window
    wide = 2 * (x1 - x0) + 2
    px = first.out_blocks * BLOCK
    pixels = aligned(4 * (wide + GROUP + 2) * 3)
    between = aligned(4 * wide * px)
    found = aligned(GROUP * BLOCK)
    points = aligned(POINTS * layer.same_blocks * QUADS * BLOCK)
    sums = aligned(POINTS * QUADS * BLOCK)
    _read_two_rows(planes, values, 2 * y0 - 2, 2 * x0 - 2, pixels)
    for y in range(y0, y1):
        if y == y0:
            _enter_two_rows(planes, values, first, 2 * y - 1, 2 * x0 - 1, pixels, found, between, 0)
        else:
            between[: 2 * wide * px] = between[2 * wide * px :]
        _enter_two_rows(planes, values, first, 2 * y + 1, 2 * x0 - 1, pixels, found, between, 2)
        same = Map(between, ((1 - 2 * y) * wide + 1 - 2 * x0) * px, wide * px, px)
        row = (y, x0, y + 1, x1)
        for start in range(0, x1 - x0, QUADS):
            count = min(QUADS, x1 - x0 - start)
            _spread_quads(layer, same, same, row, start, count, points)
            for block in range(layer.out_blocks):
                _multiply_quads(layer, block, points, -(-count // GROUP), sums)
                _store_quads(layer, block, sums, row, start, count, full, kept, pooled, pools)


@_inlined
def _read_two_rows(planes, values, y0, x0, pixels):  # type: ignore[no-untyped-def]
    """Rows y0 and y0 + 1 of the image from column x0 on, zeros around it, as the last two of four rows."""
    _, height, width = planes.shape
    step = len(pixels) // 4
    pixels[: 2 * step] = pixels[2 * step :]
    for r in range(2):
        y = y0 + r
        if not 0 <= y < height:
            pixels[(2 + r) * step : (3 + r) * step] = 0
            continue
        for x in range(max(0, x0), min(width, x0 + step // 3)):
            at = (2 + r) * step + (x - x0) * 3
            for c in range(3):
                pixels[at + c] = values[planes[c, y, x]]


@_inlined
def _enter_two_rows(planes, values, first, y0, x0, pixels, found, between, to):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """Rows y0 and y0 + 1 of the first convolution from column x0 on, as rows `to` and `to` + 1 of four."""
    _, height, width = planes.shape
    _read_two_rows(planes, values, y0 + 1, x0 - 1, pixels)
    step, px = len(pixels) // 4, first.out_blocks * BLOCK
    wide = len(between) // (4 * px)
    for r in range(2):
        row = (to + r) * wide * px
        # Around the image, the next convolution sees zeros, not what this one makes of them.
        if not 0 <= y0 + r < height:
            between[row : row + wide * px] = 0
            continue
        for start in range(0, wide, GROUP):
            at = r * step + start * 3
            for block in range(first.out_blocks):
                weights_at = block * 3 * FIRST_DEPTH * BLOCK
                multiply_first(pixels, at, step, first.weights, weights_at, found, 0, 3)
                to_px = row + start * px + block * BLOCK
                activate(found, first.bias, block * BLOCK, between, to_px, px, min(GROUP, wide - start))
        if x0 < 0:
            between[row : row + px] = 0
        if x0 + wide > width:
            between[row + (wide - 1) * px : row + wide * px] = 0

"""A U-Net on tiles: its kernels called layer by layer, each for the px that the tile's core needs."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from math import inf
from threading import Lock

import numpy as np

from microtome.arrays import Band, Floats, Pixels
from microtome.grid import Sides, Window
from microtome.unet import int8_kernels, kernels
from microtome.unet.convolutions import Convolution, Quantized, Seen
from microtome.unet.kernels import Corners, aligned
from microtome.unet.layers import layers_of
from microtome.unet.windows import NOTHING, QUAD, Layout, Place, lay_out

BAND_QUADS = 32
"""Rows of quads whose heads are computed at once, in less memory than the tile's planes."""

type Map = kernels.Map | int8_kernels.Map


class Unet:
    """A network ready to run on tiles of any shape; for one thread at a time."""

    def __init__(
        self,
        convolutions: tuple[Convolution, ...],
        *,
        grid_px: int,
        halo_px: int,
        limits: tuple[float, float],
        threads: int,
    ) -> None:
        """
        Parameters
        ----------
        convolutions
            From `read_unet`, which checks what is taken for granted here.
        grid_px
            Px of the image per px of the heads.
        halo_px
            Context that a tile has on its trimmed sides.
        limits
            As for `set_limits`.
        threads
            That a tile is computed with.
        """
        self.trimmed_px = halo_px // (2 * grid_px) * (2 * grid_px)
        """Px of the image that the heads lack on each trimmed side of the tile."""
        self._convolutions, self._layers = convolutions, layers_of(convolutions)
        self._grid_px, self._threads = grid_px, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="unet") if threads > 1 else None
        self._kernels = int8_kernels if isinstance(convolutions[0], Quantized) else kernels
        self._maps = self._kernels.aligned(0)
        self._heads: Floats = aligned(0)
        self._idle = Lock()
        self.set_limits(limits)

    def set_limits(self, limits: tuple[float, float]) -> None:
        """Pixel values seen as 0 and as 1 from now on."""
        low, high = np.float32(limits[0]), np.float32(limits[1])
        self._values = (np.arange(256, dtype=np.float32) - low) / (high - low)
        first = self._convolutions[0]
        if isinstance(first, Quantized):
            self._values = np.clip(np.rint(self._values / first.seen_step), 0, 255).astype(np.uint8)

    def run(self, planes: Pixels, trimmed: Sides, least: float = -inf) -> Iterator[Band]:
        """The heads over a tile, as of `Engine`.

        Raises
        ------
        RuntimeError
            If another thread is at it.
        """
        if not self._idle.acquire(blocking=False):
            raise RuntimeError("a network takes one tile at a time: load another one for this thread")
        try:
            layout, core = self._enter(planes, trimmed)
            del planes  # whoever gave them may let go of them
            for index in range(2, len(layout.full) - 1):
                self._convolve(layout, index)
            quads = QUAD.to_network(core)
            for y0 in range(quads.y0, quads.y1, BAND_QUADS):
                band = replace(quads, y0=y0, y1=min(y0 + BAND_QUADS, quads.y1))
                yield 2 * (y0 - quads.y0), *self._leave(layout, band, least)
        finally:
            self._idle.release()

    def _enter(self, planes: Pixels, trimmed: Sides) -> tuple[Layout, Window]:
        """The first two convolutions; returns where all maps are, and the window of the heads' px."""
        heads = Window(0, 0, *(side // self._grid_px for side in planes.shape[1:]))
        core = heads.shrink(self.trimmed_px // self._grid_px, trimmed)
        layout = lay_out(self._convolutions, Window(0, 0, *planes.shape[1:]), core)
        band = Window(0, 0, min(core.height, 2 * BAND_QUADS), core.width)
        # Until heads are computed, their memory holds the planes: 15 MB less when a worker needs most.
        self._make_room(
            maps=layout.size + self._kernels.BEYOND * layout.largest_row,
            heads=max(self._heads_size(band), -(-planes.nbytes // self._heads.itemsize)),
        )
        copy = self._heads.view(np.uint8)[: planes.size].reshape(planes.shape)
        copy[...] = planes
        first, second, *_ = self._layers
        outputs = self._outputs(layout, 1)
        self._in_parts(
            layout.quads(1),
            lambda part: self._kernels.enter(copy, self._values, first, second, part, *outputs),
        )
        return layout, core

    def _heads_size(self, window: Window) -> int:
        return window.area_px * len(self._convolutions[-1].bias)

    def _make_room(self, *, maps: int, heads: int) -> None:
        """Memory for so many numbers; what is too small is freed first, else both were there at once."""
        if len(self._maps) < maps:
            self._maps = self._kernels.aligned(0)
            self._maps = self._kernels.aligned(maps)
        if len(self._heads) < heads:
            self._heads = aligned(0)
            self._heads = aligned(heads)

    def _convolve(self, layout: Layout, index: int) -> None:
        layer = self._layers[index]
        inputs, outputs = self._inputs(layout, index), self._outputs(layout, index)
        if layout.is_deepest(index):
            self._in_parts(
                layout.full[index],
                lambda part: self._kernels.convolve_deepest(layer, inputs[0], part, outputs[0]),
            )
        else:
            self._in_parts(
                layout.quads(index), lambda part: self._kernels.convolve(layer, *inputs, part, *outputs)
            )
        convolution = self._convolutions[index]
        if isinstance(convolution, Quantized) and convolution.table is not None:
            place = layout.places[index][Seen.SAME]
            int8_kernels.recode(self._maps, place.start, place.end - place.start, convolution.table)

    def _leave(self, layout: Layout, quads: Window, least: float) -> tuple[Floats, Floats]:
        """The last two convolutions, over some rows of quads."""
        *_, layer, heads = self._layers
        inputs = self._inputs(layout, len(self._layers) - 2)
        px = Window(0, 0, 2 * quads.height, 2 * quads.width)
        logits, dist = np.split(self._heads[: self._heads_size(px)], [px.area_px])
        logits = logits.reshape(px.height, px.width)
        dist = dist.reshape(px.height, px.width, -1)
        self._in_parts(
            quads,
            lambda part: self._kernels.convolve_heads(
                layer,
                heads,
                *inputs,
                part,
                np.float32(least),
                dist[2 * (part[0] - quads.y0) :],
                logits[2 * (part[0] - quads.y0) :],
            ),
        )
        return logits, dist.transpose(2, 0, 1)

    def _inputs(self, layout: Layout, index: int) -> tuple[Map, Map]:
        """What a convolution sees of its own level and of the one below; any map where it sees nothing."""
        maps = {
            source.seen: self._map(layout.place_of(source)) for source in self._convolutions[index].sources
        }
        same = maps.get(Seen.SAME) or maps.get(Seen.POOLED) or self._map(None)
        return same, maps.get(Seen.ENLARGED) or self._map(None)

    def _outputs(self, layout: Layout, index: int) -> tuple[Map, Corners, Map, bool]:
        """Where a convolution's full px go, and which quads these are; where pooled ones go, if any."""
        full, pooled = (layout.places[index].get(seen) for seen in (Seen.SAME, Seen.POOLED))
        for place in layout.places[index].values():
            self._clear_border(place)
        kept = _corners(QUAD.to_network(full.window if full else NOTHING))
        return self._map(full), kept, self._map(pooled), pooled is not None

    def _clear_border(self, place: Place) -> None:
        """Zeros around a map, as a convolution sees them around the image."""
        rows = self._maps[place.start : place.end].reshape(place.window.height + 2, place.row)
        rows[[0, -1]] = 0
        rows[:, : place.channels] = rows[:, -place.channels :] = 0

    def _map(self, place: Place | None) -> Map:
        where = (place.at, place.row, place.channels) if place else (0, 0, 0)
        found: Map = self._kernels.Map(self._maps, *where)
        return found

    def _in_parts(self, window: Window, kernel: Callable[[Corners], None]) -> None:
        """The kernel on the whole window, by all threads."""
        if self._pool is None:
            kernel(_corners(window))
            return
        edges = np.linspace(window.y0, window.y1, self._threads + 1).astype(int).tolist()
        parts = [(y0, window.x0, y1, window.x1) for y0, y1 in pairwise(edges)]
        for _ in self._pool.map(kernel, parts):
            pass


def _corners(window: Window) -> Corners:
    return window.y0, window.x0, window.y1, window.x1

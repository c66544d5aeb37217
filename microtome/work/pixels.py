"""Pixels of the slide as the network sees them: resampled to the model's scale, padded by reflection."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from microtome.arrays import Pixels
from microtome.grid import Scale, Window
from microtome.pyramid import halve_pixels
from microtome.slides import Slide

CUBIC_REACH_PX = 4
"""Level-0 px read around a window that is to be enlarged: more than a cubic kernel's reach."""


def read_network_pixels(
    slide: Slide, scale: Scale, windows: Sequence[Window], slide_window: Window
) -> Iterator[Pixels]:
    """Windows of the slide in network px, in their order; the file is asked at once for what all need.

    Parameters
    ----------
    windows
        Network px; inside `slide_window`, but for less than the model's lattice below and to
        the right of it, where pixels are those reflected at the slide's edge.
    slide_window
        The whole slide, network px.

    Returns
    -------
    iterator of Pixels
        (c, y, x) uint8, a view of interleaved memory. The same pixels as the same window of
        the whole slide resampled. None of them is held here.
    """
    inside = [window.intersect(slide_window) for window in windows]
    needed = [scale.to_level0(window) for window in inside]
    if scale.up > 1:
        whole = Window(0, 0, slide.levels[0].height_px, slide.levels[0].width_px)
        needed = [window.grow(CUBIC_REACH_PX).intersect(whole) for window in needed]

    def resampled(window: Window, seen: Window, around: Window, pixels: Pixels) -> Pixels:
        if scale.up > 1:
            pixels = _enlarged(pixels, scale, around, seen)
        for _ in range(scale.down.bit_length() - 1):
            pixels = halve_pixels(pixels)
        below, right = window.y1 - seen.y1, window.x1 - seen.x1
        if below or right:
            # As the official package pads: mirrored without repeating the edge.
            pixels = np.pad(pixels.transpose(1, 2, 0), ((0, below), (0, right), (0, 0)), mode="reflect")
            pixels = pixels.transpose(2, 0, 1)
        return pixels

    return map(resampled, windows, inside, needed, slide.read_each(0, needed))


def _enlarged(pixels: Pixels, scale: Scale, around: Window, window: Window) -> Pixels:
    """A window (network px) of pixels that were read `around` it (level-0 px)."""
    rgb = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    size = (around.width * scale.up, around.height * scale.up)
    enlarged = cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC)
    rows, cols = window.within(scale.to_network(around))
    return np.asarray(enlarged[rows, cols], np.uint8).transpose(2, 0, 1)

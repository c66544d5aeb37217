"""Pixels of the slide as the network sees them: resampled to the model's scale, padded by reflection."""

import cv2
import numpy as np

from microtome.arrays import Pixels
from microtome.grid import Scale, Window
from microtome.pyramid import halve_pixels
from microtome.slides import Slide

CUBIC_REACH_PX = 4
"""Level-0 px read around a window that is to be enlarged: more than a cubic kernel's reach."""


def read_network_pixels(slide: Slide, scale: Scale, window: Window, slide_window: Window) -> Pixels:
    """A window of the slide in network px.

    Parameters
    ----------
    window
        Network px; inside `slide_window`, but for less than the model's lattice below and to
        the right of it, where pixels are those reflected at the slide's edge.
    slide_window
        The whole slide, network px.

    Returns
    -------
    Pixels
        (c, y, x) uint8, a view of interleaved memory. The same pixels as the same window of
        the whole slide resampled.
    """
    inside = window.intersect(slide_window)
    if scale.up > 1:
        pixels = _enlarged(slide, scale, inside)
    else:
        pixels = slide.read(0, scale.to_level0(inside))
        for _ in range(scale.down.bit_length() - 1):
            pixels = halve_pixels(pixels)
    below, right = window.y1 - inside.y1, window.x1 - inside.x1
    if below or right:
        # As the official package pads: mirrored without repeating the edge.
        pixels = np.pad(pixels.transpose(1, 2, 0), ((0, below), (0, right), (0, 0)), mode="reflect")
        pixels = pixels.transpose(2, 0, 1)
    return pixels


def _enlarged(slide: Slide, scale: Scale, window: Window) -> Pixels:
    level = slide.levels[0]
    around = scale.to_level0(window).grow(CUBIC_REACH_PX)
    around = around.intersect(Window(0, 0, level.height_px, level.width_px))
    source = np.ascontiguousarray(slide.read(0, around).transpose(1, 2, 0))
    size = (around.width * scale.up, around.height * scale.up)
    enlarged = cv2.resize(source, size, interpolation=cv2.INTER_CUBIC)
    rows, cols = window.within(scale.to_network(around))
    return np.asarray(enlarged[rows, cols], np.uint8).transpose(2, 0, 1)

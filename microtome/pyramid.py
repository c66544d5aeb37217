"""One level from the level below, for pixels and for labels."""

import cv2
import numba
import numpy as np
import numpy.typing as npt

from microtome.arrays import Labels, Pixels


def halve_pixels(pixels: Pixels) -> Pixels:
    """Means of 2 x 2 pixels, `(a + b + c + d + 2) >> 2`; an odd last row or column counts twice.

    Parameters
    ----------
    pixels
        (c, y, x) uint8, c <= 4; planar or a view of interleaved memory.

    Returns
    -------
    Pixels
        (c, ceil(y / 2), ceil(x / 2)) in the layout of the input.
    """
    channels, height_px, width_px = pixels.shape
    half_shape = (-(-height_px // 2), -(-width_px // 2))
    if pixels.strides[0] == 1:
        halved = np.empty((*half_shape, channels), np.uint8)
        _halve_plane(pixels.transpose(1, 2, 0), halved)
        return halved.transpose(2, 0, 1)
    planes = np.empty((channels, *half_shape), np.uint8)
    for plane, halved in zip(pixels, planes, strict=True):
        _halve_plane(plane, halved)
    return planes


def _halve_plane(plane: npt.NDArray[np.uint8], halved: npt.NDArray[np.uint8]) -> None:
    """Halve (y, x) or (y, x, c) into `halved`."""
    height_px, width_px = (side // 2 * 2 for side in plane.shape[:2])
    if height_px and width_px:
        _halve_even(plane[:height_px, :width_px], halved[: height_px // 2, : width_px // 2])
    if height_px < plane.shape[0] and width_px:
        _halve_even(plane[[-1, -1], :width_px], halved[-1:, : width_px // 2])
    if width_px < plane.shape[1]:
        rows = plane[:, -1:].repeat(2, axis=1)
        odd = rows.shape[0] % 2
        _halve_even(np.concatenate([rows, rows[-odd:]]) if odd else rows, halved[:, -1:])


def _halve_even(plane: npt.NDArray[np.uint8], halved: npt.NDArray[np.uint8]) -> None:
    size = (plane.shape[1] // 2, plane.shape[0] // 2)
    halved[...] = cv2.resize(plane, size, interpolation=cv2.INTER_AREA).reshape(halved.shape)


def halve_labels(labels: Labels) -> Labels:
    """The most frequent id of each 2 x 2 pixels.

    Background wins only where it has three or four of the four, so that nuclei of one pixel's
    width stay visible; of ids that are equally frequent the first in raster order wins. An odd last
    row or column counts twice. No id is invented; one of a single pixel may vanish.

    Parameters
    ----------
    labels
        (y, x) uint32.

    Returns
    -------
    Labels
        (ceil(y / 2), ceil(x / 2)).
    """
    halved = np.empty((-(-labels.shape[0] // 2), -(-labels.shape[1] // 2)), np.uint32)
    _halve_labels(labels, halved)
    return halved


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _halve_labels(labels: Labels, halved: Labels) -> None:
    last_row, last_col = labels.shape[0] - 1, labels.shape[1] - 1
    for row in range(halved.shape[0]):
        top = labels[2 * row]
        bottom = labels[min(2 * row + 1, last_row)]
        for col in range(halved.shape[1]):
            left, right = 2 * col, min(2 * col + 1, last_col)
            a, b, c, d = top[left], top[right], bottom[left], bottom[right]
            halved[row, col] = a if a == b == c == d else _vote(a, b, c, d)


@numba.njit(nogil=True, cache=True)  # type: ignore[misc, unused-ignore]  # numba is untyped
def _vote(a: np.uint32, b: np.uint32, c: np.uint32, d: np.uint32) -> np.uint32:
    if (a == 0) + (b == 0) + (c == 0) + (d == 0) > 2:
        return np.uint32(0)
    best, most = np.uint32(0), 0
    for label in (a, b, c, d):
        count = (label == a) + (label == b) + (label == c) + (label == d)
        if label != 0 and count > most:
            best, most = label, count
    return best

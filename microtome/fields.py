"""Nuclei of one field, at once and in this process: of a slide for notebooks, of an image for scores."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from microtome.arrays import Labels
from microtome.cpu import choose_precision, machine_record
from microtome.errors import NoResolution, OptionError
from microtome.grid import Scale, Window
from microtome.model import ModelCard, Normalisation, Precision, find_model, read_card
from microtome.network import Network, load_model
from microtome.nuclei import Nuclei
from microtome.plan import scale_for
from microtome.polygons import paint
from microtome.seams import own_nuclei
from microtome.slides import Mpp, Slide
from microtome.stardist import Candidates, decode, outlines, suppress
from microtome.tiling import Tiling
from microtome.work.pixels import read_network_pixels

MOST_SIDE_PX = 2048
"""Longest side of a field in network px: one tile in memory at once."""


def segment_window(
    slide: Slide,
    window: Window,
    model: str | None = None,
    *,
    mpp: float | None = None,
    precision: Precision | None = None,
    limits: tuple[float, float] = (0.0, 255.0),
) -> Nuclei:
    """Find the nuclei whose centre lies in a window of a slide.

    Parameters
    ----------
    slide
        From `open_slide`.
    window
        Level-0 px; at most 2,048 px a side in the model's resolution.
    model
        Folder of a model, or the name of a shipped one; the default model when None.
    mpp
        um/px of level 0, where the slide does not say.
    precision
        The fastest that is accurate enough on this CPU when None.
    limits
        Pixel values that the network sees as 0 and 1. A run of the whole slide measures them;
        here they are white and black.

    Returns
    -------
    Nuclei
        In raster order of their centres, level-0 px of the slide. The same nuclei as a run of the
        whole slide with the same limits finds there, but for those that a nucleus outside of the
        window's surroundings (192 network px) would suppress.

    Raises
    ------
    NoResolution
        If neither the slide nor `mpp` says the resolution.
    OptionError
        If the window is too large, or the slide too far from the model's resolution.
    """
    card = read_card(find_model(model))
    network = _network(find_model(model), precision, limits)
    scale = _scale(slide, mpp, card)
    level = slide.levels[0]
    whole = Window(0, 0, level.height_px, level.width_px)
    network_slide = scale.to_network(whole)
    around = scale.to_network(window.intersect(whole)).grow(card.halo_px)
    if max(around.height, around.width) > MOST_SIDE_PX + 2 * card.halo_px:
        raise OptionError("window", f"{window.height} x {window.width} px", f"at most {MOST_SIDE_PX} a side")
    tiling = Tiling(
        height_px=network_slide.height,
        width_px=network_slide.width,
        core_px=MOST_SIDE_PX,
        halo_px=card.halo_px,
        align_px=card.align_px,
    )
    tile = tiling.input_of(around)
    (pixels,) = read_network_pixels(slide, scale, [tile], network_slide)
    found = find_nuclei(
        network,
        card,
        pixels.transpose(1, 2, 0),
        origin_px=(tile.y0, tile.x0),
        core=around.intersect(network_slide),
        whole=network_slide,
    )
    return own_nuclei(found, window, scale, whole)


def label_image(network: Network, card: ModelCard, pixels: npt.NDArray[np.uint8]) -> Labels:
    """The nuclei of a whole image.

    Parameters
    ----------
    pixels
        (y, x, c) uint8, c = R, G, B, at the model's um/px.

    Returns
    -------
    Labels
        (y, x) uint32: 0 is background, else a nucleus each.
    """
    whole = Window(0, 0, *pixels.shape[:2])
    short = [-side % card.align_px for side in pixels.shape[:2]]
    tile = np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="reflect")
    found = find_nuclei(network, card, tile, origin_px=(0, 0), core=whole, whole=whole)
    nuclei = outlines(found, Scale(1, 1), whole)
    return paint(nuclei, np.arange(1, len(nuclei) + 1, dtype=np.uint32), whole)


def find_nuclei(
    network: Network,
    card: ModelCard,
    tile: npt.NDArray[np.uint8],
    *,
    origin_px: tuple[int, int],
    core: Window,
    whole: Window,
) -> Candidates:
    """The nuclei of one tile, by falling probability: what a run does shard by shard, in one step.

    Parameters
    ----------
    tile
        (y, x, c) uint8, sides multiples of the card's `align_px`.
    origin_px
        (y, x) of its first pixel, network px.
    core
        Where nuclei are looked for, network px.
    whole
        The slide or image that the tile is of, network px.
    """
    candidates = [
        decode(
            band,
            origin_px=origin_px,
            core=core,
            slide=whole,
            threshold=card.prob_threshold,
            grid_px=card.grid,
            align_px=card.align_px,
        )
        for band in network.run(tile.transpose(2, 0, 1), threshold=card.prob_threshold)
    ]
    return suppress(Candidates.concatenate(candidates), card.nms_threshold)


def limits_of(pixels: npt.NDArray[np.uint8], normalisation: Normalisation) -> tuple[float, float]:
    """Pixel values seen as 0 and 1 in a single image, as in training."""
    low = normalisation.low_percentile
    return (
        0.0 if low is None else float(np.percentile(pixels, low)),
        float(np.percentile(pixels, normalisation.high_percentile)),
    )


@lru_cache(maxsize=2)
def _network(folder: Path, precision: Precision | None, limits: tuple[float, float]) -> Network:
    chosen, _ = choose_precision(read_card(folder), precision, machine_record().instruction_set)
    return load_model(folder, precision=chosen, threads=0, limits=limits)


def _scale(slide: Slide, mpp: float | None, card: ModelCard) -> Scale:
    known = Mpp(mpp, mpp) if mpp is not None else slide.mpp
    if known is None:
        raise NoResolution(slide.uri)
    return scale_for(slide.uri, known, card, shard_px=MOST_SIDE_PX)

"""Nuclei of one field of a slide, at once and in this process: for notebooks."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from microtome.cpu import choose_precision, machine_record
from microtome.errors import NoResolution, OptionError
from microtome.grid import Scale, Window
from microtome.model import ModelCard, Precision, find_model, read_card
from microtome.network import Network, load_model
from microtome.nuclei import Nuclei
from microtome.plan import scale_for
from microtome.seams import own_nuclei
from microtome.slides import Mpp, Slide
from microtome.stages.pixels import read_network_pixels
from microtome.stardist import decode, suppress
from microtome.tiling import Tiling

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
    pixels = read_network_pixels(slide, scale, tile, network_slide)
    prob, dist = network.run(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    candidates = decode(
        prob,
        dist,
        origin_px=(tile.y0, tile.x0),
        core=around.intersect(network_slide),
        slide=network_slide,
        threshold=card.prob_threshold,
        grid_px=card.grid,
    )
    return own_nuclei(suppress(candidates, card.nms_threshold), window, scale, whole)


@lru_cache(maxsize=2)
def _network(folder: Path, precision: Precision | None, limits: tuple[float, float]) -> Network:
    chosen, _ = choose_precision(read_card(folder), precision, machine_record().instruction_set)
    return load_model(folder, precision=chosen, threads=0, limits=limits)


def _scale(slide: Slide, mpp: float | None, card: ModelCard) -> Scale:
    known = Mpp(mpp, mpp) if mpp is not None else slide.mpp
    if known is None:
        raise NoResolution(slide.uri)
    return scale_for(slide.uri, known, card, shard_px=MOST_SIDE_PX)

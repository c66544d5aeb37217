"""What holds for tiles of both kinds of network that are computed here, in f32 and in int8."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from microtome.grid import Sides, Window
from microtome.trimming import NO_SIDES
from microtome.unet.network import Unet
from tests.unet import test_int8, test_unet
from tests.unet.networks import OTHERS, heads_of, noise

both_kinds = pytest.mark.parametrize("unet_of", [test_unet.unet_of, test_int8.unet_of], ids=["f32", "int8"])


@both_kinds
@pytest.mark.parametrize("name", ["plain", "deep", "grid-1"])
def test_a_core_has_the_same_bits_whichever_sides_are_trimmed_and_however_many_threads(
    unet_of: Callable[..., Unet], name: str
) -> None:
    config = OTHERS[name]
    unets = [unet_of(config), unet_of(config, threads=3)]
    side = 2 * config.halo_px + 3 * config.align_px
    tile = noise(side, side + config.align_px)
    whole = heads_of(unets[0], tile)
    out = Window(0, 0, *whole.shape[1:])
    for sides in map(Sides._make, product([False, True], repeat=4)):
        core = out.shrink(unets[0].trimmed_px // config.grid[0], sides)
        for unet in unets:
            np.testing.assert_array_equal(heads_of(unet, tile, sides), whole[:, *core.within(out)])


@both_kinds
@pytest.mark.parametrize("name", OTHERS)
def test_nothing_that_an_earlier_tile_has_left_is_ever_seen(unet_of: Callable[..., Unet], name: str) -> None:
    config = OTHERS[name]
    unet, align_px = unet_of(config), config.align_px
    small, large = noise(3 * align_px, 2 * align_px), noise(5 * align_px, 4 * align_px)
    first = heads_of(unet, small)
    unet.run(large, NO_SIDES)
    unet._maps.view(np.uint8)[:] = 255  # of floats: not a number
    np.testing.assert_array_equal(heads_of(unet, small), first)

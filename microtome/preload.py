"""What a Dask worker imports while it starts: `dask worker --preload microtome.preload`.

Numba spends a second on the first kernel that a process runs, compiled and cached though it is: one
is run here. Nothing here starts a thread: workers of our own are forked after it.
"""

import gc

import numpy as np

from microtome import stages
from microtome.grid import Window
from microtome.tiling import CELL_PX, Tiling

__all__ = ["stages"]

Tiling(height_px=CELL_PX, width_px=CELL_PX, core_px=CELL_PX, halo_px=0, align_px=1).cores(
    Window(0, 0, CELL_PX, CELL_PX), np.ones((1, 1), bool)
)

gc.freeze()  # what was imported stays: else each collection of a worker looks through a million objects

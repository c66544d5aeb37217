"""What a Dask worker imports while it starts: `dask worker --preload microtome.preload`.

Numba spends 0.3 s on the first kernel that a process runs, compiled and cached though it is: one is run here.
Nothing here starts a thread: workers of our own are forked after it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from microtome.importing import without_collector

IMPORTED = ("distributed.nanny", "distributed.worker", "microtome.work")


def load() -> None:
    """Import what this process lacks."""
    with without_collector():
        for name in IMPORTED:
            import_module(name)
        with _hidden("scipy.linalg"):
            run_a_kernel()


def run_a_kernel() -> None:
    """The smallest one."""
    import numpy as np

    from microtome.grid import Window
    from microtome.tiling import CELL_PX, Tiling

    tiling = Tiling(height_px=CELL_PX, width_px=CELL_PX, core_px=CELL_PX, halo_px=0, align_px=1)
    tiling.cores(Window(0, 0, CELL_PX, CELL_PX), np.ones((1, 1), bool))


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Whoever tries to import it learns that it is not there.

    Numba looks for SciPy's products of matrices before its first kernel, for 0.08 s. None of ours has any.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # what Python knows a hidden module by
    try:
        yield
    finally:
        del sys.modules[module]


load()

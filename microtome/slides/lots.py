"""What is looked at in many small windows of a slide, which a store far away is asked for many at a time."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

from microtome.arrays import Pixels
from microtome.grid import Window

READERS = 4
"""Threads that read what a plan or a report looks at, part by part: a store far away answers them at once."""
LOT_PX = 8 << 20
"""Windows that are asked for at once have together so many px: neighbours' tiles come by one request."""

type ReadEach = Callable[[int, Sequence[Window]], Iterator[Pixels]]
"""As `Slide.read_each`."""


def look_at[T](read_each: ReadEach, windows: Sequence[Window], look: Callable[[Pixels], T]) -> list[T]:
    """What `look` makes of each window of level 0, in their order; by threads."""
    largest_px = max((window.area_px for window in windows), default=1)
    lots = batched(windows, max(1, LOT_PX // largest_px))
    with ThreadPoolExecutor(READERS, thread_name_prefix="look") as readers:
        # By map, which holds none of the windows while the next one is read.
        seen = readers.map(lambda lot: list(map(look, read_each(0, lot))), lots)
        return [found for lot in seen for found in lot]

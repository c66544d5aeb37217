"""How the tissue of a shard is cut into tiles for the network. Network px, no I/O.

A tile is a core, whose results count, and a halo around it. Tiles are rectangles of many sizes:
large where tissue is dense, since halos cost less there, and trimmed to it where it is not.
At the edge of the slide the input ends with the slide instead of being padded, so that the zero
padding of the convolutions falls where it falls when the whole slide is the input: a pixel's
result has the same bits in any tiling.
"""

from dataclasses import dataclass
from itertools import product

from microtome.arrays import Mask
from microtome.errors import OptionError
from microtome.grid import Sides, Window

CELL_PX = 64
"""Cores begin and end on multiples of this, counted from the shard's corner: as fine as the mask of the
tissue is at the scale of the network."""

MOST_CELLS = 32
"""A larger window is cut in blocks of this many cells a side first: the search for the best cover
takes up to the fifth power of it, 4 ms at 32 where half of the block is tissue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """Size of the slide for the network, and of the largest tile."""

    height_px: int
    """Of the slide in network px, without padding."""
    width_px: int
    core_px: int
    """Longest side of a core."""
    halo_px: int
    """Context read around the core, on each side."""
    align_px: int
    """The network's own lattice: inputs begin and end on multiples of it."""

    def __post_init__(self) -> None:
        if self.core_px < CELL_PX or self.core_px % CELL_PX:
            raise OptionError("core_px", self.core_px, f"a multiple of {CELL_PX}")

    def cores(self, window: Window, occupied: Mask) -> tuple[Window, ...]:
        """Disjoint cores that hold every occupied cell at the least cost, in raster order.

        Parameters
        ----------
        window
            A shard, network px.
        occupied
            (rows, cols) bool: which `CELL_PX` cells of the window have tissue.
        """
        from microtome.covering import cover  # numba: not for those who only plan

        rows, cols = occupied.shape
        cores = []
        for row, col in product(range(0, rows, MOST_CELLS), range(0, cols, MOST_CELLS)):
            block = occupied[row : row + MOST_CELLS, col : col + MOST_CELLS]
            for cut in cover(block, self.core_px // CELL_PX, 2 * self.halo_px):
                core = Window(*(int(edge) * CELL_PX for edge in cut))
                cores.append(core.shift(window.y0 + row * CELL_PX, window.x0 + col * CELL_PX))
        return tuple(sorted((core.intersect(window) for core in cores), key=lambda core: (core.y0, core.x0)))

    def input_of(self, core: Window) -> Window:
        """What the network must see for this core: the halo around it, cut at the slide's edge.

        May pass the slide below and to the right by less than `align_px`; pixels there are
        reflected.
        """
        around = core.grow(self.halo_px)
        return Window(
            max(around.y0, 0) // self.align_px * self.align_px,
            max(around.x0, 0) // self.align_px * self.align_px,
            self._up(min(around.y1, self.height_px)),
            self._up(min(around.x1, self.width_px)),
        )

    def whole_halo(self, core: Window) -> Sides:
        """On which sides the slide's edge leaves the core its whole halo."""
        around, whole = self.input_of(core), core.grow(self.halo_px)
        return Sides(
            top=around.y0 == whole.y0,
            left=around.x0 == whole.x0,
            bottom=around.y1 == whole.y1,
            right=around.x1 == whole.x1,
        )

    def _up(self, edge_px: int) -> int:
        return -(-edge_px // self.align_px) * self.align_px

"""A run as its stages see it: the plan, the store, and what a process opens once and keeps.

What travels to a worker is a `RunRef`; each process opens the rest itself.
"""

import uuid
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import cv2

from microtome.claim import Claim
from microtome.errors import NoResultHere, SlideChanged
from microtome.grid import Shard, Window
from microtome.inbox import SlideVersion, look
from microtome.plan import Plan
from microtome.slides import OnBadTile, Slide, open_slide
from microtome.store import PLAN, ResultStore
from microtome.tiling import CELL_PX, Tiling
from microtome.tissue_mask import TissueMask

CELL = Window(0, 0, CELL_PX, CELL_PX)


@dataclass(frozen=True, slots=True)
class RunRef:
    """Names a run: small enough to go along with every task."""

    uri: str
    fingerprint: str
    start: str
    """Another one each time that the run is started: what a process has open may have been replaced since."""

    def __str__(self) -> str:
        return self.fingerprint[:12]


@dataclass(frozen=True)
class Run:
    """A plan and the store of its result, opened in this process."""

    plan: Plan
    store: ResultStore
    start: str = field(default_factory=lambda: uuid.uuid4().hex)
    claim: Claim = field(default_factory=Claim)
    """Of the process that started it."""
    version: SlideVersion | None = None
    """The slide's, before anything of it was computed; None where only its header can tell."""

    @property
    def ref(self) -> RunRef:
        return RunRef(self.store.uri, self.plan.fingerprint, self.start)

    @cached_property
    def slide(self) -> Slide:
        return open_slide(self.plan.slide.uri, on_bad_tile=OnBadTile(self.plan.slide.on_bad_tile))

    @cached_property
    def tissue(self) -> TissueMask:
        return self.plan.tissue_mask

    @cached_property
    def tiling(self) -> Tiling:
        return self.plan.tiling

    def check_slide(self) -> None:
        """Whether the slide is still the one that the run began with.

        Raises
        ------
        SlideChanged
            If it was replaced meanwhile.
        """
        uri = self.plan.slide.uri
        if self.version is not None and look(uri) != self.version:
            raise SlideChanged(uri)

    def shards_with_tissue(self) -> tuple[Shard, ...]:
        return tuple(shard for shard in self.plan.grid if self.tissue.touches(shard.window))

    @cached_property
    def near_tissue(self) -> frozenset[int]:
        """Shards that may hold nuclei, or pixels of one: those with tissue and their neighbours."""
        return frozenset(
            near.index for shard in self.shards_with_tissue() for near in self.plan.grid.around(shard)
        )

    def shards_near_tissue(self) -> tuple[Shard, ...]:
        """The shards of `near_tissue`, in order."""
        return tuple(self.plan.grid[index] for index in sorted(self.near_tissue))

    def cores(self, shard: Shard) -> tuple[Window, ...]:
        """The cores of a shard's tiles, network px: they hold all of its tissue."""
        occupied = self.tissue.touched(shard.window, self.plan.scale.to_level0(CELL).height)
        return self.tiling.cores(self.network_window(shard), occupied)

    def network_window(self, shard: Shard) -> Window:
        """The shard in network px, cut at the slide's edge."""
        return self.plan.scale.to_network(shard.window).intersect(self.plan.network_window)


@lru_cache(maxsize=4)
def open_run(ref: RunRef) -> Run:
    """The run of this process, opened once.

    Raises
    ------
    NoResultHere
        If the store holds no plan, or another one than the reference says.
    """
    cv2.setNumThreads(1)
    store = ResultStore(ref.uri)
    plan = Plan.from_json(store.get(PLAN))
    if plan.fingerprint != ref.fingerprint:
        raise NoResultHere(ref.uri)
    return Run(plan, store, ref.start)

"""Which px of every map a tile's core needs, and where the maps lie in memory. Integers only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from microtome.grid import Scale, Window
from microtome.unet.convolutions import Convolution, Seen, Source
from microtome.unet.lanes import BLOCK
from microtome.unet.layers import blocks_of

QUAD = Scale(up=1, down=2)
"""From the px of a map to its quads, and to the px of the level below."""
NOTHING = Window(0, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a map lies in memory: a window with a border of one px."""

    start: int
    window: Window
    channels: int

    @property
    def row(self) -> int:
        return (self.window.width + 2) * self.channels

    @property
    def end(self) -> int:
        return self.start + (self.window.height + 2) * self.row

    @property
    def at(self) -> int:
        """Of px (0, 0) of the level, which need not be in the window."""
        return self.start + (1 - self.window.y0) * self.row + (1 - self.window.x0) * self.channels


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What every convolution but the heads computes for one tile, and where it is kept."""

    convolutions: Sequence[Convolution]
    full: Sequence[Window]
    """Px of its level that others need."""
    pooled: Sequence[Window]
    """Px of the level below that others need."""
    places: Sequence[Mapping[Seen, Place]]
    """Of `full` (`SAME`) and `pooled`, where there are any. The first convolution and the last one have none:
    their px are used at once."""

    @property
    def size(self) -> int:
        """Numbers that all maps take."""
        return max(place.end for kept in self.places for place in kept.values())

    @property
    def largest_row(self) -> int:
        """Numbers of the longest row of a map."""
        return max(place.row for kept in self.places for place in kept.values())

    def quads(self, index: int) -> Window:
        """All that a convolution computes."""
        return _hull(QUAD.to_network(self.full[index]), self.pooled[index])

    def is_deepest(self, index: int) -> bool:
        """Whether a convolution's px are the largest of the network."""
        return self.convolutions[index].halvings == _deepest(self.convolutions)

    def place_of(self, source: Source) -> Place:
        """Where a source's px are."""
        assert source.index is not None  # the image has no place
        return self.places[source.index][Seen.POOLED if source.seen is Seen.POOLED else Seen.SAME]


def lay_out(convolutions: Sequence[Convolution], image: Window, core: Window) -> Layout:
    """What a tile needs.

    Parameters
    ----------
    image
        The tile, px of the image: beyond it are zeros.
    core
        Of the result: whole quads, px of the heads.
    """
    full, pooled = _needed(convolutions, image, core)
    return Layout(
        convolutions=convolutions, full=full, pooled=pooled, places=_places(convolutions, full, pooled)
    )


def _deepest(convolutions: Sequence[Convolution]) -> int:
    return max(each.halvings for each in convolutions)


def _needed(
    convolutions: Sequence[Convolution], image: Window, core: Window
) -> tuple[list[Window], list[Window]]:
    """Full and pooled px of every convolution but the heads, from the last to the first."""
    last = len(convolutions) - 2
    full, pooled = ([NOTHING] * (last + 1) for _ in range(2))
    full[last] = core
    for index in range(last, 0, -1):
        convolution = convolutions[index]
        if convolution.halvings < _deepest(convolutions):
            full[index] = QUAD.to_level0(QUAD.to_network(full[index]))
        if not pooled[index].is_empty:
            # The kernel pools every quad that it computes.
            pooled[index] = _hull(pooled[index], QUAD.to_network(full[index]))
        level = Scale(up=1, down=2**convolution.halvings).to_network(image)
        around = _hull(full[index], QUAD.to_level0(pooled[index])).grow(1).intersect(level)
        for source in convolution.sources:
            at = source.index
            assert at is not None  # only the first convolution sees the image
            if source.seen is Seen.SAME:
                full[at] = _hull(full[at], around)
            elif source.seen is Seen.POOLED:
                pooled[at] = _hull(pooled[at], around)
            else:
                full[at] = _hull(full[at], QUAD.to_network(around))
    return full, pooled


def _places(
    convolutions: Sequence[Convolution], full: Sequence[Window], pooled: Sequence[Window]
) -> list[dict[Seen, Place]]:
    """A place for every map: in the room of those that nothing needs any more."""
    last_use = {
        (source.index, source.seen is Seen.POOLED): index
        for index, convolution in enumerate(convolutions)
        for source in convolution.sources
    }
    found: list[dict[Seen, Place]] = [{} for _ in full]
    held: list[tuple[int, Place]] = []
    for index in range(1, len(full) - 1):
        held = [(until, place) for until, place in held if until >= index]
        channels = blocks_of(len(convolutions[index].kernel)) * BLOCK
        for seen, window in ((Seen.SAME, full[index]), (Seen.POOLED, pooled[index])):
            if not window.is_empty:
                place = _place(window, channels, [place for _, place in held])
                held.append((last_use[index, seen is Seen.POOLED], place))
                found[index][seen] = place
    return found


def _place(window: Window, channels: int, held: list[Place]) -> Place:
    """In the first gap that is large enough."""
    place = Place(start=0, window=window, channels=channels)
    for other in sorted(held, key=lambda other: other.start):
        if place.end <= other.start:
            break
        place = Place(start=max(place.start, other.end), window=window, channels=channels)
    return place


def _hull(one: Window, other: Window) -> Window:
    """The smallest window that holds both."""
    if one.is_empty or other.is_empty:
        return other if one.is_empty else one
    return Window(min(one.y0, other.y0), min(one.x0, other.x0), max(one.y1, other.y1), max(one.x1, other.x1))

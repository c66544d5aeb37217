"""A table of nuclei: columns and units.

Coordinates are level-0 px, corner-based (the centre of pixel (0, 0) is (0.5, 0.5)).
Outlines are ragged: nucleus i has vertices `outline_px[offsets[i]:offsets[i + 1]]`, (y, x),
not closed, a valid polygon whose coordinates are multiples of 1/16 px, exact in float32 up to
2**20 px and in every file we write.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zstandard

from microtome.arrays import Doubles, Floats, Ints

VERTEX_STEPS_PER_PX = 16
"""Outlines are rounded to 1/16 px, once, before anything is measured or painted."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Nuclei:
    """n nuclei, in the order of their ids where they have some."""

    prob: Floats
    """(n,) float32 in 0..1: the network's probability at the candidate point."""
    centre_px: Doubles
    """(n, 2) float64, (y, x): centroid of the outline."""
    area_px: Doubles
    """(n,) float64: area of the outline, level-0 px."""
    outline_px: Doubles
    """(m, 2) float64, (y, x): vertices of all outlines."""
    offsets: Ints
    """(n + 1,) int64: where each outline begins in `outline_px`."""

    def __len__(self) -> int:
        return len(self.prob)

    def take(self, rows: Ints) -> Self:
        """The given rows, in the given order."""
        counts = (self.offsets[1:] - self.offsets[:-1])[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        source = np.repeat(self.offsets[:-1][rows] - offsets[:-1], counts)
        source += np.arange(offsets[-1])
        return type(self)(
            prob=self.prob[rows],
            centre_px=self.centre_px[rows],
            area_px=self.area_px[rows],
            outline_px=self.outline_px[source],
            offsets=offsets,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All rows of the parts, in order."""
        if not parts:
            return cls.empty()
        starts = np.cumsum([0] + [len(part.outline_px) for part in parts])[:-1]
        tails = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=True)]
        return cls(
            prob=np.concatenate([part.prob for part in parts]),
            centre_px=np.concatenate([part.centre_px for part in parts]),
            area_px=np.concatenate([part.area_px for part in parts]),
            outline_px=np.concatenate([part.outline_px for part in parts]),
            offsets=np.concatenate([np.zeros(1, np.int64), *tails]),
        )

    def to_bytes(self) -> bytes:
        """For a file: the same nuclei give the same bytes."""
        columns = (
            np.array([len(self), len(self.outline_px)], "<i8"),
            self.offsets.astype("<i8"),
            self.prob.astype("<f4"),
            self.centre_px.astype("<f8"),
            self.area_px.astype("<f8"),
            (self.outline_px * VERTEX_STEPS_PER_PX).astype("<i4"),
        )
        content = b"".join(column.tobytes() for column in columns)
        return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(content)

    @classmethod
    def from_bytes(cls, text: bytes) -> Self:
        """The nuclei that `to_bytes` wrote.

        Raises
        ------
        zstandard.ZstdError
            If they are damaged.
        """
        content = memoryview(zstandard.ZstdDecompressor().decompress(text))
        count, vertices = np.frombuffer(content, "<i8", 2).tolist()
        at = 16

        def column(dtype: str, *shape: int) -> npt.NDArray[Any]:
            nonlocal at
            values = np.frombuffer(content, dtype, math.prod(shape), at).reshape(shape)
            at += values.nbytes
            return values

        offsets = column("<i8", count + 1).astype(np.int64)
        prob = column("<f4", count).astype(np.float32)
        centre, area = column("<f8", count, 2).astype(np.float64), column("<f8", count).astype(np.float64)
        outline = column("<i4", vertices, 2) / VERTEX_STEPS_PER_PX
        return cls(prob=prob, centre_px=centre, area_px=area, outline_px=outline, offsets=offsets)

    @classmethod
    def empty(cls) -> Self:
        return cls(
            prob=np.zeros(0, np.float32),
            centre_px=np.zeros((0, 2)),
            area_px=np.zeros(0),
            outline_px=np.zeros((0, 2)),
            offsets=np.zeros(1, np.int64),
        )

"""Products of matrices of a few rows, their sums held in registers: 12 by 16 run at the CPU's limit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from numba.core import cgutils

from microtome.unet.lanes import BLOCK, GROUP, Lanes, Value, Vectors, number, total

type Add = Callable[[Value, Value, Value], Value]
"""Of sums, 32 bits of a row in all lanes, and a vector of the right side: the sums and their products."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """Where the numbers of GROUP rows are; 32 bits are taken at a time: a float, two words or four bytes."""

    array: Vectors
    at: Value
    row_step: int
    """From a row to the next one."""
    outer_step: Value
    inner_step: Value
    """Along a row, in two loops."""
    count: Value
    """Of the outer one."""
    depth: int
    """Of the inner one."""


def multiply(
    left: Left, right: Vectors, right_at: Value, sums: Lanes, add: Add
) -> Iterator[tuple[int, int, Value]]:
    """Of GROUP rows by a block of columns: row, start in the block, sums of as many columns as lanes.

    `right` has per 32 bits of a row: what they are multiplied with, of each column.
    """
    builder = sums.builder
    rows, across = GROUP * sums.lanes // BLOCK, right.lanes // sums.lanes
    for row0 in range(0, GROUP, rows):
        held = [[cgutils.alloca_once(builder, sums.type) for _ in sums.starts] for _ in range(rows)]
        for each in chain.from_iterable(held):
            builder.store(sums.zeros, each)
        with cgutils.for_range(builder, left.count) as outer:
            left_first = total(
                builder, left.at, builder.mul(outer.index, left.outer_step), row0 * left.row_step
            )
            right_first = total(
                builder, right_at, builder.mul(outer.index, number(left.depth * across * BLOCK))
            )
            with cgutils.for_range(builder, number(left.depth)) as inner:
                right_row = total(builder, right_first, builder.mul(inner.index, number(across * BLOCK)))
                vectors = [right.load(total(builder, right_row, across * start)) for start in sums.starts]
                column = left.array.scalar(
                    total(builder, left_first, builder.mul(inner.index, left.inner_step))
                )
                for row, of_row in enumerate(held):
                    bits = right.splat_32(builder.gep(column, [number(row * left.row_step)]))
                    for vector, each in zip(vectors, of_row, strict=True):
                        builder.store(add(builder.load(each), bits, vector), each)
        for row, of_row in enumerate(held, row0):
            for start, each in zip(sums.starts, of_row, strict=True):
                yield row, start, builder.load(each)

"""What the kernels are made of, as vector instructions: products, and Winograd's points.

Each function here is one that numba compiles into its caller. They are written as instructions of LLVM
since no compiler finds these vectors in a loop.
"""

from itertools import chain
from typing import Any

from numba.core import cgutils, types
from numba.extending import intrinsic

from microtome.unet import products
from microtome.unet.lanes import BLOCK, INT, Builder, Value, Values, Vectors, array_of, number, total
from microtome.unet.products import Left

QUADS = 24
"""Quads that are computed at once, a multiple of `GROUP`."""
POINTS = 16
"""Of a patch, and of the quad that it gives."""
FIRST_DEPTH = 9
"""Numbers of a row of 3 px that the first convolution sees: 3 colours each."""

_ARRAY = array_of(types.float32)


def _arrays(context: Any, builder: Builder, *arrays: Value) -> list[Vectors]:
    return [Vectors(context, builder, array, types.float32) for array in arrays]


def _multiplier(depth: int, row_step: int) -> Any:
    """A product of (GROUP, count * depth) by (count * depth, BLOCK) numbers."""

    @intrinsic  # type: ignore[misc, unused-ignore]  # numba is untyped
    def multiply(typing, a, a_at, a_step, b, b_at, out, out_at, count):  # type: ignore[no-untyped-def] # noqa: PLR0913
        """out[r, :] = sum of a[a_at + r * row_step + i * a_step + k] * b[i * depth + k, :]; i < count."""
        signature = types.void(_ARRAY, INT, INT, _ARRAY, INT, _ARRAY, INT, INT)
        return signature, lambda context, builder, _, given: _multiply(
            context, builder, given, depth, row_step
        )

    return multiply


def _multiply(context: Any, builder: Builder, given: Values, depth: int, row_step: int) -> Value:
    a, a_at, a_step, b, b_at, out, out_at, count = given
    numbers, right, result = _arrays(context, builder, a, b, out)
    left = Left(
        array=numbers,
        at=a_at,
        row_step=row_step,
        outer_step=a_step,
        inner_step=number(1),
        count=count,
        depth=depth,
    )

    def add(sums: Value, factor: Value, vector: Value) -> Value:
        return right.fma(factor, vector, sums)

    for row, start, sums in products.multiply(left, right, b_at, result, add):
        result.store(total(builder, out_at, row * BLOCK + start), sums)
    return context.get_dummy_value()


multiply_blocks = _multiplier(BLOCK, BLOCK)
multiply_first = _multiplier(FIRST_DEPTH, 3)


def _spreader(side: int) -> Any:
    """Spreads a patch of `side` x `side` px: of 4, or of 3 of which the middle one is two."""

    @intrinsic  # type: ignore[misc, unused-ignore]  # numba is untyped
    def spread(typing, values, at, row, px, points, points_at, plane, blocks):  # type: ignore[no-untyped-def] # noqa: PLR0913
        """points[p, block] of one quad, `plane` from one p to the next; the patch begins at `at`."""
        signature = types.void(_ARRAY, INT, INT, INT, _ARRAY, INT, INT, INT)
        return signature, lambda context, builder, _, given: _spread(context, builder, given, side)

    return spread


def _spread(context: Any, builder: Builder, given: Values, side: int) -> Value:
    values, at, row, px, points, points_at, plane, blocks = given
    source, target = _arrays(context, builder, values, points)
    along = _spread_four if side == 4 else _spread_three
    with cgutils.for_range(builder, blocks) as loop:
        for start in source.starts:
            first = total(builder, at, builder.mul(loop.index, number(BLOCK)), start)
            out = total(builder, points_at, builder.mul(loop.index, number(QUADS * BLOCK)), start)
            columns = []
            for x in range(side):
                top = total(builder, first, builder.mul(px, number(x)))
                places = (total(builder, top, builder.mul(row, number(y))) for y in range(side))
                columns.append(along(builder, [source.load(place) for place in places]))
            for y in columns[0]:
                for x, value in along(builder, [column[y] for column in columns]).items():
                    target.store(total(builder, out, builder.mul(plane, number(4 * y + x))), value)
    return context.get_dummy_value()


def _spread_four(builder: Builder, d: Values) -> dict[int, Value]:
    return {
        0: builder.fsub(d[0], d[2]),
        1: builder.fadd(d[1], d[2]),
        2: builder.fsub(d[2], d[1]),
        3: builder.fsub(d[1], d[3]),
    }


def _spread_three(builder: Builder, d: Values) -> dict[int, Value]:
    """Those of d[0], d[1], d[1], d[2] that are not 0."""
    return {0: builder.fsub(d[0], d[1]), 1: builder.fadd(d[1], d[1]), 3: builder.fsub(d[1], d[2])}


spread_same, spread_enlarged = _spreader(4), _spreader(3)


def _gatherer(typing, points, at, bias, bias_at, quad, quad_at, row, px, full, pool, pool_at, pooled):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """quad[y * row + x * px] if `full`, pool[0], its largest px, if `pooled`: from points[p] of one block."""
    place, flag = (_ARRAY, INT), types.boolean
    return types.void(*place, *place, *place, INT, INT, flag, *place, flag), _gather


def _gather(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    points, at, bias, bias_at, quad, quad_at, row, px, full, pool, pool_at, pooled = given
    source, added, target, smaller = _arrays(context, builder, points, bias, quad, pool)
    for start in source.starts:
        columns = []
        for x in range(4):
            places = (total(builder, at, (4 * y + x) * QUADS * BLOCK + start) for y in range(4))
            columns.append(_gather_two(builder, [source.load(place) for place in places]))
        shift = added.load(total(builder, bias_at, start))
        rows = (_gather_two(builder, [column[y] for column in columns]) for y in range(2))
        found = [_larger(builder, builder.fadd(value, shift), source.zeros) for value in chain(*rows)]
        with builder.if_then(full):
            for corner, value in enumerate(found):
                y, x = divmod(corner, 2)
                steps = builder.add(builder.mul(row, number(y)), builder.mul(px, number(x)))
                target.store(total(builder, quad_at, steps, start), value)
        with builder.if_then(pooled):
            largest = _larger(builder, _larger(builder, *found[:2]), _larger(builder, *found[2:]))
            smaller.store(total(builder, pool_at, start), largest)
    return context.get_dummy_value()


gather: Any = intrinsic(_gatherer)


def _gather_two(builder: Builder, m: Values) -> list[Value]:
    return [
        builder.fadd(builder.fadd(m[0], m[1]), m[2]),
        builder.fsub(builder.fsub(m[1], m[2]), m[3]),
    ]


def _larger(builder: Builder, one: Value, other: Value) -> Value:
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def _activator(typing, sums, bias, bias_at, out, out_at, px, count):  # type: ignore[no-untyped-def]
    """Bias and ReLU for `count` rows of a product, each to a px of `out`."""
    return types.void(_ARRAY, _ARRAY, INT, _ARRAY, INT, INT, INT), _activate


def _activate(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    sums, bias, bias_at, out, out_at, px, count = given
    source, added, target = _arrays(context, builder, sums, bias, out)
    shifts = [added.load(total(builder, bias_at, start)) for start in source.starts]
    with cgutils.for_range(builder, count) as loop:
        first = builder.mul(loop.index, number(BLOCK))
        pixel = total(builder, out_at, builder.mul(loop.index, px))
        for start, shift in zip(source.starts, shifts, strict=True):
            value = builder.fadd(source.load(total(builder, first, start)), shift)
            target.store(total(builder, pixel, start), _larger(builder, value, source.zeros))
    return context.get_dummy_value()


activate: Any = intrinsic(_activator)

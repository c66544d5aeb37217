"""What the kernels are made of, as vector instructions: products, and Winograd's points.

Each function here is one that numba compiles into its caller. They are written as instructions of LLVM
since no compiler finds these vectors in a loop: 24 sums held in registers run at the CPU's limit.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

BLOCK = 16
"""Channels that are computed at once."""
QUADS = 24
"""Quads that are computed at once, a multiple of `GROUP`."""
GROUP = 12
"""Rows of a product whose sums are held in registers."""
POINTS = 16
"""Of a patch, and of the quad that it gives."""
FIRST_DEPTH = 9
"""Numbers of a row of 3 px that the first convolution sees: 3 colours each."""

_ARRAY = types.Array(types.float32, 1, "C")
_INT = types.int64
type _Builder = ir.IRBuilder
type _Value = ir.Value
type _Values = Sequence[ir.Value]


class _Vectors:
    """An array of a kernel, read and written by vectors. `lanes` of them make a block."""

    def __init__(self, context: Any, builder: _Builder, array: _Value) -> None:
        _, _, features = context.codegen().magic_tuple()
        self.lanes = 16 if "+avx512f" in features else 8
        self._fuses = "-fma" not in features.split(",")
        self.type = ir.VectorType(ir.FloatType(), self.lanes)
        self.zeros = ir.Constant(self.type, [0.0] * self.lanes)
        self.starts = range(0, BLOCK, self.lanes)
        self._builder = builder
        self._first = context.make_array(_ARRAY)(context, builder, array).data

    def scalar(self, at: _Value) -> _Value:
        """Where a number is."""
        return self._builder.gep(self._first, [at])

    def load(self, at: _Value) -> _Value:
        return self._builder.load(self._pointer(at), align=4)

    def store(self, at: _Value, vector: _Value) -> None:
        self._builder.store(vector, self._pointer(at), align=4)

    def splat(self, pointer: _Value) -> _Value:
        """One number in all lanes."""
        none = ir.Constant(self.type, ir.Undefined)
        first = self._builder.insert_element(none, self._builder.load(pointer), ir.IntType(32)(0))
        lanes = ir.VectorType(ir.IntType(32), self.lanes)
        return self._builder.shuffle_vector(first, none, ir.Constant(lanes, [0] * self.lanes))

    def fma(self, one: _Value, other: _Value, added: _Value) -> _Value:
        """one * other + added, rounded once; twice on CPUs that cannot, all of them older than 2014."""
        if not self._fuses:
            return self._builder.fadd(self._builder.fmul(one, other), added)
        kind = ir.FunctionType(self.type, [self.type] * 3)
        function = cgutils.get_or_insert_function(self._builder.module, kind, f"llvm.fma.v{self.lanes}f32")
        return self._builder.call(function, [one, other, added])

    def _pointer(self, at: _Value) -> _Value:
        return self._builder.bitcast(self._builder.gep(self._first, [at]), self.type.as_pointer())


def _int(number: int) -> ir.Constant:
    return ir.IntType(64)(number)


def _sum(builder: _Builder, *terms: _Value | int) -> _Value:
    values = [_int(term) if isinstance(term, int) else term for term in terms]
    total = values[0]
    for value in values[1:]:
        total = builder.add(total, value)
    return total


def _multiplier(depth: int, row_step: int) -> Any:
    """A product of (GROUP, count * depth) by (count * depth, BLOCK) numbers."""

    @intrinsic  # type: ignore[misc, unused-ignore]  # numba is untyped
    def multiply(typing, a, a_at, a_step, b, b_at, out, out_at, count):  # type: ignore[no-untyped-def] # noqa: PLR0913
        """out[r, :] = sum of a[a_at + r * row_step + i * a_step + k] * b[i * depth + k, :]; i < count."""
        signature = types.void(_ARRAY, _INT, _INT, _ARRAY, _INT, _ARRAY, _INT, _INT)
        return signature, lambda context, builder, _, given: _multiply(
            context, builder, given, depth, row_step
        )

    return multiply


def _multiply(context: Any, builder: _Builder, given: _Values, depth: int, row_step: int) -> _Value:
    a, a_at, a_step, b, b_at, out, out_at, count = given
    left, right, result = (_Vectors(context, builder, array) for array in (a, b, out))
    rows = GROUP * right.lanes // BLOCK
    for row0 in range(0, GROUP, rows):
        sums = [[cgutils.alloca_once(builder, right.type) for _ in right.starts] for _ in range(rows)]
        for each in chain.from_iterable(sums):
            builder.store(right.zeros, each)
        with cgutils.for_range(builder, count) as outer:
            a_first = _sum(builder, a_at, builder.mul(outer.index, a_step), row0 * row_step)
            b_first = _sum(builder, b_at, builder.mul(outer.index, _int(depth * BLOCK)))
            with cgutils.for_range(builder, _int(depth)) as inner:
                b_row = _sum(builder, b_first, builder.mul(inner.index, _int(BLOCK)))
                vectors = [right.load(_sum(builder, b_row, start)) for start in right.starts]
                column = left.scalar(_sum(builder, a_first, inner.index))
                for row, of_row in enumerate(sums):
                    factor = right.splat(builder.gep(column, [_int(row * row_step)]))
                    for vector, each in zip(vectors, of_row, strict=True):
                        builder.store(right.fma(factor, vector, builder.load(each)), each)
        for row, of_row in enumerate(sums, row0):
            for start, each in zip(right.starts, of_row, strict=True):
                result.store(_sum(builder, out_at, row * BLOCK + start), builder.load(each))
    return context.get_dummy_value()


multiply_blocks = _multiplier(BLOCK, BLOCK)
multiply_first = _multiplier(FIRST_DEPTH, 3)


def _spreader(side: int) -> Any:
    """Spreads a patch of `side` x `side` px: of 4, or of 3 of which the middle one is two."""

    @intrinsic  # type: ignore[misc, unused-ignore]  # numba is untyped
    def spread(typing, values, at, row, px, points, points_at, plane, blocks):  # type: ignore[no-untyped-def] # noqa: PLR0913
        """points[p, block] of one quad, `plane` from one p to the next; the patch begins at `at`."""
        signature = types.void(_ARRAY, _INT, _INT, _INT, _ARRAY, _INT, _INT, _INT)
        return signature, lambda context, builder, _, given: _spread(context, builder, given, side)

    return spread


def _spread(context: Any, builder: _Builder, given: _Values, side: int) -> _Value:
    values, at, row, px, points, points_at, plane, blocks = given
    source, target = _Vectors(context, builder, values), _Vectors(context, builder, points)
    along = _spread_four if side == 4 else _spread_three
    with cgutils.for_range(builder, blocks) as loop:
        for start in source.starts:
            first = _sum(builder, at, builder.mul(loop.index, _int(BLOCK)), start)
            out = _sum(builder, points_at, builder.mul(loop.index, _int(QUADS * BLOCK)), start)
            columns = []
            for x in range(side):
                top = _sum(builder, first, builder.mul(px, _int(x)))
                places = (_sum(builder, top, builder.mul(row, _int(y))) for y in range(side))
                columns.append(along(builder, [source.load(place) for place in places]))
            for y in columns[0]:
                for x, value in along(builder, [column[y] for column in columns]).items():
                    target.store(_sum(builder, out, builder.mul(plane, _int(4 * y + x))), value)
    return context.get_dummy_value()


def _spread_four(builder: _Builder, d: _Values) -> dict[int, _Value]:
    return {
        0: builder.fsub(d[0], d[2]),
        1: builder.fadd(d[1], d[2]),
        2: builder.fsub(d[2], d[1]),
        3: builder.fsub(d[1], d[3]),
    }


def _spread_three(builder: _Builder, d: _Values) -> dict[int, _Value]:
    """Those of d[0], d[1], d[1], d[2] that are not 0."""
    return {0: builder.fsub(d[0], d[1]), 1: builder.fadd(d[1], d[1]), 3: builder.fsub(d[1], d[2])}


spread_same, spread_enlarged = _spreader(4), _spreader(3)


def _gatherer(typing, points, at, bias, bias_at, quad, quad_at, row, px, full, pool, pool_at, pooled):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """quad[y * row + x * px] if `full`, pool[0], its largest px, if `pooled`: from points[p] of one block."""
    place, flag = (_ARRAY, _INT), types.boolean
    return types.void(*place, *place, *place, _INT, _INT, flag, *place, flag), _gather


def _gather(context: Any, builder: _Builder, _: Any, given: _Values) -> _Value:
    points, at, bias, bias_at, quad, quad_at, row, px, full, pool, pool_at, pooled = given
    source, added, target, smaller = (
        _Vectors(context, builder, array) for array in (points, bias, quad, pool)
    )
    for start in source.starts:
        columns = []
        for x in range(4):
            places = (_sum(builder, at, (4 * y + x) * QUADS * BLOCK + start) for y in range(4))
            columns.append(_gather_two(builder, [source.load(place) for place in places]))
        shift = added.load(_sum(builder, bias_at, start))
        rows = (_gather_two(builder, [column[y] for column in columns]) for y in range(2))
        found = [_larger(builder, builder.fadd(value, shift), source.zeros) for value in chain(*rows)]
        with builder.if_then(full):
            for corner, value in enumerate(found):
                y, x = divmod(corner, 2)
                steps = builder.add(builder.mul(row, _int(y)), builder.mul(px, _int(x)))
                target.store(_sum(builder, quad_at, steps, start), value)
        with builder.if_then(pooled):
            largest = _larger(builder, _larger(builder, *found[:2]), _larger(builder, *found[2:]))
            smaller.store(_sum(builder, pool_at, start), largest)
    return context.get_dummy_value()


gather: Any = intrinsic(_gatherer)


def _gather_two(builder: _Builder, m: _Values) -> list[_Value]:
    return [
        builder.fadd(builder.fadd(m[0], m[1]), m[2]),
        builder.fsub(builder.fsub(m[1], m[2]), m[3]),
    ]


def _larger(builder: _Builder, one: _Value, other: _Value) -> _Value:
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


def _activator(typing, sums, bias, bias_at, out, out_at, px, count):  # type: ignore[no-untyped-def]
    """Bias and ReLU for `count` rows of a product, each to a px of `out`."""
    return types.void(_ARRAY, _ARRAY, _INT, _ARRAY, _INT, _INT, _INT), _activate


def _activate(context: Any, builder: _Builder, _: Any, given: _Values) -> _Value:
    sums, bias, bias_at, out, out_at, px, count = given
    source, added, target = (_Vectors(context, builder, array) for array in (sums, bias, out))
    shifts = [added.load(_sum(builder, bias_at, start)) for start in source.starts]
    with cgutils.for_range(builder, count) as loop:
        first = builder.mul(loop.index, _int(BLOCK))
        pixel = _sum(builder, out_at, builder.mul(loop.index, px))
        for start, shift in zip(source.starts, shifts, strict=True):
            value = builder.fadd(source.load(_sum(builder, first, start)), shift)
            target.store(_sum(builder, pixel, start), _larger(builder, value, source.zeros))
    return context.get_dummy_value()


activate: Any = intrinsic(_activator)

"""What the kernels in int8 are made of, as vector instructions: products, and Winograd's points.

As `vectors.py`, in integers. Sums are taken modulo 2 ** 32: what is added and taken away again cancels to
the last bit, whatever lay between.
"""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from microtome.unet import products
from microtome.unet.lanes import (
    BLOCK,
    GROUP,
    INT,
    Builder,
    Lanes,
    Value,
    Values,
    Vectors,
    array_of,
    number,
    total,
)
from microtome.unet.products import Left

PATCHES = GROUP
"""Patches that are computed at once: as many as keep their sums in the first-level cache."""
SIDE = 4
"""Px of a patch of the output."""
SEEN = 6
"""Px of the patch of the input that it is made of."""
POINTS = SEEN**2

_NINTH = pow(9, -1, 2**32)
"""9 times this is 1 modulo 2 ** 32: so multiples of 9 are divided exactly."""

_BYTES, _WEIGHTS, _WORDS, _SUMS, _FLOATS = (
    array_of(kind) for kind in (types.uint8, types.int8, types.int16, types.int32, types.float32)
)


def _words(typing, a, a_at, a_step, b, b_at, out, out_at, count):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """out[r, c] = sum of a[a_at + r * BLOCK + i * a_step + k] * b[i, k // 2, c, k % 2]; i < count, k < BLOCK:
    a product of (GROUP, count * BLOCK) by (count * BLOCK, BLOCK) numbers."""
    return types.void(_WORDS, INT, INT, _WORDS, INT, _SUMS, INT, INT), _multiply_words


def _multiply_words(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    def add(right: Vectors, sums: Value, pair: Value, vector: Value) -> Value:
        return builder.add(sums, right.multiply_pairs(pair, vector))

    return _multiply(context, builder, given, (types.int16, types.int16), add)


def _multiply(
    context: Any, builder: Builder, given: Values, elements: tuple[Any, Any], add: Callable[..., Value]
) -> Value:
    """A product of numbers of two kinds, as many of a row at once as 32 bits hold."""
    a, a_at, a_step, b, b_at, out, out_at, count = given
    of_rows, of_weights = elements
    together = 32 // of_rows.bitwidth
    result = Vectors(context, builder, out, types.int32)
    right = Vectors(context, builder, b, of_weights, lanes=together * result.lanes)
    left = Left(
        array=Vectors(context, builder, a, of_rows),
        at=a_at,
        row_step=BLOCK,
        outer_step=a_step,
        inner_step=number(together),
        count=count,
        depth=BLOCK // together,
    )
    for row, start, sums in products.multiply(left, right, b_at, result, partial(add, right)):
        result.store(total(builder, out_at, row * BLOCK + start), sums)
    return context.get_dummy_value()


multiply_words: Any = intrinsic(_words)


def _bytes(typing, a, a_at, a_step, b, b_at, out, out_at, count):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """As `multiply_words`, of bytes: b[i, k // 4, c, k % 4]."""
    return types.void(_BYTES, INT, INT, _WEIGHTS, INT, _SUMS, INT, INT), _multiply_bytes


def _multiply_bytes(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    return _multiply(context, builder, given, (types.uint8, types.int8), Vectors.add_fours)


multiply_bytes: Any = intrinsic(_bytes)


def _entering(typing, planes, at, plane, row, b, b_at, scales, biases, channel, out, out_at, px):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """out[r * px + c], a block of the first convolution of GROUP px: of 3 planes and of 3 rows of each the
    4 px from `at` + r on, of which the last one counts nothing."""
    signature = types.void(_BYTES, INT, INT, INT, _WEIGHTS, INT, _FLOATS, _FLOATS, INT, _BYTES, INT, INT)
    return signature, _enter_px


def _enter_px(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    planes, at, plane, row, b, b_at, scales, biases, channel, out, out_at, px = given
    sums = Lanes(context, builder, types.int32)
    right = Vectors(context, builder, b, types.int8, lanes=4 * sums.lanes)
    target = Vectors(context, builder, out, types.uint8)
    left = Left(
        array=Vectors(context, builder, planes, types.uint8),
        at=at,
        row_step=1,
        outer_step=plane,
        inner_step=row,
        count=number(3),
        depth=3,
    )
    lines = _lines(context, builder, sums, (scales, biases, channel))
    waiting: dict[int, list[tuple[int, Value]]] = {start: [] for start in sums.starts}
    for r, start, value in products.multiply(left, right, b_at, sums, right.add_fours):
        waiting[start].append((r, lines[start // sums.lanes].nearest(value)))
        if len(waiting[start]) == 4:
            found = sums.bytes_of_four([each for _, each in waiting[start]])
            for (to, _), each in zip(waiting[start], found, strict=True):
                target.store(total(builder, out_at, builder.mul(px, number(to)), start), each)
            waiting[start] = []
    return context.get_dummy_value()


enter_px: Any = intrinsic(_entering)


def _moving(typing, values, at, to, count):  # type: ignore[no-untyped-def]
    """values[to + i] = values[at + i], i < count: numba's loop would take the bytes one by one."""
    return types.void(_BYTES, INT, INT, INT), _move


def _move(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    values, at, to, count = given
    array = Vectors(context, builder, values, types.uint8)
    cgutils.raw_memmove(builder, array.scalar(to), array.scalar(at), count, 1)
    return context.get_dummy_value()


move: Any = intrinsic(_moving)


def _looking_up(typing, values, at, table, out, to, count):  # type: ignore[no-untyped-def]
    """out[to + i] = table[values[at + i]], i < count: a byte a cycle, where numba's loop takes three."""
    return types.void(_BYTES, INT, _BYTES, _BYTES, INT, INT), _look_up


def _look_up(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    values, at, table, out, to, count = given
    source, found, target = (Vectors(context, builder, array, types.uint8) for array in (values, table, out))
    with cgutils.for_range(builder, count) as loop:
        value = builder.load(source.scalar(total(builder, at, loop.index)))
        place = found.scalar(builder.zext(value, ir.IntType(64)))
        builder.store(builder.load(place), target.scalar(total(builder, to, loop.index)))
    return context.get_dummy_value()


look_up: Any = intrinsic(_looking_up)


def _spreader(seen: list[int]) -> Any:
    """Spreads a patch of 6 x 6 px, those of the rows and columns `seen`."""

    @intrinsic  # type: ignore[misc, unused-ignore]  # numba is untyped
    def spread(typing, values, at, row, px, points, points_at, plane):  # type: ignore[no-untyped-def]
        """points[p] of one block of one patch, `plane` from one p to the next; the patch begins at `at`."""
        signature = types.void(_BYTES, INT, INT, INT, _WORDS, INT, INT)
        return signature, lambda context, builder, _, given: _spread(context, builder, given, seen)

    return spread


def _spread(context: Any, builder: Builder, given: Values, seen: list[int]) -> Value:
    values, at, row, px, points, points_at, plane = given
    source = Vectors(context, builder, values, types.uint8, lanes=BLOCK)
    target = Vectors(context, builder, points, types.int16, lanes=BLOCK)
    columns = []
    for x in range(max(seen) + 1):
        top = total(builder, at, builder.mul(px, number(x)))
        places = [total(builder, top, builder.mul(row, number(y))) for y in range(max(seen) + 1)]
        column = [builder.zext(source.load(place), target.type) for place in places]
        columns.append(_spread_line(builder, [column[y] for y in seen]))
    for y in range(SEEN):
        for x, value in enumerate(_spread_line(builder, [columns[x][y] for x in seen])):
            target.store(total(builder, points_at, builder.mul(plane, number(SEEN * y + x))), value)
    return context.get_dummy_value()


def _spread_line(builder: Builder, d: Values) -> Values:
    add, sub = builder.add, builder.sub

    def twice(value: Value) -> Value:
        return add(value, value)

    even, odd = sub(d[4], d[2]), twice(sub(d[3], d[1]))
    even_far, odd_far = sub(d[4], twice(twice(d[2]))), sub(d[3], twice(twice(d[1])))
    return [
        add(twice(twice(sub(d[0], d[2]))), even),
        add(even_far, odd_far),
        sub(even_far, odd_far),
        add(even, odd),
        sub(even, odd),
        sub(sub(d[5], d[3]), twice(odd)),
    ]


spread_same, spread_enlarged = _spreader([0, 1, 2, 3, 4, 5]), _spreader([0, 1, 1, 2, 2, 3])


def _gathering(  # type: ignore[no-untyped-def] # noqa: PLR0913
    typing, points, at, scales, biases, channel, patch, patch_at, row, px, kept, pool, pool_at, pool_row,
    pool_px, pooled,
):  # fmt: skip
    """patch[y * row + x * px] of the px whose bit in `kept` is set; pool[y * pool_row + x * pool_px],
    the largest px of the quads whose bit in `pooled` is: from points[p] of one block."""
    place = (_BYTES, INT, INT, INT, INT)
    return types.void(_SUMS, INT, _FLOATS, _FLOATS, INT, *place, *place), _gather


def _gather(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    points, at, scales, biases, channel, patch, patch_at, row, px, kept, pool, pool_at, *pool_steps = given
    pool_row, pool_px, pooled = pool_steps
    source = Vectors(context, builder, points, types.int32)
    target, smaller = (Vectors(context, builder, array, types.uint8) for array in (patch, pool))

    def store(
        array: Vectors, at: Value, steps: tuple[Value, Value], place: tuple[int, int], value: Value
    ) -> None:
        along = (builder.mul(step, number(count)) for step, count in zip(steps, place, strict=True))
        array.store(total(builder, at, *along), value)

    for start, line in zip(
        source.starts, _lines(context, builder, source, (scales, biases, channel)), strict=True
    ):
        sums = _gather_patch(builder, source, total(builder, at, start))
        to, pool_to = (total(builder, first, start) for first in (patch_at, pool_at))
        for quad in range(4):
            top, left = divmod(quad, 2)
            corners = [(2 * top + y, 2 * left + x) for y in range(2) for x in range(2)]
            values = source.bytes_of_four([line.nearest(sums[SIDE * y + x]) for y, x in corners])
            for (y, x), value in zip(corners, values, strict=True):
                with builder.if_then(_has_bit(builder, kept, SIDE * y + x)):
                    store(target, to, (row, px), (y, x), value)
            with builder.if_then(_has_bit(builder, pooled, quad)):
                largest = values[0]
                for value in values[1:]:
                    larger = builder.icmp_unsigned(">", largest, value)
                    largest = builder.select(larger, largest, value)
                store(smaller, pool_to, (pool_row, pool_px), (top, left), largest)
    return context.get_dummy_value()


gather: Any = intrinsic(_gathering)


def _gather_patch(builder: Builder, source: Vectors, at: Value) -> list[Value]:
    """GATHERED times the sums of a patch's px, row by row, from points[p] of one block."""
    columns = []
    for x in range(SEEN):
        places = (total(builder, at, (SEEN * y + x) * PATCHES * BLOCK) for y in range(SEEN))
        columns.append(_gather_line(builder, [source.load(place) for place in places]))
    rows = (_gather_line(builder, [column[y] for column in columns]) for y in range(SIDE))
    ninth = ir.Constant(source.type, [_NINTH] * source.lanes)
    return [builder.mul(value, ninth) for value in chain(*rows)]


def _gather_line(builder: Builder, m: Values) -> list[Value]:
    add, sub = builder.add, builder.sub
    near, near_odd, far, far_odd = add(m[1], m[2]), sub(m[1], m[2]), add(m[3], m[4]), sub(m[3], m[4])

    def twice(value: Value) -> Value:
        return add(value, value)

    return [
        add(add(m[0], near), far),
        add(near_odd, twice(far_odd)),
        add(near, twice(twice(far))),
        add(near_odd, twice(twice(add(twice(far_odd), m[5])))),
    ]


def _has_bit(builder: Builder, bits: Value, bit: int) -> Value:
    return builder.icmp_signed("!=", builder.and_(bits, number(1 << bit)), number(0))


def _leaving(typing, sums, at, scales, biases, channel, out, out_at):  # type: ignore[no-untyped-def]
    """out[c] = sums[c] * scales[c] + biases[c], of a block."""
    return types.void(_SUMS, INT, _FLOATS, _FLOATS, INT, _FLOATS, INT), _leave_px


def _leave_px(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    sums, at, scales, biases, channel, out, out_at = given
    source = Vectors(context, builder, sums, types.int32)
    target = Vectors(context, builder, out, types.float32)
    lines = _lines(context, builder, source, (scales, biases, channel))
    for start, line in zip(source.starts, lines, strict=True):
        found = line.at(source.load(total(builder, at, start)))
        target.store(total(builder, out_at, start), found)
    return context.get_dummy_value()


leave_px: Any = intrinsic(_leaving)


def _summing(typing, a, a_at, a_step, b, b_at, out, out_at, count):  # type: ignore[no-untyped-def] # noqa: PLR0913
    """out[r] = sum of a[a_at + r * BLOCK + i * a_step + k] * b[i * BLOCK + k]; r < GROUP, i < count,
    k < BLOCK: as `multiply_bytes`, for a single column."""
    return types.void(_BYTES, INT, INT, _WEIGHTS, INT, _SUMS, INT, INT), _sum_bytes


def _sum_bytes(context: Any, builder: Builder, _: Any, given: Values) -> Value:
    a, a_at, a_step, b, b_at, out, out_at, count = given
    sums, target = Lanes(context, builder, types.int32), Vectors(context, builder, out, types.int32)
    left = Vectors(context, builder, a, types.uint8, lanes=4 * sums.lanes)
    right = Vectors(context, builder, b, types.int8, lanes=BLOCK)
    together = left.lanes // BLOCK
    every_row = ir.Constant(ir.VectorType(ir.IntType(32), left.lanes), list(range(BLOCK)) * together)
    held = [cgutils.alloca_once(builder, sums.type) for _ in range(GROUP // together)]
    for each in held:
        builder.store(sums.zeros, each)
    with cgutils.for_range(builder, count) as loop:
        weights = right.load(total(builder, b_at, builder.mul(loop.index, number(BLOCK))))
        weights = builder.shuffle_vector(weights, weights, every_row)
        first = total(builder, a_at, builder.mul(loop.index, a_step))
        for i, each in enumerate(held):
            px = left.load(total(builder, first, i * left.lanes))
            builder.store(left.add_fours(builder.load(each), px, weights), each)
    for i, each in enumerate(held):
        found = builder.load(each)
        # Four sums of a row: of neighbours first, then of pairs.
        for step in (1, 2):
            places = ir.Constant(found.type, [lane ^ step for lane in range(sums.lanes)])
            found = builder.add(found, builder.shuffle_vector(found, found, places))
        for row in range(together):
            value = builder.extract_element(found, ir.IntType(32)(4 * row))
            builder.store(value, target.scalar(total(builder, out_at, i * together + row)))
    return context.get_dummy_value()


sum_bytes: Any = intrinsic(_summing)


class _Line:
    """From the sums of a block's channels to the output: times a scale and a bias more, of each channel."""

    def __init__(self, sums: Lanes, scales: Value, biases: Value) -> None:
        self._sums, self._scales, self._biases = sums, scales, biases

    def at(self, sums: Value) -> Value:
        """As float32."""
        floats = self._sums.builder.sitofp(sums, self._sums.floats)
        return self._sums.fma(floats, self._scales, self._biases)

    def nearest(self, sums: Value) -> Value:
        """As the nearest int32."""
        return self._sums.nearest(self.at(sums))


def _lines(context: Any, builder: Builder, sums: Lanes, given: Values) -> list[_Line]:
    """One for each of a block's vectors; of the arrays of scales and of biases and where the block is."""
    scales, biases, at = given
    arrays = [Vectors(context, builder, array, types.float32) for array in (scales, biases)]
    return [
        _Line(sums, *(array.load(total(builder, at, start)) for array in arrays)) for start in sums.starts
    ]

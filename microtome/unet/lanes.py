"""Arrays of a kernel as vectors of LLVM, for the functions that numba compiles into the kernels."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

BLOCK = 16
"""Channels that are computed at once."""
GROUP = 12
"""Rows of a product whose sums are held in registers."""

INT = types.int64
type Builder = ir.IRBuilder
type Value = ir.Value
type Values = Sequence[ir.Value]

_WORD, _LONG = ir.IntType(16), ir.IntType(32)


def array_of(element: Any) -> types.Array:
    """Numba's type of a flat array."""
    return types.Array(element, 1, "C")


def number(value: int) -> ir.Constant:
    return ir.IntType(64)(value)


def total(builder: Builder, *terms: Value | int) -> Value:
    """The sum of some int64."""
    values = [number(term) if isinstance(term, int) else term for term in terms]
    found = values[0]
    for value in values[1:]:
        found = builder.add(found, value)
    return found


class Lanes:
    """Vectors of numbers of one kind. `starts` are those of a block's."""

    def __init__(self, context: Any, builder: Builder, element: Any, lanes: int | None = None) -> None:
        """`lanes`: if it is not said, as many as the CPU's registers hold of float32."""
        _, _, features = context.codegen().magic_tuple()
        self._features = frozenset(features.split(","))
        self.lanes = lanes or (16 if "+avx512bw" in self._features else 8)
        kind = context.get_value_type(element)
        self.type = ir.VectorType(kind, self.lanes)
        self.floats = ir.VectorType(ir.FloatType(), self.lanes)
        self.zeros = ir.Constant(self.type, [kind(0)] * self.lanes)
        self.starts = range(0, BLOCK, self.lanes)
        self.builder = builder
        self.bytes = element.bitwidth // 8

    def splat_32(self, pointer: Value) -> Value:
        """A float, two words or four bytes, one after the other, all over a vector."""
        bits = self.builder.load(self.builder.bitcast(pointer, _LONG.as_pointer()), align=1)
        return self.builder.bitcast(_splat(self.builder, bits, self.lanes * self.bytes // 4), self.type)

    def fma(self, one: Value, other: Value, added: Value) -> Value:
        """one * other + added, rounded once; twice on CPUs that cannot, all of them older than 2014."""
        if "-fma" in self._features:
            return self.builder.fadd(self.builder.fmul(one, other), added)
        return self._call(f"llvm.fma.v{self.lanes}f32", self.floats, [one, other, added])

    def nearest(self, numbers: Value) -> Value:
        """Floats as int32, of two that are as near the even one; they must be within its range."""
        kind = ir.VectorType(_LONG, self.lanes)
        return self._call(f"llvm.lrint.v{self.lanes}i32.v{self.lanes}f32", kind, [numbers])

    def multiply_pairs(self, one: Value, other: Value) -> Value:
        """Products of words, those of two lanes summed to an int32.

        LLVM makes one instruction of it and of the sum that it is added to, where the CPU has VNNI.
        """
        lanes = one.type.count
        name = {32: "avx512.pmaddw.d.512", 16: "avx2.pmadd.wd"}[lanes]
        return self._call(f"llvm.x86.{name}", ir.VectorType(_LONG, lanes // 2), [one, other])

    def add_fours(self, sums: Value, one: Value, other: Value) -> Value:
        """Sums, and the products of unsigned bytes and signed ones, those of four lanes to an int32."""
        if self._features & {"+avx512vnni", "+avxvnni"}:
            return self._call(f"llvm.x86.avx512.vpdpbusd.{8 * self.lanes}", sums.type, [sums, one, other])
        builder, words = self.builder, ir.VectorType(_WORD, self.lanes // 2)
        eight = ir.Constant(words, [8] * words.count)
        one, other = (builder.bitcast(value, words) for value in (one, other))
        low = builder.lshr(builder.shl(one, eight), eight), builder.ashr(builder.shl(other, eight), eight)
        high = builder.lshr(one, eight), builder.ashr(other, eight)
        for pair in (low, high):
            sums = builder.add(sums, self.multiply_pairs(*pair))
        return sums

    def bytes_of_four(self, numbers: Values) -> list[Value]:
        """Four vectors of int32 as bytes, 0 for those below and 255 for those above."""
        bits = 32 * self.lanes
        to_words, to_bytes = {
            512: ("avx512.packssdw.512", "avx512.packuswb.512"),
            256: ("avx2.packssdw", "avx2.packuswb"),
        }[bits]
        words, octets = (ir.VectorType(ir.IntType(size), bits // size) for size in (16, 8))
        pairs = [self._call(f"llvm.x86.{to_words}", words, numbers[i : i + 2]) for i in (0, 2)]
        # Four bytes of each of the four vectors, then the next four of each.
        packed = self.builder.bitcast(self._call(f"llvm.x86.{to_bytes}", octets, pairs), self.type)
        found = []
        for vector in range(4):
            places = ir.Constant(ir.VectorType(_LONG, self.lanes // 4), list(range(vector, self.lanes, 4)))
            own = self.builder.shuffle_vector(packed, packed, places)
            found.append(self.builder.bitcast(own, ir.VectorType(ir.IntType(8), self.lanes)))
        return found

    def _call(self, name: str, result: Any, given: Values) -> Value:
        kind = ir.FunctionType(result, [value.type for value in given])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), given)


class Vectors(Lanes):
    """An array of a kernel, read and written by vectors."""

    def __init__(
        self, context: Any, builder: Builder, array: Value, element: Any, lanes: int | None = None
    ) -> None:
        super().__init__(context, builder, element, lanes)
        self._first = context.make_array(array_of(element))(context, builder, array).data

    def scalar(self, at: Value) -> Value:
        """Where a number is."""
        return self.builder.gep(self._first, [at])

    def load(self, at: Value) -> Value:
        return self.builder.load(self._pointer(at), align=self.bytes)

    def store(self, at: Value, vector: Value) -> None:
        self.builder.store(vector, self._pointer(at), align=self.bytes)

    def _pointer(self, at: Value) -> Value:
        return self.builder.bitcast(self.scalar(at), self.type.as_pointer())


def _splat(builder: Builder, value: Value, lanes: int) -> Value:
    none = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(none, value, _LONG(0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(_LONG, lanes), [0] * lanes))

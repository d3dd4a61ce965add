"""What a compiled program moves: bytes that it reads, and messages between its devices.

XLA's own count charges a program that reads one expert of 32 for all of them, as soon as the read
happens inside a fused loop. This counter reads the optimized program as XLA prints it and charges a
slice for what it takes. On a TPU only the large memory counts (HBM): what lies in the fast memory
was charged when it was fetched, and an array is as large as the whole tiles that it occupies.

Source: the text format of XLA's HLO; sizes of tiles: https://openxla.org/xla/tiled_layout.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

SIZES = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # bits; other names end in theirs: f32, u8
COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
# They name something, or make it from nothing: nothing is read.
FREE = {
    "parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "after-all",
    "partition-id", "replica-id", "optimization-barrier", "add-dependency", "while", "conditional",
    "call", "async-start", "async-update", "rng-get-and-update-state",
}  # fmt: skip
CALLERS = ("while", "conditional", "call", "async-start")
SLICES = ("dynamic-slice", "slice", "gather")
UPDATES = ("dynamic-update-slice", "scatter")
# In a fused loop they pass on, one by one, just the elements that are asked for.
ELEMENTWISE = {"bitcast", "copy", "convert", "reshape", "transpose", "bitcast-convert"}


# Dimensions of each part that is taken of an array; None: all of it.
Parts = list[tuple[int, ...]] | None


class Op(NamedTuple):
    """One instruction: `kind` is its opcode, `shape` and `more` are as printed. The operand of a
    parameter is its number, that of a constant its value.
    """

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    more: str
    root: bool


class Program(NamedTuple):
    """Computations by name, each an ordered table of its instructions; `entry` is the first one."""

    computations: dict[str, dict[str, Op]]
    entry: str


def parse(text: str) -> Program:
    """Read a module as `compiled.as_text()` prints it. Raises ValueError if there is no entry."""
    computations: dict[str, dict[str, Op]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (op := _read_op(line)):
            current[op.name] = op
    if not entry:
        raise ValueError(f"this is no HLO module: found no ENTRY in {text[:60]!r}")
    return Program(computations, entry)


def _read_op(line: str) -> Op | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    begin = found.end()
    end = _closing(line, begin) if line[begin] == "(" else line.index(" ", begin)
    head = re.match(r"\s*([\w\-]+)\(", line[end:])
    assert head, f"no opcode in {line[:200]!r}"
    first = end + head.end() - 1
    last = _closing(line, first)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[first:last]))
    if head[1] in ("parameter", "constant"):
        operands = (line[first + 1 : last - 1],)
    return Op(found[2], line[begin:end], head[1], operands, line[last:], bool(found[1]))


def _closing(line: str, begin: int) -> int:
    """Just after the parenthesis that closes the one at `begin`."""
    depth = 0
    for place in range(begin, len(line)):
        depth += (line[place] == "(") - (line[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"a parenthesis is not closed: {line[begin : begin + 80]!r}")


class Array(NamedTuple):
    """One array of a shape: dimensions, and how it lies in which memory."""

    kind: str
    dims: tuple[int, ...]
    layout: str

    @property
    def bits(self) -> int:
        """Bits of one element."""
        return SIZES[self.kind] if self.kind in SIZES else int(re.findall(r"\d+", self.kind)[0])

    @property
    def far(self) -> bool:
        """In the large memory? Others are marked S(1), S(2) …; a number is in a register."""
        return bool(self.dims) and not re.search(r"S\([1-9]", self.layout)

    def bytes(self, dims: tuple[int, ...] | None = None) -> int:
        """Bytes of the tiles that it fills, or that a part of it with these `dims` fills."""
        filled = list(self.dims if dims is None else dims)
        order = [int(axis) for axis in re.findall(r"\d+", self.layout.split(":")[0])]
        if tile := re.search(r":T\(([\d,]+)\)", self.layout):
            for size, axis in zip(reversed(tile[1].split(",")), order, strict=False):
                filled[axis] = -(-filled[axis] // int(size)) * int(size)
        return math.prod(filled) * self.bits // 8


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape, which may be a tuple."""
    found = re.findall(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?", shape)
    return [
        Array(kind, tuple(map(int, filter(None, dims.split(",")))), layout)
        for kind, dims, layout in found
    ]


def walk(program: Program, inside: tuple[str, ...] = ()) -> Iterator[tuple[Op, dict[str, Op], int]]:
    """(instruction, its computation, times it runs): bodies of loops and functions included, and of
    the kinds `inside`.

    A branch counts as if it were taken. Raises ValueError for a loop that XLA cannot count.
    """
    pending = [(program.entry, 1)]
    while pending:
        name, times = pending.pop()
        computation = program.computations[name]
        for op in computation.values():
            yield op, computation, times
            if op.kind in (*CALLERS, *inside):
                pending += [(called, times * trips(op, program)) for called in called_by(op)]


def trips(op: Op, program: Program) -> int:
    """How often a loop's body runs; 1 for what is no loop.

    The TPU compiler does not say; there the loop's condition does, since the loops that jax makes
    count from zero by one. Raises ValueError for any other loop.
    """
    if op.kind != "while":
        return 1
    if known := re.search(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)', op.more):
        return int(known[1])
    condition = program.computations[re.findall(r"condition=%?([\w.\-]+)", op.more)[0]]
    test = next(each for each in condition.values() if each.root)
    ends = [
        condition[name].operands[0] for name in test.operands if condition[name].kind == "constant"
    ]
    if test.kind != "compare" or "direction=LT" not in test.more or len(ends) != 1:
        raise ValueError(f"nobody knows how often the loop {op.name} runs: it cannot be counted")
    return int(ends[0])


def called_by(op: Op) -> list[str]:
    """Names of the computations that an instruction runs."""
    words = r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    found = re.findall(words, op.more)
    for many in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", op.more):
        found += re.findall(r"%?([\w.\-]+)", many)
    return found


# --- bytes ---


def bytes_read(text: str) -> int:
    """Bytes that one run of a compiled program reads from the large memory of its device."""
    program = parse(text)
    return sum(
        times * _op_bytes(op, computation, program) for op, computation, times in walk(program)
    )


def largest_reads(text: str, count: int = 10) -> list[tuple[int, str]]:
    """The instructions that read the most: (bytes in all their runs, name), largest first."""
    program = parse(text)
    found = [(times * _op_bytes(op, c, program), op.name) for op, c, times in walk(program)]
    return sorted(found, reverse=True)[:count]


def _op_bytes(op: Op, computation: dict[str, Op], program: Program) -> int:
    if op.kind in FREE or op.kind.endswith("-done"):
        return 0
    sources = [arrays(computation[name].shape) for name in op.operands]
    if op.kind == "fusion":
        body = program.computations[called_by(op)[0]]
        return sum(_fused(body, index, each, program) for index, each in enumerate(sources))
    if op.kind.removesuffix("-start") in SLICES:
        result = arrays(op.shape)[1 if op.kind.endswith("-start") else 0]
        far = [array for array in sources[0] if array.far]
        return sum(array.bytes(_fit(result.dims, array)) for array in far) + _whole(sources[1:])
    if op.kind in UPDATES:
        return _whole(sources[1:])  # the rest stays where it is
    return _whole(sources)


def _whole(sources: list[list[Array]]) -> int:
    return sum(array.bytes() for source in sources for array in source if array.far)


def _fit(dims: tuple[int, ...], array: Array) -> tuple[int, ...]:
    """A slice's dimensions, if they are those of a part of the array; else as many elements."""
    if len(dims) == len(array.dims) and all(a <= b for a, b in zip(dims, array.dims, strict=True)):
        return dims
    ones = (1,) * (len(array.dims) - 1)
    return (*ones, math.prod(dims))


def _fused(body: dict[str, Op], index: int, source: list[Array], program: Program) -> int:
    """Bytes that a fused loop reads of its operand number `index`."""
    far = [array for array in source if array.far]
    whole = sum(array.bytes() for array in far)
    parts = _parts(_parameter(body, index), body, program) if far else []
    if parts is None:
        return whole
    return min(whole, sum(far[0].bytes(_fit(dims, far[0])) for dims in parts))


def _parameter(body: dict[str, Op], index: int) -> str:
    return next(n for n, o in body.items() if o.kind == "parameter" and o.operands == (str(index),))


def _parts(
    name: str, body: dict[str, Op], program: Program, beyond: Callable[[], Parts] | None = None
) -> Parts:
    """What a fused loop takes of one of its arrays; `beyond` says what is taken of its result."""
    parts: list[tuple[int, ...]] = []
    if body[name].root:
        return beyond() if beyond else None
    for op in body.values():
        for place in (n for n, operand in enumerate(op.operands) if operand == name):
            below: Parts = None
            if op.kind in SLICES and place == 0:
                below = [arrays(op.shape)[0].dims]
            elif op.kind in UPDATES and place == 0:
                below = []
            elif op.kind == "fusion":
                inner = program.computations[called_by(op)[0]]
                after = functools.partial(_parts, op.name, body, program, beyond)
                below = _parts(_parameter(inner, place), inner, program, after)
            elif op.kind in ELEMENTWISE:
                below = _parts(op.name, body, program, beyond)
            if below is None:
                return None
            parts += below
    return parts


# --- messages ---


@dataclasses.dataclass(frozen=True)
class Messages:
    """Collectives of one kind in one run: how many, and the bytes of their results."""

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Messages]:
    """What devices send each other in one run of a compiled program, by kind of collective."""
    found: dict[str, Messages] = {}
    for op, _, times in walk(parse(text), inside=("fusion",)):
        kind = op.kind.removesuffix("-start")
        if kind in COLLECTIVES:
            results = arrays(op.shape)
            if op.kind in ("all-gather-start", "collective-permute-start"):
                results = results[1:2]  # they name what is sent, then what comes
            size = sum(math.prod(array.dims) * array.bits // 8 for array in results)
            old = found.get(kind, Messages(0, 0))
            found[kind] = Messages(old.count + times, old.bytes + times * size)
    return found

"""What a compiled program reads and writes, and which collectives it has, by the text of its optimised HLO.

XLA's own figure ("bytes accessed") isn't given for NVIDIA's GPUs and is one number; this counts by the same rule (what
each operation that is not fused into another reads and writes, the slices of what is only sliced) and by the part of
the program. It is an upper bound of the memory's traffic: what stays in a cache between two operations is counted.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # others have them in their names: f32, bf16, u8, f8e4m3fn
_ARRAY = re.compile(r"\b(pred|token|opaque|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")

# They give names to what is in memory already, or are the ends of what a -start began.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_SLICING = {"dynamic-slice", "slice", "gather"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclass(frozen=True)
class Instruction:
    name: str
    kind: str  # "fusion"
    shape: str  # the type of what it gives
    size: int  # bytes of that
    operands: tuple[str, ...]
    rest: str  # of the line: what it calls, its metadata


@dataclass(frozen=True)
class Traffic:
    """Bytes that one operation reads and writes, and where it comes from."""

    name: str
    kind: str
    scope: str  # JAX's name stack: "jit(train_step)/jvp(VisionTransformer)/block_00/mlp/dense_0/dot_general"
    size: int
    times: int = 1  # it is done: the turns of its loops; counted in `size`
    taken: int = 0  # bytes of its operands, each time
    collective: str = ""  # its kind, where devices take part in it together
    group: int = 0  # so many of them; 0: all


Program = dict[str, list[Instruction]]  # computations by name; "" is the entry


def parse(text: str) -> Program:
    """The computations of a module's text (`compiled.as_text()`)."""
    program: Program = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            body = program.setdefault(header[2], [])
            if header[1]:
                program[""] = body
        elif found := _INSTRUCTION.match(line):
            operands, rest = _operands(found[4])
            body.append(Instruction(found[1], found[3], found[2], shape_bytes(found[2]), operands, rest))
    return program


def shape_bytes(shape: str) -> int:
    """ "(f32[2,3]{1,0}, u8[4])" -> 28: bytes that all arrays in it take in the device's memory, padded as it pads them.

    Those that lie elsewhere, like a TPU's own scratch memory ("S(1)"), take none.
    """
    return sum(_array_bytes(*found) for found in _ARRAY.findall(shape))


def _array_bytes(dtype: str, sides: str, layout: str) -> int:
    if re.search(r"S\([1-9]\d*\)", layout):
        return 0
    match = re.match(r"[a-z]+(\d+)", dtype)
    bits = _BITS[dtype] if dtype in _BITS else int(match[1]) if match else 0
    shape = [int(side.strip("<=")) for side in sides.split(",") if side]
    order, _, tiles = layout.partition(":")
    if tile := re.match(r"T\((\d+(?:,\d+)*)\)", tiles):  # of the axes that change fastest
        for axis, side in zip(re.findall(r"\d+", order), reversed(tile[1].split(",")), strict=False):
            shape[int(axis)] = -(-shape[int(axis)] // int(side)) * int(side)
    return -(-bits * math.prod(shape) // 8)


def _operands(text: str) -> tuple[tuple[str, ...], str]:
    """ "%a, f32[2]{0} %b), calls=%c" -> (("a", "b"), "calls=%c")"""
    depth, end = 1, 0
    while depth and end < len(text):
        depth += (text[end] in "({[") - (text[end] in ")}]")
        end += 1
    inside, rest = text[: end - 1], text[end:]
    if inside.isdecimal():  # a parameter's
        return (inside,), rest
    return tuple(re.findall(r"%([\w.\-]+)", re.sub(r"/\*.*?\*/", "", inside))), rest


def traffic(program: Program) -> Iterator[Traffic]:
    """Every operation of the program that reads or writes memory, those of a loop times its turns."""
    yield from _traffic(program, program[""], 1)


def _traffic(program: Program, body: list[Instruction], times: int) -> Iterator[Traffic]:
    sizes = {one.name: one.size for one in body}
    anywhere = {one.name: shape_bytes(re.sub(r"S\(\d+\)", "", one.shape)) for one in body}
    users = {name: one for one in reversed(body) for name in one.operands}
    for one in body:
        kind = one.kind
        if kind in _FREE or kind.endswith("-done") or kind.endswith("-update"):
            continue
        if kind == "while":
            inside = re.search(r"body=%?([\w.\-]+)", one.rest)
            yield from _traffic(program, program[inside[1]] if inside else [], times * _turns(program, one))
        elif kind == "conditional":
            # The branch that does most.
            branches = [list(_traffic(program, program[name], times)) for name in _called(one.rest)]
            yield from max(branches, key=lambda branch: sum(each.size for each in branch), default=[])
        elif kind in ("call", "async-start"):
            for name in _called(one.rest):
                yield from _traffic(program, program[name], times)
        else:
            taken = sum(anywhere.get(name, 0) for name in one.operands)
            size = times * _touched(program, one, sizes)
            yield Traffic(one.name, kind, _scope_of(one, users), size, times, taken, *_collective_of(program, one))


def _turns(program: Program, loop: Instruction) -> int:
    """How often a loop goes round; 1 of one whose end isn't known."""
    if known := re.search(r'known_trip_count\D+"?(\d+)', loop.rest):
        return int(known[1])
    # For a TPU it stands in the condition: a counter from 0 on below a constant.
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    body = program.get(condition[1], []) if condition else []
    constants = {one.name: one.operands[0] for one in body if one.kind == "constant" and one.operands}
    if body and body[-1].kind == "compare" and "direction=LT" in body[-1].rest:
        return max([int(constants[name]) for name in body[-1].operands if name in constants], default=1)
    return 1


def _called(rest: str) -> list[str]:
    """The computations that an operation calls."""
    found = re.findall(r"(?:calls|to_apply|\w+_computation|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)", rest)
    return [name for text in found for name in re.findall(r"[\w.\-]+", text)]


def _scope_of(one: Instruction, users: dict[str, Instruction]) -> str:
    """Its own; of one that only brings data to where they are used, that of the first to use them."""
    for _ in range(8):
        if found := re.search(r'op_name="((?:[^"\\]|\\.)*)"', one.rest):
            return found[1]
        if one.name not in users:
            break
        one = users[one.name]
    return ""


def _touched(program: Program, one: Instruction, sizes: dict[str, int]) -> int:
    """Bytes that an operation reads and writes."""
    read = [sizes.get(name, 0) for name in one.operands]
    if one.kind in _SLICING:
        return 2 * one.size + sum(read[1:])
    if one.kind == "dynamic-update-slice":
        return 2 * read[1]
    if one.kind == "custom-call" and "ConcatBitcast" in one.rest:
        return 0
    if one.kind.endswith("-start"):
        return _started(one, read)
    if one.kind == "custom-call" and "__cu" in one.rest:  # of cuBLAS or cuDNN: their scratch memory is bytes
        return sum(read) + shape_bytes(re.sub(r"\b[su]8\[\d*\]", "", one.shape))
    if one.kind != "fusion":
        return sum(read) + one.size
    inside = program[_called(one.rest)[0]]
    return sum(_read_of(inside, i, size) for i, size in enumerate(read)) + _written_of(inside, one.size)


def _started(one: Instruction, read: list[int]) -> int:
    """Of the beginning of an operation that runs beside others: its type names operands, results and a context."""
    if one.kind.removesuffix("-start") in COLLECTIVES:
        # Its type names what it gives, and of some kinds also what it takes.
        return max(one.size, 2 * sum(read))
    source, (dtype, sides, layout), *_ = _ARRAY.findall(one.shape)
    size = _array_bytes(dtype, sides, re.sub(r"S\(\d+\)", "", layout))
    return size * (bool(_array_bytes(*source)) + bool(_array_bytes(dtype, sides, layout)))


def _read_of(body: list[Instruction], number: int, size: int) -> int:
    """Of a fusion's operand, so many bytes large: those of it that are read, where nothing but slices of it are."""
    name = next((one.name for one in body if one.kind == "parameter" and one.operands == (str(number),)), "")
    users = [one for one in body if name in one.operands]
    if users and all(one.kind in _SLICING and one.operands[0] == name for one in users):
        return min(size, sum(one.size for one in users))
    if users and all(one.kind == "dynamic-update-slice" and one.operands[0] == name for one in users):
        return 0  # written in place
    return size


def _written_of(body: list[Instruction], size: int) -> int:
    if body[-1].kind == "dynamic-update-slice":
        return next(one.size for one in body if one.name == body[-1].operands[1])
    return size


def collectives(program: Program, devices: int) -> Counter[str]:
    """How often each collective operation is done, with how many bytes, in all, and how many each device receives.

    As "all-reduce", "all-reduce bytes" and "all-reduce received"; the last around a ring (`ring`).
    """
    found: Counter[str] = Counter()
    for one in traffic(program):
        if kind := one.collective:
            found[kind] += one.times
            found[f"{kind} bytes"] += one.times * one.taken
            found[f"{kind} received"] += one.times * ring(kind, one.taken, one.group or devices)
    return found


def ring(kind: str, size: int, n: int) -> int:
    """Bytes that each of n devices receives in a collective to which it brings `size`, done around a ring."""
    shares = {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n, "reduce-scatter": (n - 1) / n}
    return round(size * {**shares, "all-to-all": (n - 1) / n}.get(kind, 1))


def _collective_of(program: Program, one: Instruction) -> tuple[str, int]:
    """Kind and size of the group of a collective; of others "" and 0."""
    kind = one.kind.removesuffix("-start")
    if kind in COLLECTIVES:
        return kind, _group_of(one.rest)
    # A TPU's reduce-scatter is an all-reduce of which each device keeps a slice, fused.
    for name in _called(one.rest) if kind == "fusion" and "all-reduce-scatter" in one.rest else ():
        for inside in program.get(name, []):
            if inside.kind in ("all-reduce", "reduce-scatter"):
                return "reduce-scatter", _group_of(inside.rest)
    return "", 0


def _group_of(rest: str) -> int:
    """The devices of a group: of "{{0,1},{2,3}}", "[2,2]<=[4]" and "mesh['data'=4,'fsdp'=2] {'fsdp'}" there are 2."""
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        sides = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        return math.prod(sides[name] for name in re.findall(r"'([^']+)'", mesh[2]))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(tiled[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    return 0


def by_part(program: Program, part_of: Callable[[Traffic], str]) -> dict[str, float]:
    """Bytes of each part of the program, the largest first."""
    total: Counter[str] = Counter()
    for one in traffic(program):
        total[part_of(one)] += one.size
    return dict(total.most_common())

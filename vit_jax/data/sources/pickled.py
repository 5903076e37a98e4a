"""Reads the pickles that CIFAR-10 comes in, without the pickle module: what they say is read, never done.

A pickle is a program. This is an interpreter of the few instructions that a batch of CIFAR-10 consists of, written by
Python 2 or 3 in protocol 2 to 5, with NumPy 1 or 2. It imports and calls nothing that a file names: the five names
that a batch contains stand for themselves, and every other instruction and name is refused.
"""

import enum
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vit_jax.errors import UserError

MAX_BYTES = 64 * 2**20  # the largest real batch has 31,035,704
MAX_OPCODES = 250_000  # a real batch has 31,000 of them; one that Python 3 writes in protocol 2 has 80,000
MAX_DEPTH = 32  # lists within dictionaries within ...; a real batch has 3


class _Symbol(enum.Enum):
    """What a pickle can refer to, but never becomes more than a symbol."""

    RECONSTRUCT = "numpy's function that makes an empty array, to be filled by BUILD"
    FROMBUFFER = "numpy's function that makes an array of a buffer"
    NDARRAY = "the type numpy.ndarray"
    DTYPE = "the type numpy.dtype"
    ENCODE = "the function _codecs.encode, as which Python 3 writes bytes in protocol 2"
    UINT8 = "the dtype of bytes"
    EMPTY = "an array before BUILD"


_NAMES = {
    "numpy.core.multiarray _reconstruct": _Symbol.RECONSTRUCT,  # NumPy 1
    "numpy._core.multiarray _reconstruct": _Symbol.RECONSTRUCT,  # NumPy 2
    "numpy.core.numeric _frombuffer": _Symbol.FROMBUFFER,
    "numpy._core.numeric _frombuffer": _Symbol.FROMBUFFER,
    "numpy ndarray": _Symbol.NDARRAY,
    "numpy dtype": _Symbol.DTYPE,
    "_codecs encode": _Symbol.ENCODE,
}


@dataclass
class _Machine:
    stack: list[Any]
    marks: list[int]  # places in the stack
    memo: dict[int, Any]
    encodable: int  # bytes that ENCODE may still make: it alone could make much out of little


def read(content: bytes) -> Any:
    """What a pickle of dictionaries, lists, tuples, whole numbers, texts, bytes and 2-d arrays of bytes holds.

    Text that Python 2 wrote is bytes; arrays are (N, M) uint8 views of the content. Keys of dictionaries are texts or
    bytes. Raises UserError, which names the instruction or name that no batch of CIFAR-10 contains, or says that the
    pickle is damaged. Takes memory and time in proportion to the content, up to MAX_BYTES and MAX_OPCODES.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"refused: {len(content):,} bytes; a batch of CIFAR-10 has at most 31,035,704")
    machine = _Machine([], [], {}, len(content))
    # An Exception: a damaged pickle raises nearly anything, from pickletools and from the instructions below.
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name == "STOP":
                break
            if count == MAX_OPCODES:
                raise UserError(f"refused: more than {MAX_OPCODES:,} instructions; a batch of CIFAR-10 has 31,000")
            if opcode.name not in _INSTRUCTIONS:
                raise UserError(f"refused: the pickle instruction {opcode.name}, which no batch of CIFAR-10 contains")
            _INSTRUCTIONS[opcode.name](machine, argument)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"damaged ({type(error).__name__}: {str(error)[:120]})") from error
    if len(machine.stack) != 1 or machine.marks:
        raise UserError(f"damaged: {len(machine.stack)} values instead of one")
    return machine.stack[0]


def _shown(value: Any) -> str:
    # Only the start of texts: a value from a hostile file may be endless when it is written out.
    if isinstance(value, _Symbol):
        return value.value
    return ascii(value[:40]) if isinstance(value, str | bytes) else f"a {type(value).__name__}"


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _pop(machine: _Machine, count: int) -> list[Any]:
    """The last `count` values, off the stack. Raises IndexError if it has fewer."""
    if len(machine.stack) < count:
        raise IndexError("the stack is empty")
    values = machine.stack[len(machine.stack) - count :]
    del machine.stack[len(machine.stack) - count :]
    return values


def _pop_to_mark(machine: _Machine) -> list[Any]:
    return _pop(machine, len(machine.stack) - machine.marks.pop())


def _mark(machine: _Machine, _: Any) -> None:
    if len(machine.marks) == MAX_DEPTH:
        raise UserError(f"refused: nested more than {MAX_DEPTH} deep")
    machine.marks.append(len(machine.stack))


def _protocol(_: _Machine, version: int) -> None:
    if version > 5:
        raise UserError(f"refused: pickle protocol {version}")


def _memoize(machine: _Machine, place: int | None) -> None:
    machine.memo[len(machine.memo) if place is None else place] = machine.stack[-1]


def _append(machine: _Machine, values: list[Any]) -> None:
    if not isinstance(machine.stack[-1], list):
        raise UserError("refused: it appends to what is no list")
    machine.stack[-1].extend(values)


def _set_items(machine: _Machine, values: list[Any]) -> None:
    if not isinstance(machine.stack[-1], dict) or len(values) % 2:
        raise UserError("refused: it sets items of what is no dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        # Tuples are out because their hash follows every reference, of which a small file can make endlessly many.
        if not isinstance(key, str | bytes):
            raise UserError(f"refused: a dictionary with {_shown(key)} as key")
        machine.stack[-1][key] = value


def _name(machine: _Machine, name: str) -> None:
    if name not in _NAMES:
        shown = ascii(name.replace(" ", ".")[:80])[1:-1]
        raise UserError(f"refused: it asks for {shown}, which no batch of CIFAR-10 contains")
    _push(machine, _NAMES[name])


def _stack_name(machine: _Machine, _: Any) -> None:
    module, name = _pop(machine, 2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise UserError("refused: a name that is no text")
    _name(machine, f"{module} {name}")


def _reduce(machine: _Machine, _: Any) -> None:
    function, arguments = _pop(machine, 2)
    # The type first: only symbols are safe to look up, see _set_items.
    if not isinstance(function, _Symbol) or function not in _CALLS or not isinstance(arguments, tuple):
        raise UserError(f"refused: REDUCE of {_shown(function)}")
    _push(machine, _CALLS[function](machine, arguments))


def _empty(_: _Machine, arguments: tuple) -> _Symbol:
    if len(arguments) != 3 or arguments[0] is not _Symbol.NDARRAY or arguments[1] != (0,):
        raise UserError("refused: an array that is not built as NumPy builds it")
    return _Symbol.EMPTY


def _dtype(_: _Machine, arguments: tuple) -> _Symbol:
    if not arguments or arguments[0] not in ("u1", b"u1"):
        raise UserError(f"refused: an array of dtype {_shown(arguments[0] if arguments else None)}")
    return _Symbol.UINT8


def _encode(machine: _Machine, arguments: tuple) -> bytes:
    text, codec = arguments
    if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
        raise UserError(f"refused: the codec {_shown(codec)}")
    machine.encodable -= len(text)
    if machine.encodable < 0:
        raise UserError("refused: it makes more bytes than it has")
    return text.encode("latin1")


def _from_buffer(_: _Machine, arguments: tuple) -> np.ndarray:
    content, dtype, shape, order = arguments
    if order not in ("C", "F"):
        raise UserError(f"refused: an array in the order {_shown(order)}")
    return _array(content, dtype, shape, order)


def _array(content: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> np.ndarray:
    if not isinstance(content, bytes | bytearray) or dtype is not _Symbol.UINT8:
        raise UserError("refused: an array of other things than bytes")
    sides = shape if isinstance(shape, tuple) and len(shape) == 2 else ()
    # Each side on its own first: their product could be too large to be written out, or right by two wrong signs.
    if not sides or not all(type(side) is int and 0 <= side <= MAX_BYTES for side in sides):
        raise UserError("refused: an array whose shape is not two numbers from 0 up")
    if math.prod(sides) != len(content):
        raise UserError(f"refused: an array of {sides[0]} x {sides[1]} in {len(content):,} bytes")
    return np.frombuffer(content, np.uint8).reshape(sides, order=order)


def _build(machine: _Machine, _: Any) -> None:
    target, state = _pop(machine, 2)
    if target is _Symbol.UINT8 and isinstance(state, tuple) and len(state) == 8:
        version, order, *rest = state
        if version == 3 and order in ("|", b"|") and rest == [None, None, None, -1, -1, 0]:
            return _push(machine, target)
    if target is _Symbol.EMPTY and isinstance(state, tuple) and len(state) == 5:
        version, shape, dtype, fortran, content = state
        if version == 1 and isinstance(fortran, int):
            return _push(machine, _array(content, dtype, shape, "F" if fortran else "C"))
    raise UserError(f"refused: BUILD of {_shown(target)} with a state that NumPy does not write")


_CALLS: dict[_Symbol, Callable[[_Machine, tuple], Any]] = {
    _Symbol.RECONSTRUCT: _empty,
    _Symbol.FROMBUFFER: _from_buffer,
    _Symbol.DTYPE: _dtype,
    _Symbol.ENCODE: _encode,
}

_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _protocol,
    "FRAME": lambda machine, _: None,
    "MARK": _mark,
    "NONE": _push,  # whose argument is None
    "NEWTRUE": lambda machine, _: _push(machine, True),
    "NEWFALSE": lambda machine, _: _push(machine, False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push),
    # Python 2's text, which pickletools hands on as if it were Latin-1.
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda machine, text: _push(machine, text.encode("latin1"))),
    "EMPTY_DICT": lambda machine, _: _push(machine, {}),
    "EMPTY_LIST": lambda machine, _: _push(machine, []),
    "EMPTY_TUPLE": lambda machine, _: _push(machine, ()),
    "TUPLE": lambda machine, _: _push(machine, tuple(_pop_to_mark(machine))),
    "TUPLE1": lambda machine, _: _push(machine, tuple(_pop(machine, 1))),
    "TUPLE2": lambda machine, _: _push(machine, tuple(_pop(machine, 2))),
    "TUPLE3": lambda machine, _: _push(machine, tuple(_pop(machine, 3))),
    "APPEND": lambda machine, _: _append(machine, _pop(machine, 1)),
    "APPENDS": lambda machine, _: _append(machine, _pop_to_mark(machine)),
    "SETITEM": lambda machine, _: _set_items(machine, _pop(machine, 2)),
    "SETITEMS": lambda machine, _: _set_items(machine, _pop_to_mark(machine)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, place: _push(machine, machine.memo[place])),
    "GLOBAL": _name,
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _reduce,
    "BUILD": _build,
}

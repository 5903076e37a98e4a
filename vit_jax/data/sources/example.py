"""The records of TFDS: tf.train.Example, read without TensorFlow.

A message of protocol buffers (https://protobuf.dev/programming-guides/encoding) of three levels: a map from each
feature's name to a list of bytes, floats or integers (tensorflow/core/example/feature.proto).
"""

from collections.abc import Iterator
from typing import TypeVar

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_BYTES_LIST, _INT64_LIST = 1, 3  # fields of a Feature

T = TypeVar("T")
Span = tuple[int, int]  # where a value begins in the record, and where it ends


def features(record: bytes) -> dict[bytes, Span]:
    """Where the message of each feature lies, by its name. Raises ValueError for what is no tf.train.Example."""
    found = {}
    for _, top in _fields(record, (0, len(record))):
        for _, entry in _fields(record, top):
            parts = dict(_fields(record, entry))
            if 1 in parts:
                found[record[slice(*parts[1])]] = parts.get(2, (0, 0))
    return found


def only_bytes(record: bytes, feature: Span | None) -> Span:
    """Where the only value of a feature of bytes lies. Raises ValueError where it has none, or several."""
    return _only(list(_values(record, feature, _BYTES_LIST)))


def only_integer(record: bytes, feature: Span | None) -> int:
    """The only value of a feature of integers. Raises ValueError where it has none, or several."""
    numbers = []
    for place, stop in _values(record, feature, _INT64_LIST):
        while place < stop:  # packed, as a rule: one after the other
            number, place = _varint(record, place, stop)
            numbers.append(number)
    number = _only(numbers)
    return number - 2**64 if number >= 2**63 else number  # two's complement


def _only(values: list[T]) -> T:
    if len(values) != 1:
        raise ValueError(f"a feature with {len(values)} values, not one")
    return values[0]


def _values(record: bytes, feature: Span | None, kind: int) -> Iterator[Span]:
    for number, values in _fields(record, feature or (0, 0)):
        if number == kind:
            for _, value in _fields(record, values):
                yield value


def _fields(record: bytes, span: Span) -> Iterator[tuple[int, Span]]:
    """The number of each field of a message, and where its value lies. Raises ValueError if it is no message."""
    place, stop = span
    while place < stop:
        tag, place = _varint(record, place, stop)
        wire, start = tag & 7, place
        if wire == _LENGTH:
            size, start = _varint(record, place, stop)
            place = start + size
        elif wire == _VARINT:
            _, place = _varint(record, place, stop)
        elif wire in (_FIXED64, _FIXED32):
            place += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("no tf.train.Example")
        if place > stop:
            raise ValueError("a tf.train.Example that is cut off")
        yield tag >> 3, (start, place)


def _varint(record: bytes, place: int, stop: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= stop:
            break
        byte = record[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a tf.train.Example that is cut off")

"""Frozen dataclasses as a closed, typed schema: made from nested mappings and from text, mistakes in one message."""

import ast
import dataclasses
import difflib
import json
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

from vit_jax.errors import UserError


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dictionaries, ready for JSON (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_mapping(cls: type, mapping: Mapping[str, Any], where: str = "config") -> Any:
    """Builds the frozen dataclass `cls` from nested mappings.

    Raises UserError for a key that the schema doesn't have, with the nearest one that it has, and for a value
    of the wrong type. Missing keys take their defaults, so that runs saved before a key was born still load.
    """
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in mapping.items():
        if key not in hints:
            raise UserError(unknown_key(cls, f"{where}.{key}", where))
        try:
            values[key] = _convert(hints[key], value, f"{where}.{key}")
        except TypeError:
            raise UserError(f"{where}.{key} must be {_wanted(hints[key])}; found {value!r}") from None
    return cls(**values)


def unknown(kind: str, name: str, known: list[str]) -> str:
    """One line: the unknown name of this kind and the known one nearest to it, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return f"unknown {kind} {name}; {hint}"


def unknown_key(cls: type, name: str, where: str = "config") -> str:
    """One line: a key that the group `cls` called `where` doesn't have, and which one is meant or what there is.

    `name` is in full, "config.optim.lr". It is looked for among its neighbours, by its initials, and in other groups.
    """
    group, (key, *rest) = where, name.removeprefix(f"{where}.").split(".")
    hints = typing.get_type_hints(cls)
    while rest and dataclasses.is_dataclass(hints.get(key)):
        group, hints, (key, *rest) = f"{group}.{key}", typing.get_type_hints(hints[key]), rest
    if key in hints:
        return f"unknown key {name}; {group}.{key} is no group of keys"
    near = difflib.get_close_matches(key, hints, n=1, cutoff=0.6)
    near = near or [known for known in hints if "".join(word[0] for word in known.split("_")) == key]
    meant = [".".join([group, known, *rest]) for known in near[:1]]
    meant = meant or [known for known in keys_of(cls, where) if known.rsplit(".", 1)[-1] == key]
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"{group} has {', '.join(hints)}"
    return f"unknown key {name}; {hint}"


def keys_of(cls: type, where: str = "config") -> list[str]:
    """All keys of the schema by their full names, inner nodes included."""
    names = []
    for name, hint in typing.get_type_hints(cls).items():
        names.append(f"{where}.{name}")
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            names += keys_of(hint, f"{where}.{name}")
    return names


def difference(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "config") -> list[str]:
    """One line for each leaf that differs between two nested dictionaries."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{where}.{key}")
        elif a != b:
            lines.append(f"{where}.{key}: {a!r} in the run, {b!r} now")
    return lines


def optional_of(hint: Any) -> type | None:
    """int for `int | None`, None for a hint that isn't optional."""
    if isinstance(hint, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as an instance of `hint`; raises TypeError if it isn't one, and UserError from within a group of keys."""
    inner = optional_of(hint)
    if inner is not None:
        return None if value is None else _convert(inner, value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} is a group of keys; found {value!r}")
        return from_mapping(hint, value, where)
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, (tuple, list)):
            raise TypeError
        if args[-1] is ...:
            return tuple(_convert(args[0], v, where) for v in value)
        if len(args) != len(value):
            raise TypeError
        return tuple(_convert(a, v, where) for a, v in zip(args, value, strict=True))
    if isinstance(value, os.PathLike) and hint is str:
        return os.fspath(value)
    # NumPy's numbers, too.
    for kind, numbers_of in ((int, numbers.Integral), (float, numbers.Real)):
        if hint is kind and isinstance(value, numbers_of) and not isinstance(value, bool):
            if kind is float and not math.isfinite(value):
                raise TypeError
            return kind(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise TypeError
    return value


# What a key of each type is given, in words and by an example.
_WANTED = {
    bool: "true or false",
    int: "a whole number, like 4",
    float: "a number, like 0.5",
    str: "text",
    tuple[int, ...]: "whole numbers, like (64, 128), or (64,) for a single one",
    tuple[float, float]: "two numbers, like (0.75, 1.33)",
    tuple[float, ...]: "numbers, like (0.5, 0.5, 0.5)",
    tuple[bool, ...]: "truth values, like (False, True), or (True,) for a single one",
    tuple[tuple[str, float], ...]: "pairs, like (('head/.*', 1.0), ('.*', 0.1)), or (('.*', 1.0),) for a single one",
    tuple[
        tuple[str, str], ...
    ]: "pairs of texts, like (('head/.*', 'whole'), ('.*', 'auto')), or (('.*', '0'),) for one",
    tuple[tuple[float, int], ...]: "pairs, like ((0.0, 24), (0.7, 32)), or ((0.0, 32),) for a single one",
}


def _wanted(hint: Any) -> str:
    inner = optional_of(hint)
    return _WANTED[hint] if inner is None else f"{_WANTED[inner]}, or none"


def with_overrides(config: Any, overrides: Mapping[str, Any]) -> Any:
    """A config (dataclass) with some keys changed, {"optim.learning_rate": 1e-3} or {"optim": {"learning_rate": 1e-3}}.

    Raises UserError for a key that there isn't and for a value of the wrong type.
    """
    mapping = to_dict(config)
    for key, value in flat(overrides).items():
        type_of(type(config), key)
        node, (*groups, name) = mapping, key.split(".")
        for group in groups:
            node = node[group]
        is_group = dataclasses.is_dataclass(value) and not isinstance(value, type)
        node[name] = dataclasses.asdict(value) if is_group else value
    return from_mapping(type(config), mapping)


def flat(overrides: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Overrides by their keys in full: {"optim": {"name": "sgd"}} -> {"optim.name": "sgd"}; "config." before them goes.

    Raises UserError for what is no mapping from names.
    """
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise UserError(f'overrides are a dictionary, like {{"optim.learning_rate": 1e-3}}; found {overrides!r}')
    found: dict[str, Any] = {}
    for key, value in overrides.items():
        name = where + key.removeprefix("config.")
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def type_of(cls: type, key: str) -> Any:
    """The type that a schema has for "optim.learning_rate"; raises UserError for a key that there isn't."""
    hint: Any = cls
    for name in key.split("."):
        hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        if name not in hints:
            raise UserError(unknown_key(cls, f"config.{key}"))
        hint = hints[name]
    return hint


def typed(cls: type, key: str, text: str) -> Any:
    """What was typed for a key, as a value of its type; or the text, where it is none: `with_overrides` refuses that.

    Raises UserError for a key that there isn't.
    """
    hint = type_of(cls, key)
    options = typing.get_args(hint)
    if type(None) in options:
        if text.lower() == "none":
            return None
        hint = options[0]
    if hint is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        if typing.get_origin(hint) is tuple:
            return ast.literal_eval(text)
        return hint(text) if hint in (int, float) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text

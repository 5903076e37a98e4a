"""Rules "regex over a parameter's path -> value"."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax

from vit_jax.errors import UserError
from vit_jax.models.encoder import paths_in_blocks

V = TypeVar("V")


def path_of(key_path: tuple[Any, ...]) -> str:
    """ "block_00/mlp/dense_0/kernel" of a path as jax.tree_util gives it."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def match(rules: Sequence[tuple[str, V]], params: Any, key: str) -> Any:
    """A tree like `params` with the value of the first rule whose regex matches the whole path of each.

    What is stacked of all blocks goes by the paths of the blocks' own ("block_00/..."). Raises UserError if these have
    other values from block to block, a parameter matches no rule, a rule no parameter, or a rule is no regular
    expression.
    """
    compiled = [(compiled_rule(pattern, key), value) for pattern, value in rules]
    used = set()

    def value_at(path: str) -> V:
        for pattern, value in compiled:
            if pattern.fullmatch(path):
                used.add(pattern.pattern)
                return value
        rest = ".*", "auto" if rules and isinstance(rules[0][1], str) else 0.0
        raise UserError(f"{key}: no rule matches the parameter {path}; end with a rule for the rest, like {rest}")

    values = jax.tree_util.tree_map_with_path(lambda path, x: of_all_blocks(value_at, path, x.shape, key), params)
    idle = [pattern for pattern, _ in rules if pattern not in used]
    if idle:
        raise UserError(f"{key}: the rule {idle[0]!r} matches no parameter that an earlier rule leaves")
    return values


def of_all_blocks(value_at: Callable[[str], V], key_path: tuple[Any, ...], shape: Sequence[int], key: str) -> V:
    """The value at a parameter's path; of one that is stacked of all blocks, that at the path of each.

    Raises UserError, for rules of config key `key`, where it isn't the same for all.
    """
    first, *others = paths_in_blocks(path_of(key_path), shape)
    value = value_at(first)
    for path in others:
        if value_at(path) != value:
            raise UserError(
                f"{key}: {value!r} for {first}, {value_at(path)!r} for {path}, and with config.model.scan=True all "
                "blocks are one loop's; write rules that take all blocks alike, or leave the loop out"
            )
    return value


def compiled_rule(pattern: str, key: str) -> re.Pattern:
    """The pattern that config key `key` has; raises UserError if it is no regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{key}: {error.pattern!r} is no regular expression ({error})") from error

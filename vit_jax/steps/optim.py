"""Optimizers by name, and rules "regex over a parameter's path -> value"."""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from vit_jax.config import OptimConfig
from vit_jax.errors import UserError
from vit_jax.models.stems import WHITENING

NAMES = ("adamw", "muon", "lion", "sgd")

# Dense layers with more than one axis of outputs: models/layers.py, Attention, and models/heads.py, AttentionPool.
# A kernel of four axes is a convolution's everywhere else.
_TO_HEADS = re.compile(r"(^|/)(attention/qkv|pool/(query|kv))/kernel$")


def path_of(key_path: tuple[Any, ...]) -> str:
    """ "block_00/mlp/dense_0/kernel" of a path as jax.tree_util gives it."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def match(rules: Sequence[tuple[str, float]], params: Any, key: str) -> Any:
    """A tree like `params` with the value of the first rule whose regex matches the whole path of each.

    Raises UserError if a parameter matches no rule, a rule no parameter, or a rule is no regular expression.
    """
    compiled = [(_compiled(pattern, key), value) for pattern, value in rules]
    used = set()

    def value_of(key_path: tuple[Any, ...], _: Any) -> float:
        path = path_of(key_path)
        for pattern, value in compiled:
            if pattern.fullmatch(path):
                used.add(pattern.pattern)
                return value
        raise UserError(f"{key}: no rule matches the parameter {path}; end with a rule for the rest, like ('.*', 0.0)")

    values = jax.tree_util.tree_map_with_path(value_of, params)
    idle = [pattern for pattern, _ in rules if pattern not in used]
    if idle:
        raise UserError(f"{key}: the rule {idle[0]!r} matches no parameter that an earlier rule leaves")
    return values


def rates(cfg: OptimConfig, params: Any) -> Any:
    """A tree like `params` with each one's share of the learning rate; 0: it is frozen."""
    shares = match(cfg.rate_rules, params, "config.optim.rate_rules")
    hidden = _hidden(cfg, params)

    def share(key_path: tuple[Any, ...], share: float, is_hidden: bool) -> float:
        if path_of(key_path) == WHITENING:  # computed from the data
            return 0.0
        return share if is_hidden else share * (cfg.adam_learning_rate or cfg.learning_rate) / cfg.learning_rate

    return jax.tree_util.tree_map_with_path(share, shares, hidden)


def optimizer(cfg: OptimConfig, params: Any) -> optax.GradientTransformationExtraArgs:
    """`update(gradients, state, params, learning_rate=...)` for `config.optim.name`; `params` may be shapes.

    adamw  Loshchilov and Hutter 2019
    lion   Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"
    sgd    with (heavy-ball) momentum
    muon   Jordan et al. 2024 for the matrices that `cfg.muon` names, each of query, key and value apart; AdamW with
           `adam_learning_rate` for the rest

    The gradients' global norm is clipped first. Weight decay is decoupled, multiplied by the learning rate as in optax
    and PyTorch. Raises UserError for rules that don't fit the parameters.
    """
    shares = rates(cfg, params)
    factors = match(cfg.decay_rules, params, "config.optim.decay_rules")
    factors = jax.tree.map(lambda factor, share: factor if share else 0.0, factors, shares)
    decays = [
        optax.add_decayed_weights(
            cfg.weight_decay * factor, jax.tree.map(lambda f, factor=factor: f == factor, factors)
        )
        for factor in sorted(set(jax.tree.leaves(factors)) - {0.0})
    ]
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm) if cfg.clip_norm is not None else optax.identity(),
        _direction(cfg, params, shares),
        *decays,
        *([_scale_each(shares)] if set(jax.tree.leaves(shares)) != {1.0} else []),
        _step_down(),
    )


def updates_done(opt_state: Any) -> jax.Array:
    """() int32: how many updates the state of an `optimizer` has seen; a step that was left out isn't one."""
    return opt_state[-1].count


def _direction(cfg: OptimConfig, params: Any, shares: Any) -> optax.GradientTransformation:
    """From gradients to directions: the optimizer proper."""
    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)
    main = {
        "adamw": lambda: adam,
        "muon": lambda: optax.chain(
            scale_by_muon(ns_steps=cfg.muon_iterations, beta=cfg.momentum, weight_dimension_numbers=_axes_of_matrices),
            optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(_scaled_by_shape, updates)),
        ),
        "lion": lambda: optax.scale_by_lion(cfg.b1, cfg.b2),
        "sgd": lambda: optax.trace(cfg.momentum),
    }[cfg.name]()
    labels = jax.tree.map(
        lambda share, hidden: "frozen" if not share else "main" if hidden else "adam", shares, _hidden(cfg, params)
    )
    if set(jax.tree.leaves(labels)) == {"main"}:
        return main
    return optax.partition({"main": main, "adam": adam, "frozen": optax.set_to_zero()}, labels)


def _hidden(cfg: OptimConfig, params: Any) -> Any:
    """A tree like `params`: whether the named optimizer takes each one; only Muon leaves some to AdamW."""
    if cfg.name != "muon":
        return jax.tree.map(lambda _: True, params)
    pattern = _compiled(cfg.muon, "config.optim.muon")
    hidden = jax.tree_util.tree_map_with_path(
        lambda path, _: path_of(path).endswith("/kernel") and bool(pattern.fullmatch(path_of(path))), params
    )
    if not any(jax.tree.leaves(hidden)):
        raise UserError(f"config.optim.muon={cfg.muon!r} matches no kernel of the model; write a regex over paths")
    return hidden


def _axes_of_matrix(key_path: tuple[Any, ...], kernel: Any) -> MuonDimensionNumbers:
    """Which axes of a kernel are the rows and columns of the matrix that Muon orthogonalises."""
    last = kernel.ndim - 1
    if _TO_HEADS.search(path_of(key_path)):
        # (D, K, E): (D, K*E); (D, 3, K, E) to queries, keys and values, (D, 2, K, E) to two of them: one each
        return MuonDimensionNumbers((0,), (last - 1, last))
    return MuonDimensionNumbers(tuple(range(last)), (last,))  # (D, F); of a convolution (H, W, I, O): (H*W*I, O)


def _axes_of_matrices(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(_axes_of_matrix, params)


def _scaled_by_shape(key_path: tuple[Any, ...], update: Any) -> Any:
    """A matrix wider than high moves further, so that its outputs change as much (Jordan 2024)."""
    rows, columns = (math.prod(update.shape[axis] for axis in axes) for axes in _axes_of_matrix(key_path, update))
    return update * math.sqrt(max(1.0, columns / rows))


def _scale_each(shares: Any) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, share: u * share, updates, shares))


def _step_down() -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the learning rate given, and counts the updates (`updates_done`)."""

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **_: Any) -> tuple[Any, Any]:
        updates = jax.tree.map(lambda u: jnp.asarray(-learning_rate, u.dtype) * u, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


def _compiled(pattern: str, key: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{key}: {error.pattern!r} is no regular expression ({error})") from error

"""Optimizers by name."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vit_jax.config import Config, OptimConfig
from vit_jax.errors import UserError
from vit_jax.models.backend import Target
from vit_jax.models.stems import WHITENING
from vit_jax.steps import lora
from vit_jax.steps.muon import muon
from vit_jax.steps.rules import compiled_rule, match, of_all_blocks, path_of

NAMES = ("adamw", "muon", "lion", "sgd")


def rates(cfg: OptimConfig, params: Any) -> Any:
    """A tree like `params` with each one's share of the learning rate; 0: it is frozen."""
    shares = match(cfg.rate_rules, params, "config.optim.rate_rules")
    hidden = _hidden(cfg, params)

    def share(key_path: tuple[Any, ...], share: float, is_hidden: bool) -> float:
        path = path_of(key_path)
        if path == WHITENING:  # computed from the data
            return 0.0
        if cfg.lora_rank is not None and not lora.is_trained(path):
            return 0.0
        return share if is_hidden else share * (cfg.adam_learning_rate or cfg.learning_rate) / cfg.learning_rate

    return jax.tree_util.tree_map_with_path(share, shares, hidden)


def optimizer(
    cfg: OptimConfig, params: Any, dtype: Any, mesh: Mesh | None = None
) -> optax.GradientTransformationExtraArgs:
    """`update(gradients, state, params, learning_rate=...)` for `config.optim.name`; `params` may be shapes.

    adamw  Loshchilov and Hutter 2019
    lion   Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"
    sgd    with (heavy-ball) momentum
    muon   Jordan et al. 2024 for the matrices that `cfg.muon` names, each of query, key and value apart, its iterations
           in `dtype`, which is the model's; AdamW with `adam_learning_rate` for the rest. The devices of a `mesh` share
           the matrices out among them

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
        _direction(cfg, params, shares, dtype, mesh),
        *decays,
        *([_scale_each(shares)] if set(jax.tree.leaves(shares)) != {1.0} else []),
        _step_down(),
    )


def sharing_mesh(config: Config, target: Target, mesh: Mesh) -> Mesh | None:
    """The mesh whose devices share Muon's matrices out; None where each computes all.

    It takes one more exchange between devices. With micro-batches that can only follow the gradients'; else XLA orders
    several as it likes, and CPU devices may wait for each other in vain. On accelerators it was not measured.
    """
    return mesh if target.platform == "cpu" and (config.train.accumulate or 1) > 1 else None


def updates_done(opt_state: Any) -> jax.Array:
    """() int32: how many updates the state of an `optimizer` has seen; a step that was left out isn't one."""
    return opt_state[-1].count


def _direction(
    cfg: OptimConfig, params: Any, shares: Any, dtype: Any, mesh: Mesh | None
) -> optax.GradientTransformation:
    """From gradients to directions: the optimizer proper."""
    adam = optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)
    main = {
        "adamw": lambda: adam,
        "muon": lambda: muon(cfg.muon_iterations, cfg.momentum, dtype, mesh),
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
    key = "config.optim.muon"
    pattern = compiled_rule(cfg.muon, key)

    def taken(path: str) -> bool:
        return path.endswith("/kernel") and bool(pattern.fullmatch(path))

    hidden = jax.tree_util.tree_map_with_path(lambda path, x: of_all_blocks(taken, path, x.shape, key), params)
    if not any(jax.tree.leaves(hidden)):
        raise UserError(f"config.optim.muon={cfg.muon!r} matches no kernel of the model; write a regex over paths")
    return hidden


def _scale_each(shares: Any) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, share: u * share, updates, shares))


def _step_down() -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the learning rate given, and counts the updates (`updates_done`)."""

    def update(updates: Any, state: Any, params: Any = None, *, learning_rate: Any, **_: Any) -> tuple[Any, Any]:
        updates = jax.tree.map(lambda u: jnp.asarray(-learning_rate, u.dtype) * u, updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(lambda _: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)

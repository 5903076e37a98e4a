"""Everything that a training step reads and writes, as one pytree."""

import os
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vit_jax.models import VisionTransformer, encoder
from vit_jax.models.stems import image_shape
from vit_jax.steps import lora
from vit_jax.steps.partition import shardings_of
from vit_jax.steps.rules import path_of


class TrainState(flax.struct.PyTreeNode):
    """Optimizer moments and params are float32; `totals` sums the train metrics since the last evaluation."""

    step: jax.Array  # () int32, steps done
    seed: jax.Array  # () uint32, of all randomness
    params: Any
    opt_state: Any
    totals: dict[str, jax.Array]  # () float32 each
    ema: Any = None  # like params: their moving average, where the config asks for one


def keys(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of initialisation and of the steps, of which step s uses fold_in(key, s)."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def empty_totals() -> dict[str, jax.Array]:
    return {name: jnp.zeros((), jnp.float32) for name in ("loss", "top1", "top5", "count")}


def abstract_params(module: VisionTransformer, lora_rank: int | None = None) -> Any:
    """Shapes and dtypes of the parameters that a run of the module has, computed without allocating them."""
    return jax.eval_shape(lambda: init_params(module, jnp.uint32(0), lora_rank))


def create(
    module: VisionTransformer,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    ema: bool = False,
    fixed: dict[str, Any] | None = None,
    split: Mapping[str, int] = MappingProxyType({}),
    lora_rank: int | None = None,
) -> TrainState:
    """The state before the first step, on every device of the mesh, or `split` over those that share it (partition.py).

    `ema`: with a moving average of the parameters. `fixed` has those that are computed from the data, by path; raises
    ValueError for one that the module doesn't have.
    """
    paths = {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract_params(module))}
    if unknown := (fixed or {}).keys() - paths:
        raise ValueError(f"the module has no parameters {sorted(unknown)}")

    init = partial(_init, module, tx, ema, fixed or {}, lora_rank)
    lie = jax.tree.map(lambda x: x.sharding, abstract_state(module, tx, ema, mesh, split, lora_rank))
    lowered = jax.jit(init, out_shardings=lie).lower(np.uint32(seed))
    return lowered.compile(_once_only(mesh))(np.uint32(seed))


def _once_only(mesh: Mesh) -> dict[str, str | bool]:
    """Options of the compiler for a program that runs once: on a CPU they halve the time, about (RECORDS.md)."""
    chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    return {} if chosen or mesh.devices.flat[0].platform != "cpu" else {"xla_backend_optimization_level": "1"}


def abstract_state(
    module: VisionTransformer,
    tx: optax.GradientTransformation,
    ema: bool,
    mesh: Mesh,
    split: Mapping[str, int] = MappingProxyType({}),
    lora_rank: int | None = None,
) -> TrainState:
    """Shapes, dtypes and shardings of such a state, computed without allocating it."""
    state = jax.eval_shape(partial(_init, module, tx, ema, {}, lora_rank), jnp.uint32(0))
    lie = shardings_of(state, state.params, split, mesh)
    return jax.tree.map(lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state, lie)


def _init(
    module: VisionTransformer,
    tx: optax.GradientTransformation,
    ema: bool,
    fixed: dict[str, Any],
    lora_rank: int | None,
    seed: jax.Array,
) -> TrainState:
    params = init_params(module, seed, lora_rank)
    params = jax.tree_util.tree_map_with_path(lambda path, x: fixed.get(path_of(path), x), params)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), seed, params, tx.init(params), empty_totals(), average)


def with_params(state: TrainState, params: Any) -> TrainState:
    """The state before the first step with other parameters (float32, on the host), the average starting there, too.

    Low-rank products beside them stay those of the state.
    """
    params = lora.with_adapters_of(params, state.params)

    # Each its own buffers: a step gives them up one by one.
    lie = jax.tree.map(lambda x: x.sharding, state.params)
    copied = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=lie)
    return state.replace(params=copied(params), ema=None if state.ema is None else copied(params))


@partial(jax.jit, static_argnums=(0, 2))
def init_params(module: VisionTransformer, seed: jax.Array, lora_rank: int | None = None) -> Any:
    """The module's parameters at the start, stacked where its blocks are a loop: the same numbers.

    With a `lora_rank` low-rank products beside kernels, too. Equal modules are traced once: that takes as long as a
    forward pass.
    """
    key = keys(seed)[0]
    params = module.init(key, jnp.zeros((1, *image_shape(module.cfg))))["params"]
    if lora_rank is not None:
        params = lora.adapted(params, lora_rank, jax.random.fold_in(key, 1))
    return encoder.stacked(params) if module.cfg.scan else params


def count(params: Any) -> int:
    """How many numbers a tree of arrays or shapes holds."""
    return sum(x.size for x in jax.tree.leaves(params))

"""Attention alone, forward and backward, by each of its formulations: which one is fastest on this machine."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.child import one_core
from vit_jax.config import ModelConfig
from vit_jax.models import attention, backend

# Examples, tokens, heads and the size of a head: of a device's micro-batch of vit_d192, laptop, laptop:attention and
# the article; and of ViT-S/16.
SHAPES = ((16, 64, 3, 64), (8, 16, 4, 48), (8, 64, 4, 32), (32, 144, 4, 64), (4, 196, 6, 64))
DTYPES = ("float32", "bfloat16")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each shape and dtype: milliseconds of each formulation, and the one that is chosen here.

    Computed on one core, as a device has it in a step.
    """
    with one_core():
        return _rows(args)


def _rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows, target = [], backend.target_at_hand()
    for shape in SHAPES:
        for dtype in DTYPES:
            row = {"examples x tokens x heads x size": " x ".join(map(str, shape)), "dtype": dtype}
            found = _milliseconds(shape, dtype, args.rounds, 2 * args.steps)
            examples, tokens, heads, _ = shape
            chosen = backend.attention(ModelConfig(), jnp.dtype(dtype), target, tokens)
            if chosen == "chunked":
                chosen = f"chunked_{backend.attention_chunk(examples, heads, tokens, 1)}"
            rows.append({**row, **found, "chosen": chosen})
    return rows


def _milliseconds(shape: tuple[int, ...], dtype: str, rounds: int, calls: int) -> dict[str, float]:
    examples, tokens, heads, size = shape
    random = np.random.RandomState(0)
    qkv = jnp.asarray(random.normal(size=(examples, tokens, 3, heads, size)), dtype)
    g = jnp.asarray(random.normal(size=(examples, tokens, heads, size)), dtype)
    ways = {"plain": _of_parts(attention.plain), "recomputed": _of_parts(attention.recomputed)}
    ways |= {f"chunked_{n}": _chunked(n) for n in (1, 2, 4, 8, 16, 32) if examples % n == 0}
    compiled = {name: jax.jit(partial(_both, way)).lower(qkv, g).compile() for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds):
        for name in list(ways) if i % 2 == 0 else reversed(ways):
            compiled[name](qkv, g)[0].block_until_ready()
            began = time.perf_counter()
            for _ in range(calls):
                out = compiled[name](qkv, g)
            jax.block_until_ready(out)
            times[name].append((time.perf_counter() - began) / calls)
    return {name: 1000 * statistics.median(seconds) for name, seconds in times.items()}


def _words() -> jax.Array:
    return jnp.zeros(2, jnp.uint32)


def _of_parts(formulation: Callable[..., jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return lambda qkv: formulation(*attention.split(qkv), _words(), 0.0)


def _chunked(size: int) -> Callable[[jax.Array], jax.Array]:
    return lambda qkv: attention.chunked(qkv, _words(), 0.0, size)


def _both(way: Callable[[jax.Array], jax.Array], qkv: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    out, vjp = jax.vjp(way, qkv)
    return out, vjp(g)[0]

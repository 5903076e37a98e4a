"""Gradients without data: fused attention against plain, bfloat16 against float32.

python -m trial.gradients [--rehearse]

B batch, N tokens, K heads, E head dim. Errors are ||a - b|| / ||b||. The measure of all is plain attention in float32
with matmuls at their highest precision (a GPU takes TF32 for float32 otherwise).
"""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trial.child import say
from vit_jax.cli.config_files import read
from vit_jax.config import ModelConfig
from vit_jax.models import attention, create, resolve
from vit_jax.steps.rules import path_of
from vit_jax.steps.state import init_params

# (N, K, E): of sprint; of record; small heads, with a class token and a register; two that are no multiple of 64.
SHAPES = [(64, 6, 64), (64, 8, 64), (66, 12, 32), (198, 3, 64)]

# bfloat16 keeps 8 bits: one rounding is up to 0.0039, and a gradient has gone through several.
ATTENTION_TOLERANCE = {"bfloat16": 0.02, "float32": 1e-5}
MODEL_TOLERANCE = 0.05


def error(a: Any, b: Any) -> float:
    """The norm of the difference of two trees, by that of the second."""
    difference, size = 0.0, 0.0
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x).astype(np.float64), np.asarray(y).astype(np.float64)
        difference, size = difference + np.sum((x - y) ** 2), size + np.sum(y**2)
    return float(np.sqrt(difference / size))


def compare_attention(fused: str, dtype: str, batch: int, shapes: list[tuple[int, int, int]]) -> bool:
    """A row for each shape: outputs and gradients of fused attention; whether all are within the tolerance."""
    words, held = jnp.zeros(2, jnp.uint32), True

    def plain(qkv: jax.Array) -> jax.Array:
        return attention.plain(*attention.split(qkv), words, 0.0)

    def cudnn(qkv: jax.Array) -> jax.Array:
        return attention.cudnn(*attention.split(qkv))

    def chunked(qkv: jax.Array) -> jax.Array:
        return attention.chunked(qkv, words, 0.0, 2)

    function = {"cudnn": cudnn, "chunked": chunked}[fused]
    for n, k, e in shapes:
        random = np.random.RandomState(n)
        qkv = jnp.asarray(random.normal(size=(batch, n, 3, k, e)), dtype)
        g = jnp.asarray(random.normal(size=(batch, n, k, e)), dtype)
        exact = [x.astype(jnp.float32) for x in (qkv, g)]
        case = f"attention alone, {fused} against plain, N {n}, K {k}, E {e}, batch {batch}"
        with jax.default_matmul_precision("highest"):
            truth = _both(plain, *exact)
        try:
            found, rounded = _both(function, qkv, g), _both(plain, qkv, g)
        except Exception as refused:  # what cuDNN can't, it says in many types; the other shapes are worth knowing
            held = False
            say(compared=case, dtype=dtype, held=False, refused=f"{type(refused).__name__}: {refused}"[:200])
            continue
        errors = {"output": error(found[0], truth[0]), "gradient": error(found[1], truth[1])}
        good = max(errors.values()) <= ATTENTION_TOLERANCE[dtype]
        held &= good
        say(
            compared=case, dtype=dtype, **errors, plain_gradient=error(rounded[1], truth[1]),
            tolerance=ATTENTION_TOLERANCE[dtype], held=good,
        )  # fmt: skip
    return held


def _both(function: Any, qkv: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Output (B, N, K, E) and gradient (B, N, 3, K, E)."""

    def run(qkv: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        out, pull = jax.vjp(function, qkv)
        return out, pull(g)[0]

    return jax.jit(run)(qkv, g)


def compare_model(name: str, fused: str, batch: int) -> bool:
    """Loss and gradients of a config's model, fused in bfloat16 and plain in bfloat16 against float32.

    Of two of its blocks: all of `sprint` in float32 compiled for longer than the part had.
    """
    model = resolve(dataclasses.replace(read(name).model, num_classes=10, depth=2), 10)
    random = np.random.RandomState(0)
    images = jnp.asarray(random.normal(size=(batch, model.image_size, model.image_size, 3)), jnp.float32)
    labels = jnp.asarray(random.randint(10, size=batch))
    with jax.default_matmul_precision("highest"):
        exact = dataclasses.replace(model, dtype="float32", attention="xla")
        params = jax.jit(lambda: _moved(init_params(create(exact), jnp.uint32(0))))()
        loss, gradients = _gradients(exact, params, images, labels)
    held = True
    for kind in ("xla", fused):
        rounded = dataclasses.replace(model, dtype="bfloat16", attention=kind)
        own_loss, own = _gradients(rounded, params, images, labels)
        errors = {"gradient": error(own, gradients), "attention_gradient": error(*map(_of_attention, (own, gradients)))}
        good = max(errors.values()) <= MODEL_TOLERANCE
        held &= good
        say(
            compared=f"{name}, two blocks, {'plain' if kind == 'xla' else kind} in bfloat16 against plain in float32",
            dtype="bfloat16", output=abs(float(own_loss) - float(loss)) / float(loss), **errors,
            tolerance=MODEL_TOLERANCE, held=good,
        )  # fmt: skip
    return held


def _moved(params: Any) -> Any:
    """Away from the initial values, whose head is zero: behind it no gradient would arrive."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.05 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, moved)


def _of_attention(tree: Any) -> list[jax.Array]:
    return [x for path, x in jax.tree_util.tree_leaves_with_path(tree) if "/attention/" in path_of(path)]


def _gradients(model: ModelConfig, params: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, Any]:
    module = create(model)

    def loss(params: Any) -> jax.Array:
        logits = module.apply({"params": params}, images)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="chunked attention in the place of cuDNN's; small")
    if parser.parse_args().rehearse:
        held = compare_model("debug", "chunked", 8)
        held &= compare_attention("chunked", "float32", 4, SHAPES[:1])
    else:  # what is sooner done comes first
        held = compare_attention("cudnn", "bfloat16", 64, SHAPES)
        held &= compare_model("sprint", "cudnn", 256)
    return int(not held)


if __name__ == "__main__":
    raise SystemExit(main())

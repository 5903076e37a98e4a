"""Activations by name, of arrays of any shape: computed in float32, given back in x's dtype.

Only x is kept for the backward pass. Each equals its plain formula within rounding (tests/models/test_ops.py).
A backward pass of one's own leaves JAX no rule for forward mode: where `compute.forward_mode` says so, the plain
formulas are computed (models/ops.py).
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from vit_jax.models.backend import Compute, barrier

# From x, float32, to the activation and its derivative.
_Formula = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


def gelu(x: jax.Array, compute: Compute) -> jax.Array:
    """x * Phi(x), exact (Hendrycks and Gimpel 2016)."""
    return _activation(x, _gelu, compute)


def gelu_tanh(x: jax.Array, compute: Compute) -> jax.Array:
    """Hendrycks' and Gimpel's approximation of it by a tanh."""
    return _activation(x, _gelu_tanh, compute)


def gelu_quick(x: jax.Array, compute: Compute) -> jax.Array:
    """Their other one, by a logistic function: x * sigmoid(1.702 x), as CLIP has it."""
    return _activation(x, _gelu_quick, compute)


def silu(x: jax.Array, compute: Compute) -> jax.Array:
    """x * sigmoid(x) (Elfwing et al. 2017; "swish" with beta 1)."""
    return _activation(x, _silu, compute)


def relu(x: jax.Array, compute: Compute) -> jax.Array:
    """max(x, 0), whose derivative at 0 is 0."""
    return _activation(x, _relu, compute)


def relu_squared(x: jax.Array, compute: Compute) -> jax.Array:
    """max(x, 0)^2 (So et al. 2021, "Primer")."""
    return _activation(x, _relu_squared, compute)


ACTIVATIONS: dict[str, Callable[[jax.Array, Compute], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_quick": gelu_quick,
    "silu": silu,
    "relu": relu,
    "relu_squared": relu_squared,
}


def _gelu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    cdf = 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return x * cdf, cdf + x * density


def _gelu_tanh(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # (1 + tanh(z)) / 2 as the logistic function of 2z, which doesn't cancel where x is far below 0.
    factor, cubic = 2 * math.sqrt(2 / math.pi), 0.044715
    share = jax.nn.sigmoid(factor * (x + cubic * x * x * x))
    slope = factor * (1 + 3 * cubic * x * x)
    return x * share, share + x * share * (1 - share) * slope


def _gelu_quick(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _times_sigmoid(x, 1.702)


def _silu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _times_sigmoid(x, 1.0)


def _times_sigmoid(x: jax.Array, steepness: float) -> tuple[jax.Array, jax.Array]:
    share = jax.nn.sigmoid(steepness * x)
    return x * share, share + steepness * x * share * (1 - share)


def _relu(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(x, 0), jnp.where(x > 0, 1.0, 0.0)


def _relu_squared(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    positive = jnp.maximum(x, 0)
    return positive * positive, 2 * positive


def _activation(x: jax.Array, formula: _Formula, compute: Compute) -> jax.Array:
    if compute.forward_mode:
        return _value(x, formula)
    return _with_derivative(x, formula, compute.barriers, compute.rounds_saved)


def _value(x: jax.Array, formula: _Formula) -> jax.Array:
    return formula(x.astype(jnp.float32))[0].astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _with_derivative(x: jax.Array, formula: _Formula, barriers: bool, rounds_saved: bool) -> jax.Array:
    return _value(x, formula)


def _forward(x: jax.Array, formula: _Formula, barriers: bool, rounds_saved: bool) -> tuple[jax.Array, jax.Array]:
    return _value(x, formula), barrier(x, rounds_saved)


def _backward(formula: _Formula, barriers: bool, rounds_saved: bool, x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    x, g = barrier((x, g), barriers)
    return ((g.astype(jnp.float32) * formula(x.astype(jnp.float32))[1]).astype(x.dtype),)


_with_derivative.defvjp(_forward, _backward)

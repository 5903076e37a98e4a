"""Low-rank adaptation (Hu et al. 2022, "LoRA"): a product A B is trained beside each kernel, which stays as it is.

G parts of the outputs (queries, keys and values have a product each), D inputs, F outputs, R rank.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax.errors import UserError
from vit_jax.steps.rules import path_of

NAMES = ("lora_a", "lora_b")  # (G, D, R) and (G, R, F / G), beside "kernel"
_ADAPTED = re.compile(r"block_\d+/(attention/qkv|mlp/(dense_0|gate|dense_1))/kernel")


def is_adapter(path: str) -> bool:
    return path.endswith(NAMES)


def is_trained(path: str) -> bool:
    """With low-rank adaptation: the products, and what classifies; not its pooling, which comes with weights."""
    return is_adapter(path) or (path.startswith("head/") and not path.startswith("head/pool/"))


def adapted(params: Any, rank: int, key: jax.Array) -> Any:
    """Parameters, written out block by block, with a product beside each kernel of queries, keys, values and MLPs.

    A is uniform as a new layer's of Hugging Face's PEFT, B is zero: the model is at first what it was. There is no
    factor alpha / R: Hu et al. set alpha to the R that they try first; another is another rate (rate_rules of lora_b).
    Raises UserError for a rank that is above a kernel's own.
    """
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    places = {path: i for i, path in enumerate(path for path in paths if _ADAPTED.fullmatch(path))}

    def entry(path: tuple[Any, ...], node: Any) -> Any:
        name = "/".join([path_of(path), "kernel"])
        if not (_is_layer(node) and name in places):
            return node
        kernel = node["kernel"]
        parts, ins = (kernel.shape[1], kernel.shape[0]) if kernel.ndim > 2 else (1, kernel.shape[0])  # G, D
        outs = math.prod(kernel.shape[1:]) // parts
        if rank > min(ins, outs):
            raise UserError(
                f"config.optim.lora_rank={rank}: {name} is {ins} x {outs}; give a rank that is at most both"
            )
        bound = ins**-0.5
        a = jax.random.uniform(jax.random.fold_in(key, places[name]), (parts, ins, rank), jnp.float32, -bound, bound)
        return {**node, "lora_a": a, "lora_b": jnp.zeros((parts, rank, outs), jnp.float32)}

    return jax.tree_util.tree_map_with_path(entry, params, is_leaf=_is_layer)


def merged(params: Any) -> Any:
    """Parameters, of the blocks one by one or stacked, with the products added to their kernels: those of a model."""

    def entry(node: Any) -> Any:
        if not (_is_layer(node) and "lora_a" in node):
            return node
        a, b, kernel = node["lora_a"], node["lora_b"], node["kernel"]
        with jax.default_matmul_precision("highest"):
            product = jnp.einsum("...gdr,...grf->...dgf", a, b)  # (..., D, G, F / G)
        whole = kernel + product.reshape(kernel.shape)
        return {"kernel": whole, **{name: x for name, x in node.items() if name not in ("kernel", *NAMES)}}

    return jax.tree.map(entry, params, is_leaf=_is_layer)


def with_adapters_of(params: Any, other: Any) -> Any:
    """Parameters with the products, where there are any, of another tree like them."""
    if not isinstance(other, dict):
        return params
    kept = {name: other[name] for name in NAMES if name in other}
    return {name: with_adapters_of(x, other[name]) for name, x in params.items()} | kept


def _is_layer(node: Any) -> bool:
    return isinstance(node, dict) and "kernel" in node

"""The blocks and the attention pooling of timm's models: what of theirs ours are made of.

D width, K heads, E head dim.
"""

from collections.abc import Mapping

import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.pretrained.files import Shape
from vit_jax.pretrained.pieces import Piece, norm, torch_dense, torch_dense_rows, torch_dense_stack

_NORM = (".weight", ".bias")


def block(
    cfg: ModelConfig, ours: str, theirs: str, shapes: Mapping[str, Shape], qkv_bias: bool, proj_bias: bool
) -> list[Piece]:
    d, inner = cfg.width, cfg.heads * cfg.head_dim
    found = norm(f"{ours}/norm_0", f"{theirs}.norm1", d, _NORM)
    if f"{theirs}.attn.q_proj.weight" in shapes:  # keys without biases
        names = [f"{theirs}.attn.{kind}_proj" for kind in "qkv"]
        biases = (qkv_bias, False, qkv_bias)
        qkv = torch_dense_stack(f"{ours}/attention/qkv", names, d, (cfg.heads, cfg.head_dim), biases)
    else:
        qkv = torch_dense(f"{ours}/attention/qkv", f"{theirs}.attn.qkv", (d,), (3, cfg.heads, cfg.head_dim), qkv_bias)
    if f"{theirs}.attn.q_bias" in shapes:
        qkv[1] = _biases_without_keys(cfg, f"{ours}/attention/qkv/bias", f"{theirs}.attn")
    if cfg.posemb == "learned_rope2d":
        qkv = [_of_interleaved(piece, cfg.head_dim) for piece in qkv]
    found += qkv if cfg.qkv_bias else qkv[:1]
    if cfg.qk_norm:
        for kind in "qk":
            found += norm(f"{ours}/attention/{kind}_norm", f"{theirs}.attn.{kind}_norm", cfg.head_dim, _NORM)
    found += torch_dense(f"{ours}/attention/out", f"{theirs}.attn.proj", (inner,), (d,), proj_bias)
    return found + norm(f"{ours}/norm_1", f"{theirs}.norm2", d, _NORM)


def _biases_without_keys(cfg: ModelConfig, ours: str, theirs: str) -> Piece:
    """Of queries and values, (K*E,) each: those of keys would change no softmax (Eva)."""
    shape = cfg.heads, cfg.head_dim
    names = (f"{theirs}.q_bias", f"{theirs}.v_bias")

    def into(q: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.stack([q.reshape(shape), np.zeros(shape, np.float32), v.reshape(shape)])

    def out(x: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, (x[0].reshape(-1), x[2].reshape(-1)), strict=True))

    return Piece(ours, {name: (shape[0] * shape[1],) for name in names}, into, out)


def _of_interleaved(piece: Piece, head_dim: int) -> Piece:
    """Queries, keys and values (..., 3, K, E) for rotations of channels 2 i and 2 i + 1, which are i and i + E/2 here.

    Values aren't turned: they stay.
    """
    order = np.arange(head_dim).reshape(-1, 2).T.reshape(-1)  # (E,): all first ones of a pair, then all second ones
    back = np.argsort(order)

    def turned(x: np.ndarray, order: np.ndarray) -> np.ndarray:
        return np.concatenate([x[..., :2, :, :][..., order], x[..., 2:, :, :]], axis=-3)

    return piece._replace(
        into=lambda *arrays: turned(piece.into(*arrays), order), out=lambda x: piece.out(turned(x, back))
    )


def mlp(cfg: ModelConfig, ours: str, theirs: str, bias: bool, packed: bool) -> list[Piece]:
    """timm's Mlp, or its SwiGLU, whose two first layers are one, SwiGLUPacked, or two."""
    d, hidden = cfg.width, (cfg.mlp_dim,)
    second = torch_dense(f"{ours}/dense_1", f"{theirs}.fc2", hidden, (d,), bias)
    if cfg.mlp_norm:
        second += norm(f"{ours}/norm", f"{theirs}.norm", cfg.mlp_dim, _NORM)
    if not cfg.gated_mlp:
        return torch_dense(f"{ours}/dense_0", f"{theirs}.fc1", (d,), hidden, bias) + second
    if packed:
        return torch_dense_rows(ours, ("gate", "dense_0"), f"{theirs}.fc1", d, cfg.mlp_dim) + second
    gate = torch_dense(f"{ours}/gate", f"{theirs}.fc1_g", (d,), hidden, bias)
    return gate + torch_dense(f"{ours}/dense_0", f"{theirs}.fc1_x", (d,), hidden, bias) + second


def attention_pool(cfg: ModelConfig) -> list[Piece]:
    d, heads, at = cfg.width, (cfg.heads, cfg.head_dim), "head/pool"
    latent = Piece(
        f"{at}/probe", {"attn_pool.latent": (1, 1, d)}, lambda x: x[0], lambda x: {"attn_pool.latent": x[None]}
    )
    return [
        latent,
        *torch_dense(f"{at}/query", "attn_pool.q", (d,), heads),
        *torch_dense(f"{at}/kv", "attn_pool.kv", (d,), (2, *heads)),
        *torch_dense(f"{at}/out", "attn_pool.proj", (cfg.heads * cfg.head_dim,), (d,)),
        *norm(f"{at}/norm", "attn_pool.norm", d, _NORM),
        *torch_dense(f"{at}/mlp/dense_0", "attn_pool.mlp.fc1", (d,), (cfg.mlp_dim,)),
        *torch_dense(f"{at}/mlp/dense_1", "attn_pool.mlp.fc2", (cfg.mlp_dim,), (d,)),
    ]

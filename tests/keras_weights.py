"""Weights of the article's model from Keras' names to ours."""

from typing import Any

import numpy as np


def from_keras(keras: dict[str, np.ndarray], depth: int, head_layers: int) -> dict[str, Any]:
    """Our params from arrays by Keras path; kernels need no transposing, only the three projections are stacked."""

    def numbered(name: str, i: int) -> str:
        return name if i == 0 else f"{name}_{i}"

    def dense(path: str) -> dict[str, np.ndarray]:
        return {"kernel": keras[f"{path}/kernel"], "bias": keras[f"{path}/bias"]}

    def norm(i: int) -> dict[str, np.ndarray]:
        path = numbered("layer_normalization", i)
        return {"scale": keras[f"{path}/gamma"], "bias": keras[f"{path}/beta"]}

    params: dict[str, Any] = {
        "stem": {"proj": dense("patch_encoder/dense")},
        "posemb": keras["patch_encoder/embedding/embeddings"],
        "norm": norm(2 * depth),
    }
    for i in range(depth):
        attention = numbered("multi_head_attention", i)
        parts = [dense(f"{attention}/{name}") for name in ("query", "key", "value")]
        out = dense(f"{attention}/attention_output")
        params[f"block_{i:02d}"] = {
            "norm_0": norm(2 * i),
            "attention": {
                "qkv": {key: np.stack([p[key] for p in parts], axis=-3 if key == "kernel" else 0) for key in parts[0]},
                "out": {"kernel": out["kernel"].reshape(-1, out["kernel"].shape[-1]), "bias": out["bias"]},
            },
            "norm_1": norm(2 * i + 1),
            "mlp": {"dense_0": dense(f"dense_{2 * i + 1}"), "dense_1": dense(f"dense_{2 * i + 2}")},
        }
    head = [dense(f"dense_{2 * depth + 1 + i}") for i in range(head_layers + 1)]
    params["head"] = {**{f"dense_{i}": layer for i, layer in enumerate(head[:-1])}, "logits": head[-1]}
    return params

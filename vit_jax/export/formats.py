"""Which formats can hold a model, and which of them can be written on this machine."""

import importlib.util

from vit_jax.config import ModelConfig
from vit_jax.export import huggingface, timm

# Of the formats that need more than this package does: what is imported for them, and how to get it.
NEEDS = {
    "jax": (("flatbuffers",), "pip install flatbuffers"),
    "onnx": (("onnx", "onnxruntime"), "pip install 'vit-jax[onnx]'"),
    "savedmodel": (("tensorflow",), "pip install tensorflow, in Python 3.13 or older"),
}
NAMES = ("safetensors", "huggingface", "timm", *NEEDS)


def obstacles(format: str, cfg: ModelConfig) -> list[str]:
    """The keys of a resolved model's config that Hugging Face's or timm's model has no place for."""
    if format not in ("huggingface", "timm"):
        return []
    checks = {
        f"stem.kind={cfg.stem.kind}": cfg.stem.kind != "patch",
        f"token_mlp_dim={cfg.token_mlp_dim}": cfg.token_mlp_dim is not None,
        f"representation_dim={cfg.representation_dim}": cfg.representation_dim is not None,
        f"head_mlp={cfg.head_mlp}": bool(cfg.head_mlp),
        "mlp_output_activation=True": cfg.mlp_output_activation,
        f"head_dim={cfg.head_dim}": cfg.token_mlp_dim is None and cfg.head_dim * cfg.heads != cfg.width,
    }
    checks |= huggingface.obstacles(cfg) if format == "huggingface" else timm.obstacles(cfg)
    return [name for name, found in checks.items() if found]


def instead(format: str, cfg: ModelConfig) -> str:
    """The other formats that hold a model and can be written here: "--format=safetensors, jax or onnx"."""
    *names, last = [name for name in NAMES if name != format and not obstacles(name, cfg) and _installed(name)]
    return f"--format={', '.join(names)} or {last}"


def _installed(format: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in NEEDS.get(format, ((), ""))[0])

"""Weights out: a trained model's parameters as safetensors, by our names or by those of Hugging Face or timm."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from vit_jax.config import ModelConfig
from vit_jax.data.view import interpolation_of
from vit_jax.errors import RunError, UserError
from vit_jax.export import formats
from vit_jax.export.parity import require_same
from vit_jax.models import VisionTransformer, posembs
from vit_jax.models.backend import Compute
from vit_jax.models.stems import grid_shape, image_shape, prefix_tokens
from vit_jax.pretrained import huggingface, own, timm
from vit_jax.pretrained.load import load
from vit_jax.pretrained.pieces import Piece
from vit_jax.runs.trained import Trained
from vit_jax.steps.rules import path_of


def write_weights(model: Trained, format: str, folder: Path) -> dict[str, Any]:
    """Writes model.safetensors and what belongs beside it; `format`: "safetensors", "huggingface" or "timm".

    What was written is loaded again, by the library that it is for, too, where that is installed, and its logits are
    compared with the model's. Gives what a description is to say. Raises UserError for a model that the other project
    can't express and RunError for weights that give other logits.
    """
    cfg, params = model.module.cfg, jax.tree.map(np.asarray, model.params)
    if format == "safetensors":
        flat = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
        _save(flat, folder, own.metadata(cfg))
    else:
        if obstacles := formats.obstacles(format, cfg):
            raise UserError(
                f"{format} has no model with {', '.join(obstacles)}; this one can be written here as "
                f"{formats.instead(format, cfg)}"
            )
        cfg, params = _with_learned_positions(cfg, params)
        _save(_renamed(_PIECES[format](cfg), params), folder, {"format": "pt"})
        for name, content in _CONFIGS[format](model, cfg).items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    readers = {"vit_jax's own reader": _by_us, **_libraries(format)}
    return {
        "preprocessing": {
            "image_size": _size(model.module.cfg),
            "mean": list(model.config.augment.mean),
            "std": list(model.config.augment.std),
            "crop_pct": model.crop_pct,
            "interpolation": _interpolation(model),
        },
        "largest_difference": _compared(model, folder, readers),
        "loaded_by": list(readers),
    }


def _save(arrays: dict[str, np.ndarray], folder: Path, marks: dict[str, str]) -> None:
    save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, folder / "model.safetensors", marks)


def _compared(model: Trained, folder: Path, readers: dict[str, Callable]) -> float:
    """The largest difference of logits on random images; raises RunError where it is no rounding."""
    images = np.random.RandomState(0).normal(size=(4, *image_shape(model.module.cfg))).astype(np.float32)
    module = VisionTransformer(dataclasses.replace(model.module.cfg, attention="xla"), Compute())
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(_applied(module, model.params, images))
        found = {name: _logits(name, run, folder, images) for name, run in readers.items()}
    largest = {name: float(np.abs(logits - expected).max()) for name, logits in found.items()}
    for name, difference in largest.items():
        require_same(f"{name}, which loaded the weights again,", difference, float(np.abs(expected).max()))
    return max(largest.values())


def _logits(name: str, run: Callable, folder: Path, images: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(run(folder, images))
    except Exception as error:  # whatever an older or newer library raises
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise RunError(f"{name}, which is installed, can't load the weights that were written ({text})") from error


def _by_us(folder: Path, images: np.ndarray) -> jax.Array:
    module, params = load(folder, dtype="float32", attention="xla")
    return _applied(module, params, images)


def _applied(module: VisionTransformer, params: Any, images: np.ndarray) -> jax.Array:
    """Logits, computed as one program: one operation after the other would each be compiled."""
    return jax.jit(lambda params, images: module.apply({"params": params}, images)[0])(params, images)


def _by_huggingface(folder: Path, images: np.ndarray) -> np.ndarray:
    import torch
    from transformers import ViTForImageClassification

    with torch.inference_mode():
        model = ViTForImageClassification.from_pretrained(folder).eval()
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits.numpy()


def _by_timm(folder: Path, images: np.ndarray) -> np.ndarray:
    import timm
    import torch

    with torch.inference_mode():
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


_LIBRARIES = {"huggingface": ("transformers", _by_huggingface), "timm": ("timm", _by_timm)}


def _libraries(format: str) -> dict[str, Callable]:
    """The library that a format is for, by name and version, where it and PyTorch are installed."""
    if format not in _LIBRARIES:
        return {}
    library, run = _LIBRARIES[format]
    if any(importlib.util.find_spec(name) is None for name in ("torch", library)):
        return {}
    return {f"{library} {metadata.version(library)}": run}


def _renamed(pieces: list[Piece], params: dict[str, Any]) -> dict[str, np.ndarray]:
    flat = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
    found: dict[str, np.ndarray] = {}
    for piece in pieces:
        found |= piece.out(flat[piece.ours])
    return found


def _with_learned_positions(cfg: ModelConfig, params: dict[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """The same model with its fixed positions, or none, as a learned table."""
    if cfg.posemb == "learned":
        return cfg, params
    grid = grid_shape(cfg)
    zeros = np.zeros((grid[0] * grid[1], cfg.width), np.float32)
    table = posembs.sincos2d(grid, cfg.width) if cfg.posemb == "sincos2d" else zeros
    return dataclasses.replace(cfg, posemb="learned"), {**params, "posemb": table}


_PIECES: dict[str, Callable[[ModelConfig], list[Piece]]] = {
    "huggingface": lambda cfg: huggingface.pieces(cfg, None, 1, grid_shape(cfg)),
    "timm": lambda cfg: timm.pieces(cfg, None, prefix_tokens(cfg), grid_shape(cfg)),
}


def _size(cfg: ModelConfig) -> int | list[int]:
    """A side in pixels, or height and width: as all who read weights take them."""
    height, width, _ = image_shape(cfg)
    return height if height == width else [height, width]


def _interpolation(model: Trained) -> str:
    """How images become as large as the model's: where they are stored so, as the data's were; else in the step."""
    stored_so = model.image_size == image_shape(model.module.cfg)[:2]
    return interpolation_of(model.config.data) if stored_so else "bilinear"


def _huggingface_configs(model: Trained, cfg: ModelConfig) -> dict[str, Any]:
    labels = dict(enumerate(model.classes))
    activations = {ours: theirs for theirs, ours in reversed(huggingface.ACTIVATIONS.items())}
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.depth,
        "num_attention_heads": cfg.heads,
        "intermediate_size": cfg.mlp_dim,
        "hidden_act": activations[cfg.activation],
        "layer_norm_eps": cfg.norm_eps,
        "image_size": _size(cfg),
        "patch_size": cfg.patch_size,
        "num_channels": cfg.channels,
        "qkv_bias": cfg.qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
        "dtype": "float32",
    }
    return {"config.json": config, "preprocessor_config.json": _huggingface_processor(model, cfg)}


def _huggingface_processor(model: Trained, cfg: ModelConfig) -> dict[str, Any]:
    """What AutoImageProcessor makes: BiT's processor, since ViT's own, before version 5, cuts nothing out.

    Its shortest_edge is the view of data/crops.py where that is a square, but for the middle of an odd rest, which lies
    a pixel before torchvision's. Of another size it knows no more than to stretch the whole image, which is right for
    images of the model's aspect.
    """
    height, width, channels = image_shape(cfg)
    square = height == width and model.image_size[0] == model.image_size[1]
    covered = [round(side / model.crop_pct) for side in (height, width)]
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": covered[0]} if square else {"height": covered[0], "width": covered[1]},
        "resample": _RESAMPLE[_interpolation(model)],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.config.augment.mean),
        "image_std": list(model.config.augment.std),
    }


def _timm_configs(model: Trained, cfg: ModelConfig) -> dict[str, Any]:
    height, width, channels = image_shape(cfg)
    args = {
        "img_size": _size(cfg),
        "in_chans": channels,
        "patch_size": cfg.patch_size,
        "embed_dim": cfg.width,
        "depth": cfg.depth,
        "num_heads": cfg.heads,
        "mlp_ratio": (cfg.mlp_dim + 0.5) / cfg.width,  # timm rounds the product down
        "global_pool": formats.TIMM_POOLS[cfg.pool],
        "class_token": cfg.pool == "token",
        "fc_norm": cfg.norm_after_pool,
        "reg_tokens": cfg.registers,
        "qkv_bias": cfg.qkv_bias,
        "qk_norm": cfg.qk_norm,
        "init_values": cfg.layer_scale,
        "act_layer": {ours: theirs for theirs, ours in reversed(timm.ACTIVATIONS.items())}[cfg.activation],
    }
    seen = {
        "input_size": [channels, height, width],
        "fixed_input_size": True,
        "interpolation": _interpolation(model),
        "crop_pct": model.crop_pct,
        "mean": list(model.config.augment.mean),
        "std": list(model.config.augment.std),
        "num_classes": cfg.num_classes,
        "label_names": list(model.classes),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return {
        "config.json": {
            "architecture": "vit_base_patch16_224",  # of which model_args change each size
            "num_classes": cfg.num_classes,
            "num_features": cfg.width,
            "model_args": args,
            "pretrained_cfg": seen,
        }
    }


_RESAMPLE = {"lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers
_CONFIGS = {"huggingface": _huggingface_configs, "timm": _timm_configs}

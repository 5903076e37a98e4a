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
from vit_jax.errors import RunError, UserError
from vit_jax.export import formats, huggingface, timm
from vit_jax.export.parity import require_same
from vit_jax.export.view import interpolation, side_or_sides
from vit_jax.models import VisionTransformer, posembs
from vit_jax.models.backend import Compute
from vit_jax.models.stems import grid_shape, image_shape
from vit_jax.pretrained import own
from vit_jax.pretrained.load import load
from vit_jax.pretrained.pieces import written
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
        pieces, configs, _, _ = _PROJECTS[format]
        cfg, params = _as_theirs(cfg, params, without_positions=format == "timm")
        flat = {path_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}
        _save(written(pieces(cfg), flat), folder, {"format": "pt"})
        for name, content in configs(model, cfg).items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    readers = {"vit_jax's own reader": _by_us, **_libraries(format)}
    return {
        "preprocessing": {
            "image_size": side_or_sides(model.module.cfg),
            "mean": list(model.config.augment.mean),
            "std": list(model.config.augment.std),
            "crop_pct": model.crop_pct,
            "interpolation": interpolation(model),
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


# Of each project: its arrays, what lies beside them, its library, and that library's logits.
_PROJECTS: dict[str, tuple[Callable, Callable, str, Callable]] = {
    "huggingface": (huggingface.pieces, huggingface.configs, "transformers", huggingface.logits),
    "timm": (timm.pieces, timm.configs, "timm", timm.logits),
}


def _libraries(format: str) -> dict[str, Callable]:
    """The library that a format is for, by name and version, where it and PyTorch are installed."""
    if format not in _PROJECTS:
        return {}
    _, _, library, run = _PROJECTS[format]
    if any(importlib.util.find_spec(name) is None for name in ("torch", library)):
        return {}
    return {f"{library} {metadata.version(library)}": run}


def _as_theirs(cfg: ModelConfig, params: dict[str, Any], without_positions: bool) -> tuple[ModelConfig, dict[str, Any]]:
    """The same model with fixed positions as a learned table, and no bias of patches before a norm.

    Of a model with that norm, CLIP's, they have none; it is added to the positions.
    """
    as_it_is = cfg.posemb == "none" and without_positions and not (cfg.embed_norm or cfg.distill_token)
    if cfg.posemb in posembs.ROTARY or as_it_is:
        return cfg, params
    grid, table = grid_shape(cfg), params.get("posemb")
    if table is None:
        zeros = np.zeros((grid[0] * grid[1], cfg.width), np.float32)
        table = np.asarray(posembs.sincos2d(grid, cfg.width)) if cfg.posemb == "sincos2d" else zeros
    if cfg.embed_norm:
        table = table + params["stem"]["proj"]["bias"]
    return dataclasses.replace(cfg, posemb="learned"), {**params, "posemb": table}

"""Our own exports: model.safetensors with the parameters by their paths, and the model's config in its metadata."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.models import VisionTransformer, encoder, resolve
from vit_jax.models.backend import Compute
from vit_jax.models.checks import check_model
from vit_jax.models.posembs import LEARNED
from vit_jax.models.stems import grid_shape, image_shape
from vit_jax.pretrained.files import Shape, Weights
from vit_jax.pretrained.pieces import Piece, same
from vit_jax.pretrained.positions import Grid, bilinear
from vit_jax.pretrained.source import (
    Layout,
    Preprocessing,
    Source,
    crop_pct_among,
    interpolation_among,
    not_more_than,
    nothing,
    preprocessing_of,
)
from vit_jax.schema import from_mapping, to_dict
from vit_jax.steps import state as states
from vit_jax.steps.rules import path_of

FORMAT = "vit_jax"


def metadata(model: ModelConfig) -> dict[str, str]:
    """What marks a file as ours. How a machine computes isn't the model's."""
    model = dataclasses.replace(model, attention="auto", dtype="auto", remat=False, scan=False)
    return {"format": FORMAT, "model": json.dumps(to_dict(model))}


def recognises(weights: Weights) -> bool:
    return weights.metadata.get("format") == FORMAT


def config_of(weights: Weights) -> ModelConfig:
    """The model's config; raises UserError where the metadata hold none that this version knows."""
    try:
        mapping = json.loads(weights.metadata["model"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{weights.path} says that it is ours and has no model in its metadata ({error})") from error
    model = resolve(from_mapping(ModelConfig, mapping, f"{weights.path}: model"))
    not_more_than(model.depth, weights.shapes)
    check_model(model)
    return model


def fields(weights: Weights, given: Mapping[str, Any]) -> dict[str, Any]:
    return to_dict(config_of(weights))


def layout(weights: Weights, model: Mapping[str, Any], given: Mapping[str, Any]) -> Layout:
    cfg = config_of(weights)
    return Layout(0, grid_shape(cfg) if cfg.posemb in LEARNED else None, image_shape(cfg)[:2])


def paths(module: VisionTransformer) -> dict[str, Shape]:
    """Shapes of a module's parameters by path, block by block."""
    params = encoder.unstacked(states.abstract_params(module))
    return {path_of(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}


def pieces(cfg: ModelConfig, weights: Weights, before: int, grid: Grid | None) -> list[Piece]:
    """Each parameter is itself."""
    ours = paths(VisionTransformer(cfg, Compute()))
    found = [same(path, path, shape) for path, shape in ours.items() if path != "posemb"]
    if grid and "posemb" in ours:  # before it is resized
        found.append(same("posemb", "posemb", (grid[0] * grid[1], cfg.width)))
    return found


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """ "a/b" -> {"a": {"b": ...}}."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def preprocessing(weights: Weights) -> Preprocessing | None:
    """Of an export model.json says it, of a run its config."""
    said = weights.beside("model.json").get("preprocessing") or weights.beside("config.json").get("augment")
    found = preprocessing_of(said, "mean", "std", None)
    view = weights.beside("model.json").get("preprocessing") or weights.beside("config.json").get("data") or {}
    if found is None or not isinstance(view, Mapping):
        return found
    return found._replace(
        interpolation=interpolation_among(view.get("interpolation")), crop_pct=crop_pct_among(view.get("crop_pct"))
    )


SOURCE = Source("vit_jax", recognises, fields, layout, pieces, lambda weights: bilinear, nothing, preprocessing)

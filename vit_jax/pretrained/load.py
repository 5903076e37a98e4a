"""Weights in: a file or folder of another project, or of ours, becomes a module and its parameters."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.models import VisionTransformer, create, resolve
from vit_jax.models.backend import target_at_hand
from vit_jax.models.stems import grid_shape
from vit_jax.pretrained import google, hub, huggingface, own, timm, torchvision, views
from vit_jax.pretrained.files import Weights, open_weights
from vit_jax.pretrained.pieces import Piece, check, convert, spread_over_colours, summed_over_colours
from vit_jax.pretrained.positions import Grid, Resize
from vit_jax.pretrained.source import Layout, Preprocessing, Source, not_more_than, pair
from vit_jax.runs import trained
from vit_jax.schema import from_mapping, unknown
from vit_jax.steps.rules import path_of
from vit_jax.system.disk import expanded
from vit_jax.system.progress import say

_SOURCES = (own.SOURCE, google.SOURCE, huggingface.SOURCE, timm.SOURCE, torchvision.SOURCE)
_LOGITS = ("head/logits/", "head/logits_distill/")
_SIZES = ("image_size", "image_width", "stored_image_size")  # the first and the last may be height and width
_FIRST = ("stem/proj/kernel", "stem/conv_0/kernel")  # what takes the pixels


@dataclasses.dataclass(frozen=True)
class Described:
    """Weights, read up to their names and shapes."""

    source: Source
    weights: Weights
    model: dict[str, Any]  # the keys of a ModelConfig that they and what was given by hand say
    stored_classes: int | None  # None: there is no classifier
    stored_channels: int  # of the images that they are for
    stored_heads: int | None  # None: they don't tell
    without: tuple[str, ...]  # beginnings of names that aren't wanted; the head that follows on them isn't, either
    layout: Layout
    preprocessing: Preprocessing | None  # None: the weights don't tell


def load(path: str | Path, **overrides: Any) -> tuple[VisionTransformer, dict[str, Any]]:
    """(module, params) of published weights: `module.apply({"params": params}, images)` gives the source's logits.

    The source is recognised: files of google-research's vision_transformer and big_vision (.npz), folders of Hugging
    Face's vision models, state dicts of timm's and torchvision's VisionTransformer (.safetensors, .npz), our own
    exports and workdirs, hf://OWNER/NAME (docs/weights.md has all). Epsilon, activation and pooling follow it.
    `overrides` are keys of config.model: what a file doesn't tell (`heads`, of timm's state dicts), or what is wanted
    otherwise: `image_size` (a number, or height and width) resizes positions in the source's way, another `num_classes`
    puts a new head of zeros in the place of the old one, and says so, 0 leaves it out, so that the module gives
    features; `channels=1` sums the first kernel over the colours, for grey images, `channels=3` spreads one of grey
    images over them. `stored_image_size` tells the size that positions are for where it can't be read off.

    Images (B, H, W, C) come as the source wants them: in [-1, 1] for Google's files. The computation is in float32
    unless `dtype` says otherwise; accelerators round the factors of float32 matmuls unless
    jax.default_matmul_precision is "highest". Raises UserError for a file that can't be read, and with every mismatch
    of names and shapes at once, before an array is read.
    """
    described = describe(path, {"dtype": "float32", **overrides})
    target, model = target_at_hand(), resolve(from_mapping(ModelConfig, described.model, "model"))
    module = create(trained.usable_on(target, model), target)
    return module, params_for(module, described)


def describe(path: str | Path, given: Mapping[str, Any]) -> Described:
    """Recognises the weights at `path` and reads off what their names and shapes say; `given` says the rest.

    Raises UserError for weights of no known source, and asks by name for what they don't tell. Uses no device, but for
    a run's workdir.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        raise UserError(f"weights are a file or a folder, like B_16.npz or runs/first; found {path!r}")
    if given.get("image_width") is not None:
        if not isinstance(given.get("image_size"), int):
            raise UserError("image_width is beside a height, image_size=224; or say both: image_size=(224, 160)")
        given = {**given, "image_size": (given["image_size"], given["image_width"])}
    by_hand = _by_hand(given)
    weights = _open(hub.fetched(path) if hub.is_named(path) else Path(path))
    try:
        return _described(weights, by_hand, given)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # Names, shapes and JSON from strangers can be anything.
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise UserError(
            f"{weights.path}: its names, shapes, config or metadata are not those of a model ({text}); bring it again "
            "from where it came"
        ) from error


def _by_hand(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a ModelConfig that were given, a variant as its sizes, without those of images."""
    known = [*(field.name for field in dataclasses.fields(ModelConfig)), *_SIZES]
    for key in given:
        if key not in known:
            raise UserError(unknown("key", key, known))
    keys = {key: value for key, value in given.items() if key not in (*_SIZES, "variant")}
    from_mapping(ModelConfig, keys, "model")  # their types
    if given.get("variant") is None:
        return keys
    sizes = resolve(ModelConfig(variant=given["variant"], num_classes=1))
    return {key: getattr(sizes, key) for key in ("width", "depth", "heads", "mlp_dim", "patch_size")} | keys


def _described(weights: Weights, by_hand: dict[str, Any], given: Mapping[str, Any]) -> Described:
    known = views.known_by(weights, lambda view: _source_of(view) is not None)
    source = None if known is None else _source_of(known)
    if known is None or source is None:
        names = ", ".join(list(weights.shapes)[:4]) or "no array at all"
        raise UserError(
            f"{weights.path}: the names are of none of the projects that are known "
            f"({', '.join(source.name for source in _SOURCES)}); found {names}"
        )
    weights, found = known, source.fields(known, given)
    model = found | by_hand
    not_more_than(model["depth"], weights.shapes)
    layout = source.layout(weights, model, given)
    size, classes = pair(given.get("image_size")) or layout.image_size, model.get("num_classes")
    asked = {
        "heads": (model.get("heads") or model.get("token_mlp_dim"), "the number of attention heads", "12"),
        "activation": (model.get("activation"), "the kind of GELU", "gelu, gelu_tanh or gelu_quick"),
        "norm_eps": (model.get("norm_eps"), "the norms' epsilon", "1e-6, or 1e-5 as CLIP's"),
        "num_classes": (classes, "the number of classes, having no classifier", "10, or 0 for features"),
        "image_size": (size, "the size of the images", "224"),
    }
    open_keys = [(key, what, like) for key, (value, what, like) in asked.items() if value is None]
    if open_keys:
        whats = " and ".join(what for _, what, _ in open_keys)
        keys = "; ".join(f"{key}={like}" for key, _, like in open_keys)
        command = f"on the command line --config.model.{open_keys[0][0]}=..."
        raise UserError(f"{weights.path} doesn't tell {whats}; say so, like {keys} ({command})")
    height, width = size
    model |= {"image_size": height, "image_width": None if width == height else width}
    drops = found.get("representation_dim") is not None and model["representation_dim"] is None
    without = ("pre_logits/", "head/representation/") if drops else ()
    return Described(
        source,
        weights,
        model,
        found.get("num_classes"),
        found["channels"],
        found.get("heads"),
        without,
        layout,
        source.preprocessing(weights),
    )


def _source_of(weights: Weights) -> Source | None:
    return next((source for source in _SOURCES if source.recognises(weights)), None)


def _open(path: Path) -> Weights:
    """A file or folder of weights; a run's workdir becomes one like an export of ours."""
    path = expanded(path)
    if not (path / "checkpoints").is_dir():
        return open_weights(path)
    run = trained.load(str(path))
    flat = {path_of(where): x for where, x in jax.tree_util.tree_leaves_with_path(run.params)}
    shapes = {name: x.shape for name, x in flat.items()}
    return Weights(path, shapes, lambda name: np.asarray(flat[name]), metadata=own.metadata(run.config.model))


def fitting(module: VisionTransformer, described: Described) -> list[Piece]:
    """What a module takes from what is described, without the logits if those are to be new.

    Raises UserError with every mismatch of names and shapes, before an array is read.
    """
    source, weights, cfg = described.source, described.weights, module.cfg
    before, grid, _ = described.layout
    classes = cfg.num_classes if described.stored_classes is None else described.stored_classes
    stored = dataclasses.replace(cfg, channels=described.stored_channels, num_classes=classes)
    pieces, wanted, replaced = source.pieces(stored, weights, before, grid), own.paths(module), set()
    if stored.channels != cfg.channels:
        _check_summable(weights.path, cfg)
        change = summed_over_colours if cfg.channels == 1 else spread_over_colours
        pieces = [change(piece) if piece.ours in _FIRST else piece for piece in pieces]
    if _has_new_head(cfg, described):
        replaced = {name for piece in pieces if piece.ours.startswith(_LOGITS) for name in piece.theirs}
        pieces = [piece for piece in pieces if not piece.ours.startswith(_LOGITS)]
        wanted = {path: shape for path, shape in wanted.items() if not path.startswith(_LOGITS)}
    if grid is not None and "posemb" in wanted:  # it is resized
        wanted["posemb"] = (grid[0] * grid[1], cfg.width)
    check(weights, pieces, wanted, lambda n: n in replaced or n.startswith(described.without) or source.ignored(n))
    if described.stored_heads not in (None, cfg.heads):  # shapes fit all the same
        said = f"{weights.path} is of a model with heads={described.stored_heads}"
        raise UserError(f"{said}; found heads={cfg.heads}: leave that out")
    return pieces


def _check_summable(path: Path, cfg: ModelConfig) -> None:
    """Raises UserError where weights for another number of channels than the model's can't become its own."""
    if cfg.stem.kind == "resnet" or cfg.stem.whiten:
        layer = "a ResNet, whose kernels are standardised" if cfg.stem.kind == "resnet" else "a whitening layer"
        kind, other = ("grey images", "colours") if cfg.channels == 3 else ("colours", "grey images")
        raise UserError(
            f"{path}: weights for {kind} that begin with {layer}, can't become those for {other}; "
            f"leave channels={4 - cfg.channels}"
        )


def _has_new_head(cfg: ModelConfig, described: Described) -> bool:
    return bool(described.without) or cfg.num_classes != described.stored_classes


def params_for(module: VisionTransformer, described: Described) -> dict[str, Any]:
    """The parameters (float32) of a module whose config follows from what is described; the head may be a new one."""
    pieces, shapes, cfg = fitting(module, described), own.paths(module), module.cfg
    flat = convert(described.weights, pieces)
    if described.stored_channels != cfg.channels:
        what = "summed over the colours, for grey" if cfg.channels == 1 else "spread over the colours, for RGB"
        say(f"The first kernel is {what} images.")
    if (grid := described.layout.grid) is not None and "posemb" in flat:
        flat["posemb"] = _resized(flat["posemb"], grid, grid_shape(cfg), described.source.resize(described.weights))
    if _has_new_head(cfg, described):
        flat |= {path: np.zeros(shape, np.float32) for path, shape in shapes.items() if path.startswith(_LOGITS)}
        old = described.stored_classes
        if cfg.num_classes:
            what = f"The head of {old} classes is replaced by" if old else "The file has no head: there is"
            say(f"{what} a new one of {cfg.num_classes}, all zeros.")
        elif old:
            say(f"The head of {old} classes is left out: the model gives features.")
    return own.nested({path: flat[path] for path in shapes})


def _resized(table: np.ndarray, grid: Grid, here: Grid, resize: Resize) -> np.ndarray:
    """A table (N, D) of one grid for another."""
    if grid == here:
        return table
    say(f"Positions of {grid[0]} x {grid[1]} patches are resized to {here[0]} x {here[1]}.")
    return resize(table.reshape(*grid, -1), here).reshape(here[0] * here[1], -1)  # (N', D)

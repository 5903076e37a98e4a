"""Training that starts from weights, `config.init_from`: they say what the config leaves open of model and images."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from vit_jax.config import Config, ModelConfig
from vit_jax.models import VisionTransformer, create, encoder, resolve
from vit_jax.models.stems import image_shape
from vit_jax.pretrained import hub
from vit_jax.pretrained.load import Described, describe, fitting, params_for
from vit_jax.pretrained.source import Preprocessing
from vit_jax.runs.folder import RunFolder
from vit_jax.schema import flat, from_mapping, to_dict
from vit_jax.system.progress import say

# What the config alone says: the data's part, and how the machine computes.
_OURS = ("num_classes", "attention", "dtype", "remat", "scan")
_SIZES = ("image_size", "image_width")


def keys_of_model(overrides: Mapping[str, Any]) -> list[str]:
    """The keys of config.model that overrides say, one by one ("model.width") or as a group ("model")."""
    return [key.removeprefix("model.") for key in flat(overrides) if key.startswith("model.")]


def with_model(config: Config, workdir: str | None, given: Collection[str] = ()) -> Config:
    """The config with its model filled in: from the run in `workdir`, if there is one, else from the weights.

    So are the size of the images, how they get it and what they are normalised with, where that is open. Keys of the
    model that differ from their defaults stay, and those `given` by name. Raises UserError for weights that can't be
    used and for what they don't tell. Uses no device.
    """
    if config.init_from is None:
        return config
    run = RunFolder(workdir) if workdir else None
    if hub.is_named(config.init_from) and not (run and run.exists()):
        config = dataclasses.replace(config, init_from=hub.pinned(config.init_from))
    start = RunFolder(str(config.init_from))
    model, default = to_dict(config.model), to_dict(ModelConfig())
    chosen = {key: value for key, value in model.items() if value != default[key] or key in given}
    # Progressive resolution ends with the model's own size.
    sized = bool(config.train.sizes) or not chosen.keys().isdisjoint(_SIZES)
    if run and run.exists():  # the normalisation that it has filled in stays its own, too
        known, theirs = to_dict(run.config().model), None
    elif start.exists() and (start.path / "checkpoints").is_dir():
        before = start.config()
        view = before.data.interpolation, before.data.crop_pct
        known, theirs = to_dict(before.model), Preprocessing(before.augment.mean, before.augment.std, *view)
    else:
        # Any class count will do for now: a new head takes the place of one of another.
        sizes = {"num_classes": config.model.num_classes or 1}
        sizes |= {key: model[key] for key in _SIZES} if sized else {}
        described = describe(config.init_from, chosen | sizes)
        known, theirs = described.model, described.preprocessing
    chosen.pop("variant", None)  # its sizes are known by now
    known |= {key: model[key] for key in (*_OURS, *(_SIZES if sized else ()))} | chosen
    augment, data = config.augment, config.data
    if theirs is not None:
        theirs = theirs.of(known["channels"])
        augment = dataclasses.replace(augment, mean=augment.mean or theirs.mean, std=augment.std or theirs.std)
        data = dataclasses.replace(
            data,
            interpolation=data.interpolation or theirs.interpolation,
            crop_pct=theirs.crop_pct if data.crop_pct is None else data.crop_pct,
        )
    model = from_mapping(ModelConfig, known, "config.model")
    return dataclasses.replace(config, augment=augment, data=data, model=model)


def check_start(config: Config) -> None:
    """Says what images become for the weights that a config is to start from: their size, and how they are normalised.

    Raises UserError with every mismatch between its model and the weights.
    """
    module = create(resolve(config.model, config.model.num_classes or 1))
    described = _describe(config, module)
    fitting(module, described)
    height, width, channels = image_shape(config.model)
    layout = described.layout
    if layout.grid is None:  # then it has the size that was asked for, where the weights know none
        layout = described.source.layout(described.weights, described.model, {})
    own = layout.image_size
    if own == (height, width):
        size = f"as the weights in {config.init_from} are for"
    else:
        others = f"; the weights in {config.init_from} are for {own[0]} x {own[1]}" if own else ""
        size = f"as the config says{others}"
    here = config.augment.mean, config.augment.std
    theirs = described.preprocessing
    if theirs is not None and here == theirs.of(channels)[:2]:
        normalised = "normalised as for those"
    elif all(here):
        normalised = "normalised as the config says"
    else:
        normalised = "normalised by the train images, as the weights don't tell how"
    kind = "Grey images" if channels == 1 else "Images"
    say(f"{kind} of {height} x {width} pixels, {size}; {normalised}.")


def params_of(config: Config, module: VisionTransformer) -> dict[str, Any]:
    """The parameters, float32, of the weights at `config.init_from` for the module of a resolved config.

    Raises UserError as `check_start` does, before an array is read.
    """
    described = _describe(config, module)
    params = params_for(module, described)
    if described.stored_classes == module.cfg.num_classes and not described.without:
        say(f"The head of the weights is kept: its {module.cfg.num_classes} classes are the data's, in this order.")
    return encoder.stacked(params) if module.cfg.scan else params


def _describe(config: Config, module: VisionTransformer) -> Described:
    return describe(config.init_from, to_dict(module.cfg))

"""Training that starts from weights, `config.init_from`: they say what the config of the model leaves open."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vit_jax.config import Config, ModelConfig
from vit_jax.models import VisionTransformer, create, resolve
from vit_jax.pretrained.load import describe, fitting, params_for
from vit_jax.runs.folder import RunFolder
from vit_jax.schema import from_mapping, to_dict

# What the config alone says: the data's part, and how the machine computes.
_OURS = ("image_size", "image_width", "num_classes", "attention", "dtype", "remat")


def with_model(config: Config, workdir: str, given: Collection[str] = ()) -> Config:
    """The config with its model filled in: from the run in `workdir` if there is one, else from the weights.

    Keys that differ from their defaults stay, and those `given` by name. Raises UserError for weights that can't be
    used and for what they don't tell. Uses no device.
    """
    if config.init_from is None:
        return config
    run, start = RunFolder(workdir), RunFolder(config.init_from)
    model, default = to_dict(config.model), to_dict(ModelConfig())
    chosen = {key: value for key, value in model.items() if value != default[key] or key in given}
    if run.exists():
        known = to_dict(run.config().model)
    elif start.exists() and (start.path / "checkpoints").is_dir():
        known = to_dict(start.config().model)
    else:
        # Any class count will do for now: a new head takes the place of one of another.
        sizes = {"image_size": config.model.image_size, "num_classes": config.model.num_classes or 1}
        known = describe(Path(config.init_from), chosen | sizes).model
    chosen.pop("variant", None)  # its sizes are known by now
    known |= {key: model[key] for key in _OURS} | chosen
    return dataclasses.replace(config, model=from_mapping(ModelConfig, known, "config.model"))


def check_start(config: Config) -> None:
    """Raises UserError with every mismatch between the model of a config and the weights that it is to start from."""
    module = create(resolve(config.model, config.model.num_classes or 1))
    fitting(module, _describe(config, module))


def params_of(config: Config, module: VisionTransformer) -> dict[str, Any]:
    """The parameters, float32, of the weights at `config.init_from` for the module of a resolved config.

    Raises UserError as `check_start` does, before an array is read.
    """
    return params_for(module, _describe(config, module))


def _describe(config: Config, module: VisionTransformer) -> Any:
    return describe(Path(config.init_from), {**to_dict(module.cfg), "image_size": module.cfg.image_size})

"""Training that starts from weights, `config.init_from`, which say what the model's config leaves at its default."""

import dataclasses
from pathlib import Path
from typing import Any

from vit_jax.config import Config, ModelConfig, from_mapping, to_dict
from vit_jax.models import VisionTransformer, resolve
from vit_jax.pretrained import own
from vit_jax.pretrained.load import describe, fitting, params_for
from vit_jax.run import RunFolder


def with_model(config: Config, workdir: str) -> Config:
    """The config with its model filled in: from the run in `workdir` if there is one, else from the weights.

    Keys that differ from their defaults stay, and so do the image's size, and the class count for the data to say.
    Raises UserError for weights that can't be used and for what they don't tell. Uses no device.
    """
    if config.init_from is None:
        return config
    run, start = RunFolder(workdir), RunFolder(config.init_from)
    model, default = config.model, ModelConfig()
    chosen = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if getattr(model, field.name) != getattr(default, field.name)
    }
    kept = {"image_size": model.image_size, "image_width": model.image_width, "num_classes": model.num_classes}
    if run.exists():
        known = to_dict(run.config().model)
    elif start.exists() and (start.path / "checkpoints").is_dir():
        known = to_dict(start.config().model) | kept
    else:
        # Any class count will do for now: a new head takes the place of one of another.
        given = {"num_classes": 1, **to_dict_of(chosen), "image_size": model.image_size}
        described = describe(Path(config.init_from), given)
        if described.source is not own.SOURCE:  # what those take, shapes say; ours would need a device
            fitting(resolve(from_mapping(ModelConfig, described.model, "config.model")), described)
        known = described.model | kept
    return dataclasses.replace(config, model=from_mapping(ModelConfig, known | chosen, "config.model"))


def to_dict_of(chosen: dict[str, Any]) -> dict[str, Any]:
    return {
        key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for key, value in chosen.items()
    }


def params_of(config: Config, module: VisionTransformer) -> dict[str, Any]:
    """The parameters, float32, of the weights at `config.init_from` for the module of a resolved config.

    Raises UserError with every mismatch of names and shapes, before an array is read.
    """
    return params_for(module, describe(config.init_from, to_dict(config.model)))

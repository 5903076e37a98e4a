"""The model of a run, or that of weights of any kind, as a source of features."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vit_jax.config import Config
from vit_jax.data.view import view_of
from vit_jax.errors import UserError
from vit_jax.evaluation.features import Extractor
from vit_jax.pretrained import load
from vit_jax.runs.trained import Trained


def of_run(model: Trained) -> Extractor:
    name = f"checkpoint {model.step} of {model.run.path}"
    return Extractor(name, model.module, model.params, model.config, model.view)


def of_weights(config: Config, overrides: Mapping[str, Any]) -> Extractor:
    """Of the weights that `config` starts from, without a classifier; of `overrides` it takes the keys of the model."""
    weights = str(config.init_from)
    given = {key.removeprefix("model."): value for key, value in overrides.items() if key.startswith("model.")}
    module, params = load(weights, **{"num_classes": 0, **given})
    if not (config.augment.mean and config.augment.std):
        raise UserError(f"{weights} doesn't tell the images' mean and std; start a run from it, and give its --workdir")
    config = dataclasses.replace(config, model=module.cfg)
    return Extractor(weights, module, params, config, view_of(config.data, module.cfg))

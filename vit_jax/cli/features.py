"""`vit-jax features`: the model of a run, or that of weights of any kind, as a source of features."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.config import Config
from vit_jax.data.view import view_of
from vit_jax.errors import UserError
from vit_jax.evaluation.features import Extractor, extract
from vit_jax.evaluation.predict import find_images
from vit_jax.pretrained import load
from vit_jax.runs import trained
from vit_jax.system.disk import expanded
from vit_jax.system.progress import doing


def features(
    workdir: str | None,
    checkpoint: str | None,
    config: Config | None,
    images: Sequence[str],
    output: str,
    tokens: bool,
    overrides: Mapping[str, Any],
    check: Callable[[], None],
) -> None:
    """Writes features of all images to `output`, by the run in `workdir` or by the weights that a `config` starts from.

    Raises UserError for what can't be used.
    """
    path = expanded(output)
    if path.suffix != ".npz":
        raise UserError(f"--output={output}: features are written as .npz, like --output=features.npz")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output={output}: there is no folder {path.absolute().parent}; make it, or name another")
    if path.exists():
        raise UserError(f"--output={output}: this file is there already; remove it, or name another")
    if config is None and overrides:
        raise UserError(f"--config.{next(iter(overrides))} is of --weights; a run's model is as it is")
    if config is not None and checkpoint is not None:
        raise UserError("--checkpoint is of a run; --weights are as they are")
    files, _ = find_images(images)
    with doing("Loading"):
        extractor = _of_run(str(workdir), checkpoint) if config is None else _of_weights(config, overrides)
    extract(extractor, files, path, tokens, check)


def _of_run(workdir: str, checkpoint: str | None) -> Extractor:
    model = trained.load(workdir, checkpoint)
    name = f"checkpoint {model.step} of {model.run.path}"
    return Extractor(name, model.module, model.params, model.config, model.view)


def _of_weights(config: Config, overrides: Mapping[str, Any]) -> Extractor:
    weights = str(config.init_from)
    module, params = load(weights, **{"num_classes": 0, **{k.removeprefix("model."): v for k, v in overrides.items()}})
    if not (config.augment.mean and config.augment.std):
        raise UserError(f"{weights} doesn't tell what images are normalised with; start a run from it, and name that")
    config = dataclasses.replace(config, model=module.cfg)
    return Extractor(weights, module, params, config, view_of(config.data, module.cfg))

"""`vit-jax features`: what a run's model, or that of weights of any kind, sees in one's own pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax.cli.extractors import of_run, of_weights
from vit_jax.config import Config
from vit_jax.errors import UserError
from vit_jax.evaluation.features import extract
from vit_jax.evaluation.predict import find_images
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
    files, _ = find_images(images)
    with doing("Loading"):
        extractor = of_run(trained.load(str(workdir), checkpoint)) if config is None else of_weights(config, overrides)
    extract(extractor, files, path, tokens, check)

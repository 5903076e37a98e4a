"""`vit-jax fewshot`: how good the features of a run are, or those of weights on a data set."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vit_jax.cli.extractors import of_run, of_weights
from vit_jax.cli.modes import OF_A_RUN
from vit_jax.config import Config, DataConfig
from vit_jax.data import sources
from vit_jax.data.dataset import DataSet, in_both, split_range, with_default_splits
from vit_jax.errors import UserError
from vit_jax.evaluation.features import Extractor
from vit_jax.evaluation.fewshot import fewshot as score
from vit_jax.runs import trained
from vit_jax.schema import with_overrides
from vit_jax.system.disk import expanded, write_whole
from vit_jax.system.progress import doing, say


def fewshot(
    workdir: str | None,
    checkpoint: str | None,
    config: Config | None,
    output: str | None,
    shots: Sequence[int],
    knn: Sequence[int],
    linear: bool,
    overrides: Mapping[str, Any],
    check: Callable[[], None],
) -> None:
    """Scores a run's checkpoint, or the weights that a `config` starts from, and writes fewshot.json.

    That is beside a run's results.json; of weights it is `output`. Raises UserError for a run, or data, without one of
    the splits, and for what can't be used.
    """
    path = expanded(output or "fewshot.json")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--output={path}: there is no folder {path.absolute().parent}; make it, or name another")
    scored = partial(score, shots=shots, knn=knn, linear=linear, check=check)
    if config is None:
        _of_a_run(str(workdir), checkpoint, output, overrides, scored)
        return
    with doing("Loading"):
        model = of_weights(config, overrides)
    with doing("Reading the data"):
        dataset = sources.load(model.config)
        data = with_default_splits(model.config.data, dataset.splits)
        _check_splits(dataset, data)
    found = {"weights": model.name, "data": dataset.name, **scored(model, dataset, data)}
    _write(path, found)
    say(f"In {path}")


def _of_a_run(
    workdir: str,
    checkpoint: str | None,
    output: str | None,
    overrides: Mapping[str, Any],
    scored: Callable[[Extractor, DataSet, DataConfig], dict[str, Any]],
) -> None:
    for key in overrides:
        if key not in OF_A_RUN:
            raise UserError(f"--config.{key} is of --weights; a run's data and model are as they are")
    model = trained.load(workdir, checkpoint)
    run, config = model.run, with_overrides(model.config, overrides)
    if not config.data.validation:
        raise UserError("few-shot evaluation chooses its ridge on validation images, and the run has none")
    if not config.data.test:
        raise UserError(
            f"{run.path} has no test images; name some with --config.data.test that are neither in its "
            f"config.data.train={config.data.train!r} nor in its config.data.validation={config.data.validation!r}"
        )
    with doing("Reading the data"):
        dataset = sources.load(config, must_find_dir=False, sha256=run.data_sha256())
        run.check_data(dataset)
        _check_splits(dataset, config.data)
    found = {"checkpoint": model.step, **scored(of_run(model), dataset, config.data)}
    if output:
        _write(expanded(output), found)
    else:
        run.write("fewshot.json", found)


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2) + "\n")


def _check_splits(dataset: DataSet, data: DataConfig) -> None:
    """Raises UserError for data without validation or test images, and for images that would be in two splits."""
    sizes = {name: len(examples.labels) for name, examples in dataset.splits.items()}
    taken: list[tuple[str, str, range]] = []
    for name in ("train", "validation", "test"):
        key, spec = f"config.data.{name}", {"train": data.train, "validation": data.validation, "test": data.test}[name]
        if not spec:
            raise UserError(
                f"{dataset.name} has no {name} images, of its splits {', '.join(sizes)}; name some, apart from the "
                f"others, like --config.data.train=train[:60%] --config.data.validation=train[60%:80%] "
                "--config.data.test=train[80%:]"
            )
        split, part = split_range(spec, key, sizes)
        for other, its_split, its_part in taken:
            if in_both((split, part), (its_split, its_part)):
                raise UserError(f"{key}={spec!r} shares images with {other}; take them apart")
        taken.append((f"config.data.{name}", split, part))

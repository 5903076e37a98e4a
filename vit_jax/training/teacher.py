"""The teacher of a run that distils one, `config.train.distill`: found, checked, and put where the steps are."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.config import Config, ModelConfig
from vit_jax.errors import UserError
from vit_jax.models import create, resolve
from vit_jax.models.backend import Target
from vit_jax.models.stems import image_shape
from vit_jax.models.vit import rounded_once
from vit_jax.pretrained import hub
from vit_jax.pretrained.files import Weights
from vit_jax.pretrained.load import Described, describe, params_for
from vit_jax.runs import trained
from vit_jax.runs.folder import RunFolder
from vit_jax.schema import from_mapping
from vit_jax.steps.distill import Teacher
from vit_jax.steps.rules import path_of
from vit_jax.system.disk import expanded
from vit_jax.system.progress import say
from vit_jax.system.sharding import put, replicated

_KEY = "config.train.distill.teacher"


def with_commit(config: Config, workdir: str | None) -> Config:
    """The config with the commit of a teacher on the Hub; one that a run goes on with has it."""
    distill = config.train.distill
    if not hub.is_named(distill.teacher) or (workdir and RunFolder(workdir).exists()):
        return config
    distill = dataclasses.replace(distill, teacher=hub.pinned(str(distill.teacher)))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, distill=distill))


def teacher_of(config: Config, classes: Sequence[str], target: Target) -> Teacher | None:
    """The teacher of a resolved config for data of these classes, on the host; None where there is none.

    A run's is the checkpoint that it would be tested with. It computes in the number format of the student. Raises
    UserError for one that can't be loaded, or isn't for these classes and images.
    """
    path = config.train.distill.teacher
    if path is None or config.train.overfit_one_batch:
        return None
    if (expanded(path) / "checkpoints").is_dir():
        run = trained.load(path)
        model, params, view = run.config.model, run.params, (run.config.augment.mean, run.config.augment.std)
        names: Sequence[str] = run.classes
        of = f"checkpoint {run.step} of {path}"
    else:
        described = _described(path, config)
        names, of = _names_beside(described.weights), path
        model = resolve(from_mapping(ModelConfig, described.model, "model"))
        params = params_for(create(model, target), described)
        known = described.preprocessing
        view = (config.augment.mean, config.augment.std) if known is None else known.of(model.channels)[:2]
        if known is None:
            say(f"The teacher's images are normalised as the student's: {path} doesn't tell how.")
    if names and list(names) != list(classes):
        raise UserError(
            f"{_KEY}={path!r} has the classes {_listed(names)}, the data {_listed(classes)}; distil a model of "
            "the same classes, in the same order"
        )
    if model.num_classes != len(classes):
        has = f"{model.num_classes} classes" if model.num_classes else "no classifier"
        raise UserError(
            f"{_KEY}={path!r} has {has}, and the data have {len(classes)} classes; fine-tune it on them first "
            f"(--config.init_from={path}), and distil that run"
        )
    if model.channels != config.model.channels:
        raise UserError(
            f"{_KEY}={path!r} sees images of {model.channels} channels, and config.model.channels="
            f"{config.model.channels}; train both on the same"
        )
    model = dataclasses.replace(model, dtype=config.model.dtype, attention="auto", remat=False, scan=False)
    module = create(model, target)
    params = jax.tree.map(np.asarray, params)
    distill = config.train.distill
    how = f"{distill.kind} targets, weight {distill.weight:g}"
    how += f", temperature {distill.temperature:g}" if distill.kind == "soft" else ""
    say(f"Teacher: {of}, for images of {' x '.join(map(str, image_shape(model)[:2]))}; {how}")
    kind = dataclasses.replace(model, dtype="auto")  # which differs from machine to machine
    sha256 = _sha256(params, f"{kind} {view}")
    return Teacher(jax.tree.map(np.asarray, rounded_once(params, module)), module, *view, sha256)


def _described(path: str, config: Config) -> Described:
    try:
        return describe(path, {"channels": config.model.channels})
    except UserError as error:
        text = str(error).partition("; say so, like")[0]  # that would be of the student
        raise UserError(
            f"{_KEY}: {text}. A teacher is a run's workdir with checkpoints, or weights that tell all of themselves: "
            "put the config.json beside them, or start a run from them and distil that"
        ) from error


def _names_beside(weights: Weights) -> list[str]:
    """The classes that a config.json beside weights names, in order; none where it doesn't, or only numbers them."""
    config = weights.config
    by_number, seen = config.get("id2label"), config.get("pretrained_cfg")
    if isinstance(by_number, dict) and all(str(i) in by_number for i in range(len(by_number))):
        names = [str(by_number[str(i)]) for i in range(len(by_number))]
        return [] if names == [f"LABEL_{i}" for i in range(len(names))] else names
    listed = seen.get("label_names") if isinstance(seen, dict) else None
    return [str(name) for name in listed] if isinstance(listed, list) else []


def check_same_teacher(config: Config, teacher: Teacher | None, before: str | None) -> None:
    """Raises UserError where a run that goes on was taught by another, whose sha256 `before` is."""
    if teacher is not None and before is not None and teacher.sha256 != before:
        raise UserError(
            f"{_KEY}={config.train.distill.teacher!r} isn't the teacher that the run began with: its parameters "
            "differ (they change when it is trained further); restore that one, or start again in another --workdir"
        )


def on_devices(teacher: Teacher | None, mesh: Mesh) -> Teacher | None:
    """The same, whole on each device of the mesh."""
    return jax.tree.map(lambda x: put(x, replicated(mesh)), teacher)


def _sha256(params: Any, kind: str) -> str:
    digest = hashlib.sha256(kind.encode())
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        digest.update(path_of(path).encode())
        digest.update(np.ascontiguousarray(x).tobytes())
    return digest.hexdigest()


def _listed(names: Sequence[str]) -> str:
    few = ", ".join(names[:3])
    return few if len(names) <= 3 else f"{few} and {len(names) - 3} others"

"""Evaluation that counts every image exactly once. N examples, B batch, C classes."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vit_jax.config import AT_EVALUATION, Config
from vit_jax.data import sources
from vit_jax.data.dataset import Examples, take
from vit_jax.data.encoded import EncodedImages
from vit_jax.data.streaming import batches
from vit_jax.errors import UserError
from vit_jax.evaluation.logits import calibration_error, confusion, scorable, score
from vit_jax.models import VisionTransformer, create
from vit_jax.models import flops as flop_count
from vit_jax.models.backend import target_at_hand
from vit_jax.models.checks import positive
from vit_jax.runs import metrics, report, trained
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.runs.scores import by_name, scores_of
from vit_jax.schema import flat, type_of, with_overrides
from vit_jax.steps import state as states
from vit_jax.steps.clock import Clock
from vit_jax.steps.cpu import evaluation_parts
from vit_jax.steps.step import eval_step
from vit_jax.system import environment
from vit_jax.system.progress import doing, say
from vit_jax.system.sharding import batch_sharding, make_mesh, of_each_device, put, replicated, shapes_of


def batch_on(mesh: Mesh, config: Config) -> int:
    """Images that an evaluation takes at once: config.eval.batch_size, rounded up to what the devices divide."""
    return -(-config.eval.batch_size // mesh.size) * mesh.size


def traced_evaluation(
    module: VisionTransformer,
    config: Config,
    mesh: Mesh,
    params: Any,
    image_shape: tuple[int, ...],
    step: Callable[..., jax.Array] = eval_step,
) -> Any:
    """`step`, traced: (params, images (B, H, W, C) uint8) -> (B, ...). The parameters may be shapes.

    On a CPU each device takes its images in parts that its caches hold.
    """
    count = batch_on(mesh, config)
    images = jax.ShapeDtypeStruct((count, *image_shape), np.uint8, sharding=batch_sharding(mesh))
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    parts = evaluation_parts(module.cfg, module.dtype, count // mesh.size) if on_cpu else 1
    whole: Callable[..., jax.Array] = partial(step, module=module, config=config)
    if parts > 1:
        alone = module.of_one_device()

        def own(params: Any, images: jax.Array) -> jax.Array:
            split = images.reshape(parts, -1, *images.shape[1:])  # (A, B/A, H, W, C)
            rows = jax.lax.map(lambda part: step(params, part, module=alone, config=config), split)  # (A, B/A, ...)
            return rows.reshape(-1, *rows.shape[2:])

        whole = of_each_device(own, mesh, takes=(False, True), gives=True)
    return jax.jit(whole, out_shardings=replicated(mesh)).trace(shapes_of(params, replicated(mesh)), images)


class Evaluator:
    """Logits of any number of images with one compiled step, on every device of the mesh."""

    def __init__(
        self,
        module: VisionTransformer,
        config: Config,
        mesh: Mesh,
        params: Any,
        image_shape: tuple[int, ...],
        step: Callable[..., jax.Array] = eval_step,
    ):
        """Compiles; `params` may be shapes, `image_shape` is (H, W, C) as stored.

        Another `step`, like `features_step`, gives other rows (N, D) in the place of logits.
        """
        self._sharding = batch_sharding(mesh)
        self._batch = batch_on(mesh, config)
        self._gather = jax.jit(lambda params: params, out_shardings=replicated(mesh))
        self._step = traced_evaluation(module, config, mesh, params, image_shape, step).lower().compile()

    def logits(
        self,
        params: Any,
        images: np.ndarray | EncodedImages,
        check: Callable[[], None] = lambda: None,
        mirrored: bool = False,
    ) -> np.ndarray:
        """uint8 (N, H, W, channels) -> float32 (N, C), of the images or their mirror images.

        `check` is called before each batch and may raise.
        """
        parts: list = []
        if any(isinstance(x, jax.Array) and not x.is_fully_replicated for x in jax.tree.leaves(params)):
            params = self._gather(params)
        for i, batch in enumerate(batches(images, self._batch)):
            check()
            if i >= 2:  # two batches under way, no more: they lie in the accelerator's memory
                parts[i - 2] = np.asarray(parts[i - 2][0]), parts[i - 2][1]
            filled = np.zeros((self._batch, *batch.shape[1:]), np.uint8)  # the last batch is filled up with black
            filled[: len(batch)] = batch[:, :, ::-1] if mirrored else batch
            parts.append((self._step(params, put(filled, self._sharding)), len(batch)))
        return np.concatenate([np.asarray(part)[:count] for part, count in parts])

    def images_per_second(self, params: Any, images: np.ndarray | EncodedImages) -> float:
        """The speed of `logits`, decoding included, from one batch after one that doesn't count."""
        batch = images[: self._batch]
        self.logits(params, batch)
        started = time.monotonic()
        self.logits(params, batch)
        return len(batch) / (time.monotonic() - started)


SELECTED = {"best": "best on validation", "latest": "last"}  # names of checkpoints, as results.json says them


def test(
    run: RunFolder,
    config: Config,
    checkpoints: Checkpoints,
    step: int,
    selected: str,
    examples: Examples,
    evaluator: Evaluator,
    module: VisionTransformer,
    mesh: Mesh,
    check: Callable[[], None] = lambda: None,
    trained_here: bool = True,
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores the checkpoint of a step, `selected` as results.json says it, on the test split.

    Gives the content of results.json and the confusion matrix (C, C). A loss of images that aren't all `scorable` is
    None there; how many aren't is said.
    """
    abstract = states.abstract_params(module, config.optim.lora_rank)
    place = trained.PARAMS[config.eval.params]
    params = checkpoints.restore(step, {place: abstract}, mesh)[place]
    started = time.monotonic()
    with doing("Testing"):
        logits = evaluator.logits(params, examples.images, check)
    seconds, flips = time.monotonic() - started, {}
    if config.eval.flips:
        with doing("Testing mirrored images"):
            # Halves are exact, and their sum doesn't overflow; of opposite infinities it is NaN.
            mirrored = evaluator.logits(params, examples.images, check, mirrored=True)
        with np.errstate(invalid="ignore"):
            both = score(logits / 2 + mirrored / 2, examples.labels)
        flips = {f"{key}_flips": _known(both[key]) for key in ("loss", "top1", "top5")}
    data, found = run.read("data.json"), score(logits, examples.labels)
    if lost := int((~scorable(logits)).sum()):
        say(
            f"Warning: the logits of {lost:,} of {len(logits):,} images aren't finite. These images count as wrong, "
            "and the loss is left out; test another checkpoint, or train at a lower config.optim.learning_rate."
        )
    matrix = confusion(logits, examples.labels)
    classes = scores_of(matrix)
    results = {
        "dataset": data["name"],
        "split": config.data.test,
        **found,
        "loss": _known(found["loss"]),
        **flips,
        "calibration_error": calibration_error(logits, examples.labels),
        "balanced_accuracy": classes.balanced_accuracy,
        "macro_f1": classes.macro_f1,
        "per_class": by_name(classes.recall, data["classes"]),
        "per_class_f1": by_name(classes.f1, data["classes"]),
        **_of_run(run, config, module, checkpoints, trained_here),
        "checkpoint": step,
        "selected": selected,
        "tested_params": config.eval.params,
        "evaluation_seconds": seconds,
    }
    return results, matrix


def _of_run(
    run: RunFolder, config: Config, module: VisionTransformer, checkpoints: Checkpoints, trained_here: bool
) -> dict[str, Any]:
    """What results.json says of the model, of its training up to the latest checkpoint, and of what it ran on."""
    latest = checkpoints.resolve("latest")
    meta = checkpoints.check(latest)
    clock, num_train = meta["clock"], meta["num_train"]
    return {
        "params": states.count(states.abstract_params(module)),
        "flops_per_image": flop_count.forward(module.cfg),
        "train_flops_per_image": flop_count.training(module.cfg),  # a teacher's are in train_flops alone
        "steps": latest,
        "epochs": latest * config.train.batch_size / num_train,
        "seed": config.seed,
        "train_flops": clock.get("train_flops", 0.0),
        "train_seconds": clock["train"],
        "wall_seconds": clock["wall"],
        "compile_seconds": clock["compile"],
        "time_to": metrics.time_to(run.path, latest),
        "startup_seconds": {kind: clock.get(kind, 0.0) for kind in Clock.STARTUP},
        **report.speed(*_speed(clock, module), module.dtype, trained_here),
        "device": environment.device(),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
    }


def _known(value: float) -> float | None:
    """None for what isn't finite, which JSON doesn't have."""
    return value if math.isfinite(value) else None


def _speed(clock: dict[str, float], module: VisionTransformer) -> tuple[float | None, float]:
    """Images/s over all starts of a run, and the mean FLOPs of an image's part of a step."""
    images, flops = clock["train_images"], clock.get("train_flops", 0.0)
    rate = images / clock["train"] if clock["train"] else None
    return rate, flops / images if flops else flop_count.training(module.cfg)


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Raises UserError for a key of the config that can't be changed at evaluation."""
    for key in flat(overrides):
        type_of(Config, key)
        if key not in AT_EVALUATION:
            can = ", ".join(AT_EVALUATION)
            raise UserError(f"config.{key} can't be changed at evaluation; what can be: {can}")


def evaluate(
    workdir: str | Path,
    name: str | None = None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Rebuilds a run from its folder alone and tests a checkpoint; by default the one that its config selects.

    `overrides` of the run's config, "eval.batch_size" and the like, say how to test. What was found lies in a folder of
    its own, evaluations/SPLIT-STEP (with -ema or -raw, of other parameters than the run's); the run's own results.json
    is left alone. A folder that can't be written keeps nothing, with a warning. `check` is called before each batch and
    may raise. Raises UserError for a run, checkpoint or data that can't be used.
    """
    run = RunFolder(workdir)
    own = trained.single(run)
    config = with_overrides(own, overrides)
    if not config.data.test:
        raise UserError(f"{run.path} has no test images; name some with config.data.test, like train[90%:]")
    positive("config.eval.batch_size", config.eval.batch_size)
    trained.check_params(config)
    name = name or trained.name_of(config)
    with Checkpoints(run.path) as checkpoints:
        step = checkpoints.resolve(name)
        target = target_at_hand()
        mesh, module = make_mesh(), create(trained.usable_on(target, config.model), target)
        with doing("Reading the data"):
            # What was said now has to be there; where a run found its data may be gone, and cached arrays do.
            said = "data.dir" in flat(overrides)
            dataset = sources.load(config, must_find_dir=said, sha256=run.data_sha256())
            run.check_data(dataset)
            examples = take(dataset, config.data.test, "config.data.test")
        say(f"Testing checkpoint {step} of {run.path} on {len(examples.labels):,} images, {environment.device()} ...")
        abstract = states.abstract_params(module, config.optim.lora_rank)
        with doing("Compiling"):
            evaluator = Evaluator(module, config, mesh, abstract, examples.images.shape[1:])
        # Of that step, whatever is the latest by now: the run may be going on.
        selected = SELECTED.get(name, "given")
        results, matrix = test(
            run, config, checkpoints, step, selected, examples, evaluator, module, mesh, check, trained_here=False
        )
    split = config.data.test.replace("[", "_").replace(":", "to").replace("]", "")  # as any file system takes it
    other = f"-{config.eval.params}" if config.eval.params != own.eval.params else ""
    folder = run.path / "evaluations" / f"{split}-{step}{other}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        report.write_results(folder, results, matrix, list(dataset.classes))
    except OSError as error:
        say(f"Warning: the results are not kept: {error}")
    report.say_results(folder, results)
    return results

"""Sets a run up: data, model, optimizer and state, compiled steps. All that happens once."""

import dataclasses
import json
import math
import time
import zlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vit_jax.config import Config, to_dict
from vit_jax.data import sources
from vit_jax.data.augment import preprocess
from vit_jax.data.dataset import DataSet, Examples, Parts, take
from vit_jax.data.pipeline import DevicePipeline, TfDataPipeline
from vit_jax.errors import UserError
from vit_jax.evaluation.evaluate import Evaluator
from vit_jax.models import VisionTransformer, backend, create, flops, resolve
from vit_jax.models.backend import Target
from vit_jax.models.stems import WHITENING, whitening_kernel
from vit_jax.pretrained.start import params_of
from vit_jax.runs import report
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.folder import RunFolder
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.clock import Clock
from vit_jax.steps.cpu import with_micro_batches
from vit_jax.steps.phases import Phase, compile_phases
from vit_jax.steps.plan import Due, Plan, due_of, plan_of, reserve_of, warmup_places
from vit_jax.steps.schedules import learning_rate
from vit_jax.steps.state import TrainState
from vit_jax.system.progress import doing, say
from vit_jax.system.sharding import make_mesh, put, replicated
from vit_jax.system.tensorflow import import_tensorflow
from vit_jax.training.checks import check_splits

_RESIDENT_LIMIT = 4 * 2**30  # bytes, of all copies in one memory, up to which "auto" keeps the train images resident
_WHITENING_PIXELS = 5000 * 32 * 32  # from which the whitening layer is computed


@dataclass(frozen=True)
class Job:
    """All that the loop needs and doesn't change."""

    config: Config  # resolved
    run: RunFolder
    parts: Parts
    mesh: Mesh
    module: VisionTransformer
    plan: Plan
    due: dict[str, Due]  # eval, checkpoint, log: the numbers of steps done at which each happens
    pipeline: DevicePipeline | TfDataPipeline
    phases: tuple[Phase, ...]
    evaluator: Evaluator

    def phase_at(self, place: float) -> Phase:
        """The phase that the step at this place is done in."""
        return next(phase for phase in reversed(self.phases) if phase.start <= place)

    def steps_in_a_call(self, step: int) -> int:
        """How many steps to do at once after `step`: several, or 1 where that would pass over an evaluation or save.

        A call of several steps begins only at a multiple of `steps_per_call`. Which steps share a call then doesn't
        depend on where a run was interrupted, so that a resumed run is the same bit for bit.
        """
        several = self.config.train.steps_per_call
        if several == 1 or step % several:
            return 1
        if self.plan.seconds is None:
            starts = {math.ceil(phase.start) for phase in self.phases}
            if step + several > self.plan.total or not starts.isdisjoint(range(step + 1, step + several)):
                return 1
        passed = range(step + 1, step + several)
        return 1 if any(other in self.due[kind] for kind in ("eval", "checkpoint") for other in passed) else several


def resolve_config(config: Config, run: RunFolder, target: Target) -> tuple[Config, Parts]:
    """Loads the data, fills in what the config leaves to them or to the target, and describes the run in its folder."""
    dataset = sources.load(config.data, config.model.image_size)
    run.check_data(dataset)
    check_splits(config, {split: len(examples.labels) for split, examples in dataset.splits.items()})
    classes = len(dataset.classes)
    if config.model.num_classes not in (None, classes):
        raise UserError(
            f"config.model.num_classes={config.model.num_classes}, but {dataset.name} has {classes} classes; "
            f"set --config.model.num_classes={classes}"
        )
    parts = split(config, dataset)
    side = min(parts.train.images.shape[1:3])
    if config.augment.crop_padding >= side:
        raise UserError(
            f"config.augment.crop_padding={config.augment.crop_padding} is not below the {side} pixels of an image"
        )
    augment = config.augment
    if not (augment.mean and augment.std):
        mean, std = channel_statistics(parts.train.images)
        augment = dataclasses.replace(augment, mean=augment.mean or mean, std=augment.std or std)
    model = config.model
    if config.train.deterministic and model.attention == "auto" and target.platform == "gpu":
        model = dataclasses.replace(model, attention="xla")  # cuDNN adds up gradients in any order
    model = resolve(model, classes)
    model = dataclasses.replace(model, dtype=jnp.dtype(backend.compute_dtype(model.dtype, target)).name)
    config = dataclasses.replace(config, augment=augment, model=model)
    config = with_micro_batches(config, target)
    if not _is_resident(config, parts.train, target):
        if config.train.steps_per_call > 1:
            raise UserError(
                f"config.train.steps_per_call={config.train.steps_per_call} needs the images on the device, and they "
                "are streamed; set it to 1, or set --config.data.pipeline=device"
            )
        try:
            import_tensorflow()
        except ImportError as error:
            raise UserError(
                f"streaming needs TensorFlow ({error}); install it, or set --config.data.pipeline=device to keep the "
                f"{parts.train.images.nbytes * backend.resident_copies(target) / 2**30:.1f} GiB of images in memory"
            ) from error
    run.describe(config, dataset)
    return config, parts


def split(config: Config, dataset: DataSet) -> Parts:
    """The config's train, validation and test examples, without a copy."""
    data = config.data
    has_test = data.test in dataset.splits or "[" in data.test
    return Parts(
        train=take(dataset, data.train, "config.data.train"),
        validation=take(dataset, data.validation, "config.data.validation") if data.validation else None,
        test=take(dataset, data.test, "config.data.test") if has_test else None,
    )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], from counts of each byte value: exact.

    images (N, H, W, 3) uint8.
    """
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), 1000):  # the images may be many times larger than memory
        part = images[start : start + 1000]
        counts += np.stack([np.bincount(part[..., c].ravel(), minlength=256) for c in range(3)])
    share, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = share @ values  # (3,)
    std = np.sqrt(np.maximum(share @ values**2 - mean**2, 1e-6))  # a constant channel stays finite
    return tuple(mean.tolist()), tuple(std.tolist())


def build(
    config: Config,
    target: Target,
    run: RunFolder,
    parts: Parts,
    checkpoints: Checkpoints,
    started: float,
    spent: dict[str, float],
) -> tuple[Job, TrainState, Clock, bool]:
    """Model, optimizer, state (restored from the latest checkpoint, if any) and compiled steps.

    Also the clock, with what earlier starts took and what this one has `spent` so far, by kind; and whether the state's
    step has been evaluated already.
    """
    entered = time.monotonic()
    mesh, module = make_mesh(), create(config.model, target)
    num_train = len(parts.train.labels)
    plan = plan_of(config, num_train)
    schedule = learning_rate(config.optim, plan.total, warmup_places(config, num_train))
    shapes = states.abstract_params(module)
    tx = optim.optimizer(config.optim, shapes)
    report.say_run(run.path, config, module, shapes, parts, plan)

    fresh = not checkpoints.steps()  # a checkpoint has all that is computed here
    fixed = _fixed(config, parts) if fresh and config.init_from is None else {}
    state = states.create(module, tx, config.seed, mesh, config.train.ema is not None, fixed)
    if fresh and config.init_from is not None:
        params = params_of(config, module)
        if jax.process_count() > 1:  # the same in all, whatever lies at that path on each machine
            params = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(params))
        state = states.with_params(state, params, mesh)
        say(f"Starting from the weights in {config.init_from}")
    evaluated, carried = True, None
    if run.writes and checkpoints.steps()[-1:] != [plan.total]:
        checkpoints.check_space(state)
    if checkpoints.steps():
        latest = checkpoints.resolve("latest")
        meta = checkpoints.meta(latest)
        state, evaluated, carried = checkpoints.restore(latest, state, mesh), meta["evaluated"], meta["clock"]
        # Runs from before FLOPs were counted had one image size.
        carried = {"train_flops": carried["train_images"] * flops.training(module.cfg)} | carried
        say(f"Resuming after {plan.say(latest)}.")
    clock = Clock(started, carried)
    if carried is None and run.writes:
        # Before anything is computed it shows that this can be saved; written while the step compiles.
        checkpoints.save(state, meta_of(plan.steps_in_all(0, False), parts, clock, evaluated), None)

    pipeline = _pipeline(config, parts.train, target, mesh)
    for kind, seconds in {**spent, "init": time.monotonic() - entered}.items():
        clock.add(kind, seconds)
    say("Compiling ...")
    before = time.monotonic()
    with doing("Compiling"):
        phases = compile_phases(config, module, tx, schedule, plan, mesh, pipeline, state)
        evaluator = Evaluator(module, config, mesh, shapes, parts.train.images.shape[1:])
    with doing("Saving"):
        checkpoints.wait()
    clock.add("compile", time.monotonic() - before)
    say(f"Compiled in {time.monotonic() - before:.1f} s; {time.monotonic() - started:.1f} s since the start.")
    if plan.seconds is not None and plan.clock == "wall":
        validation, test = (len(part.labels) if part is not None else 0 for part in (parts.validation, parts.test))
        speed = evaluator.images_per_second(state.params, parts.train.images)
        plan = dataclasses.replace(plan, reserve=reserve_of(config, validation, test, speed))

    sizes = {"num_examples": num_train, "batch_size": config.train.batch_size, "plan": plan}
    due = {
        kind: due_of(every, f"config.{kind}.every", **sizes)
        for kind, every in {
            "eval": config.eval.every,
            "checkpoint": config.checkpoint.every,
            "log": config.log.every,
        }.items()
    }
    return Job(config, run, parts, mesh, module, plan, due, pipeline, phases, evaluator), state, clock, evaluated


def _fixed(config: Config, parts: Parts) -> dict[str, Any]:
    """Parameters that are computed from the train images, by path: those of process 0 in all."""
    if not config.model.stem.whiten:
        return {}
    size = config.model.image_size
    images = parts.train.images[: max(_WHITENING_PIXELS // size**2, 1)]
    kernel = whitening_kernel(np.asarray(preprocess(images, config.augment, size)), config.model.stem.whiten)
    if jax.process_count() > 1:  # eigenvectors differ in sign and rounding from machine to machine
        kernel = np.asarray(multihost_utils.broadcast_one_to_all(kernel))
    return {WHITENING: kernel}


def digest_of(config: Config) -> int:
    """A number below 2**31 that tells configs apart, but not where the data lie on this machine."""
    here = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=None, cache_dir=None))
    return zlib.crc32(json.dumps(to_dict(here)).encode()) >> 1


def meta_of(total: int, parts: Parts, clock: Clock, evaluated: bool) -> dict[str, Any]:
    """What a checkpoint says beside its state; `evaluated`: whether its step's evaluation, if one is due, is done."""
    num_train = len(parts.train.labels)
    return {"evaluated": evaluated, "clock": clock.totals(), "total_steps": total, "num_train": num_train}


def _is_resident(config: Config, examples: Examples, target: Target) -> bool:
    fits = examples.images.nbytes * backend.resident_copies(target) <= _RESIDENT_LIMIT
    return config.data.pipeline == "device" or (config.data.pipeline == "auto" and fits)


def _pipeline(config: Config, examples: Examples, target: Target, mesh: Mesh) -> DevicePipeline | TfDataPipeline:
    if _is_resident(config, examples, target):
        everywhere = replicated(mesh)
        images, labels = put(examples.images, everywhere), put(examples.labels, everywhere)
        return DevicePipeline(images, labels, config.train.batch_size, everywhere)
    return TfDataPipeline(examples, config.train.batch_size, jax.process_index(), jax.process_count())

"""Checks across the keys of a config: each mistake is one message, before data are touched or anything is compiled."""

import dataclasses

from vit_jax.config import Config, DistillConfig
from vit_jax.data import sources
from vit_jax.data.dataset import in_both, split_range, with_default_splits
from vit_jax.data.pipeline import MAX_EXAMPLES
from vit_jax.data.view import crop_pct_of, interpolation_of
from vit_jax.errors import UserError
from vit_jax.models import VisionTransformer, create
from vit_jax.models.backend import Target
from vit_jax.models.checks import one_of, positive
from vit_jax.runs import trackers, trained
from vit_jax.steps import durations, optim, partition
from vit_jax.steps import state as states
from vit_jax.steps.plan import plan_of, warmup_progress


def check_config(config: Config, target: Target) -> None:
    """Raises UserError for the first thing that can't be on the target, as far as that shows without the data."""
    _check_data(config)
    _check_augment(config)
    # Where the class count is left to the data, any will do here.
    classes = 10 if config.model.num_classes is None else config.model.num_classes
    if classes == 0:
        raise UserError("config.model.num_classes=0 gives features, which can't be trained; leave it to the data")
    module = create(dataclasses.replace(config.model, num_classes=classes), target)
    one_of("config.log.tracker", config.log.tracker, trackers.NAMES)
    _check_optim(config)
    optim.optimizer(config.optim, states.abstract_params(module, config.optim.lora_rank), module.dtype)
    _check_train(config, target.devices)
    _check_mesh(config, target, module)
    _check_sizes(config, target)
    sizes = sources.SIZES.get(config.data.name)
    if sizes:
        check_splits(config, sizes)


def check_splits(config: Config, sizes: dict[str, int]) -> int:
    """Checks splits and lengths against the number of examples in each split; gives the train examples."""
    data = with_default_splits(config.data, sizes)
    assert data.train is not None
    train_name, train = split_range(data.train, "config.data.train", sizes)
    parts = [("config.data.validation", data.validation)] if data.validation else []
    # "" is to have no test; a folder of images may have none, either, in runs from before None was to say so.
    if data.test and (data.test != "test" or data.name != "image_folder" or "test" in sizes):
        parts.append(("config.data.test", data.test))
    for key, spec in parts:
        if shared := in_both((train_name, train), split_range(spec, key, sizes)):
            raise UserError(
                f"{key}={spec!r} shares {shared} examples with config.data.train={data.train!r}; "
                f'take them apart, or set {key}="" to go without one'
            )
    plan, warmup = plan_of(config, len(train)), warmup_progress(config, len(train))
    if warmup > plan.total:
        raise UserError(
            f"config.optim.warmup={config.optim.warmup!r} is longer than training, "
            f"config.train.length={config.train.length!r}"
        )
    if plan.seconds is None and plan.total * config.train.batch_size >= MAX_EXAMPLES:
        raise UserError(f"config.train.length={config.train.length!r} is over {MAX_EXAMPLES:,} examples; shorten it")
    return len(train)


def warnings_of(config: Config, num_train: int) -> list[str]:
    """What can be, but is seldom meant, where the train split has so many images: a sentence for each."""
    found, batch = [], config.train.batch_size
    if batch > num_train:
        found.append(
            f"config.train.batch_size={batch} is more than the {num_train:,} images of config.data.train="
            f"{config.data.train!r}: each step takes some of them more than once"
        )
    if not durations.parse(config.log.every, "config.log.every")[0]:
        by_clock = durations.seconds_of(config.train.length, "config.train.length") is not None
        which = "no step's figures are" if by_clock else "only the last step's figures are"
        found.append(f'config.log.every={config.log.every!r}: {which} logged; "50 steps", say, logs more')
    return found


def _check_data(config: Config) -> None:
    data = config.data
    sources.check_name(data.name)
    one_of("config.data.pipeline", data.pipeline, ("auto", "resident", "mapped", "decoded"))
    one_of("config.data.interpolation", interpolation_of(data), ("bilinear", "bicubic", "lanczos"))
    if data.image_size is not None:
        positive("config.data.image_size", data.image_size)
    if not 0 < crop_pct_of(data) <= 1:
        raise UserError(f"config.data.crop_pct must be above 0 and at most 1; found {data.crop_pct}")


def _check_augment(config: Config) -> None:
    augment, channels = config.augment, config.model.channels
    for key in ("mean", "std"):
        if len(getattr(augment, key)) not in (0, channels):
            needed = f"{channels} value{'s' if channels > 1 else ''}"
            raise UserError(
                f"config.augment.{key} needs {needed}, one a channel, or none; found {getattr(augment, key)}"
            )
    if any(value <= 0 for value in augment.std):
        raise UserError(f"config.augment.std must be above 0; found {augment.std}")
    scale, ratio = augment.crop_scale, augment.crop_ratio
    if scale and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise UserError(
            f"config.augment.crop_scale={scale}: write (least, most) share of the area, like (0.08, 1.0), or ()"
        )
    if not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"config.augment.crop_ratio={ratio}: write (least, most) width / height, like (0.75, 1.33)")
    if scale and config.data.pipeline == "resident":
        raise UserError(
            "config.augment.crop_scale cuts its crops on the host, and config.data.pipeline=resident keeps the images "
            "on the devices; set config.data.pipeline=auto"
        )
    if augment.crop_padding < 0:
        raise UserError(f"config.augment.crop_padding must not be negative; found {augment.crop_padding}")
    for key in ("rotate", "zoom"):
        if not 0 <= getattr(augment, key) < 1:
            raise UserError(f"config.augment.{key} must be at least 0 and below 1; found {getattr(augment, key)}")
    one_of("config.augment.policy", augment.policy, ("none", "randaugment", "trivialaugment"))
    one_of("config.augment.ramp", augment.ramp, ("constant", "linear"))
    for key in ("policy_probability", "erase", "off_last", "mix_off_last"):
        if not 0 <= getattr(augment, key) <= 1:
            raise UserError(f"config.augment.{key} must be from 0 to 1; found {getattr(augment, key)}")
    if not 0 <= augment.policy_magnitude <= 10:
        raise UserError(f"config.augment.policy_magnitude must be from 0 to 10; found {augment.policy_magnitude}")
    for key in ("mixup", "cutmix", "policy_std", "cutout"):
        if getattr(augment, key) < 0:
            raise UserError(f"config.augment.{key} must not be negative; found {getattr(augment, key)}")
    positive("config.augment.policy_operations", augment.policy_operations)
    if augment.alternate_flip and not augment.flip:
        raise UserError("config.augment.alternate_flip=True says how to flip; set config.augment.flip=True, too")


def _check_optim(config: Config) -> None:
    cfg = config.optim
    one_of("config.optim.name", cfg.name, optim.NAMES)
    one_of("config.optim.schedule", cfg.schedule, ("cosine", "linear", "constant", "wsd"))
    positive("config.optim.learning_rate", cfg.learning_rate)
    positive("config.optim.eps", cfg.eps)
    positive("config.optim.muon_iterations", cfg.muon_iterations)
    if cfg.lora_rank is not None:
        positive("config.optim.lora_rank", cfg.lora_rank)
        at = f"config.optim.lora_rank={cfg.lora_rank}"
        if config.init_from is None:
            raise UserError(f"{at}: LoRA needs weights to start from; set config.init_from")
        if cfg.name == "muon":
            raise UserError(f"{at}: config.optim.name=muon can't train LoRA's factors; set config.optim.name=adamw")
    if cfg.adam_learning_rate is not None:
        positive("config.optim.adam_learning_rate", cfg.adam_learning_rate)
        if cfg.name != "muon":
            raise UserError(
                f"config.optim.adam_learning_rate needs config.optim.name=muon; for {cfg.name} set "
                "config.optim.learning_rate"
            )
    if any(share < 0 for _, share in cfg.rate_rules):
        raise UserError(f"config.optim.rate_rules: a share must not be negative; found {cfg.rate_rules}")
    if not 0 < cfg.decay <= 1:
        raise UserError(f"config.optim.decay must be above 0 and at most 1; found {cfg.decay}")
    if cfg.clip_norm is not None:
        positive("config.optim.clip_norm", cfg.clip_norm)
    if cfg.weight_decay < 0:
        raise UserError(f"config.optim.weight_decay must not be negative; found {cfg.weight_decay}")
    for key in ("b1", "b2", "momentum"):
        if not 0 <= getattr(cfg, key) < 1:
            raise UserError(f"config.optim.{key} must be at least 0 and below 1; found {getattr(cfg, key)}")
    if cfg.skip_nonfinite < 0:
        raise UserError(f"config.optim.skip_nonfinite must not be negative; found {cfg.skip_nonfinite}")
    if not 0 <= cfg.final_fraction <= 1:
        raise UserError(f"config.optim.final_fraction must be from 0 to 1; found {cfg.final_fraction}")


def _check_train(config: Config, device_count: int) -> None:
    train = config.train
    if config.seed < 0 or config.seed >= 2**32:
        raise UserError(f"config.seed must be from 0 to 2**32 - 1; found {config.seed}")
    positive("config.seeds", config.seeds)
    if config.seed + config.seeds > 2**32:
        raise UserError(f"config.seeds={config.seeds} from config.seed={config.seed} on go beyond 2**32 - 1")
    positive("config.train.batch_size", train.batch_size)
    accumulate = 1 if train.accumulate is None else train.accumulate
    positive("config.train.accumulate", accumulate)
    positive("config.train.steps_per_call", train.steps_per_call)
    positive("config.eval.batch_size", config.eval.batch_size)
    share = device_count * accumulate
    if train.batch_size % share:
        low, high = train.batch_size // share * share, -(-train.batch_size // share) * share
        near = f"{low} or {high}" if low else f"{high}"
        # A run that goes on keeps both of its numbers.
        fit = max(n for n in range(1, device_count + 1) if not train.batch_size % (n * accumulate) or n == 1)
        fewer = f"; or take {fit} of the devices (JAX_NUM_CPU_DEVICES={fit}, CUDA_VISIBLE_DEVICES)" if fit > 1 else ""
        raise UserError(
            f"config.train.batch_size={train.batch_size} is not divisible by {device_count} devices x "
            f"config.train.accumulate={accumulate}; the nearest that is: {near}{fewer}"
        )
    if train.deterministic and config.model.attention == "cudnn":
        raise UserError("config.train.deterministic=True and cuDNN's attention exclude each other; use xla")
    if not 0 <= train.label_smoothing < 1:
        raise UserError(f"config.train.label_smoothing must be at least 0 and below 1; found {train.label_smoothing}")
    one_of("config.train.class_weights", train.class_weights, ("none", "balanced"))
    _check_distill(config.train.distill)
    _check_patience(config)
    one_of("config.eval.select", config.eval.select, ("last", "best"))
    positive("config.checkpoint.keep_latest", config.checkpoint.keep_latest)
    if config.checkpoint.keep_best < 0:
        raise UserError(f"config.checkpoint.keep_best must not be negative; found {config.checkpoint.keep_best}")
    if config.eval.select == "best" and not (config.checkpoint.keep_best and config.data.validation != ""):
        raise UserError(
            'config.eval.select="best" needs config.checkpoint.keep_best of at least 1 and a config.data.validation'
        )
    if train.ema is not None and not 0 < train.ema < 1:
        raise UserError(f"config.train.ema must be above 0 and below 1; found {train.ema}")
    trained.check_params(config)
    _check_lengths(config)


def _check_distill(distill: DistillConfig) -> None:
    one_of("config.train.distill.kind", distill.kind, ("hard", "soft"))
    positive("config.train.distill.temperature", distill.temperature)
    if distill.kind == "hard" and distill.temperature != 1:
        raise UserError(
            f"config.train.distill.temperature={distill.temperature} needs soft targets; set "
            "config.train.distill.kind=soft"
        )
    if not 0 <= distill.weight <= 1:
        raise UserError(f"config.train.distill.weight must be from 0 to 1; found {distill.weight}")
    if distill.teacher is None and distill != DistillConfig():
        raise UserError(
            "config.train.distill is set, but has no teacher; give config.train.distill.teacher, a workdir or weights"
        )


def _check_mesh(config: Config, target: Target, module: VisionTransformer) -> None:
    fsdp = partition.sharers(config.train.mesh, target.devices)
    partition.split_axes(config.train, states.abstract_params(module, config.optim.lora_rank), fsdp)


def _check_patience(config: Config) -> None:
    """It counts validations: there have to be some, but in a run that overfits one batch, which has none."""
    patience = config.train.patience
    if patience is None:
        return
    positive("config.train.patience", patience)
    if config.train.overfit_one_batch:
        return
    for key, value, wrong in (
        ("config.data.validation", config.data.validation, config.data.validation == ""),
        ("config.eval.every", config.eval.every, not durations.parse(config.eval.every, "config.eval.every")[0]),
    ):
        if wrong:
            raise UserError(
                f"config.train.patience={patience} counts the validations of a run, and with {key}={value!r} there "
                "are none before its end; change one of the two"
            )


def _check_lengths(config: Config) -> None:
    one_of("config.train.clock", config.train.clock, ("wall", "train"))
    number, unit = durations.parse(config.train.length, "config.train.length")
    if unit == "%" or not number:
        raise UserError(
            f"config.train.length={config.train.length!r}: training needs a length of its own, like "
            '"10 epochs", "500 steps" or "600 s"'
        )
    by_clock = durations.seconds_of(config.train.length, "config.train.length") is not None
    for key, text in (
        ("config.optim.warmup", config.optim.warmup),
        ("config.eval.every", config.eval.every),
        ("config.checkpoint.every", config.checkpoint.every),
        ("config.log.every", config.log.every),
    ):
        number, unit = durations.parse(text, key)
        if durations.seconds_of(text, key) is not None:
            raise UserError(f"{key}={text!r}: only config.train.length may be a time; give steps, epochs or examples")
        if by_clock and number and (unit == "%") != (key == "config.optim.warmup"):
            raise UserError(
                f"{key}={text!r}: in a run of config.train.length={config.train.length!r} the number of steps isn't "
                f"known before; give {'a percentage' if key == 'config.optim.warmup' else 'steps, epochs or examples'}"
            )


def _check_sizes(config: Config, target: Target) -> None:
    """Those of progressive resolution: in order, from the start on, the last of them the model's own."""
    sizes, key = config.train.sizes, "config.train.sizes"
    if not sizes:
        return
    if config.model.image_width is not None:
        raise UserError(
            f"{key} is of square images; found config.model.image_width={config.model.image_width}: unset one of them"
        )
    starts = [start for start, _ in sizes]
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1 or sizes[-1][1] != config.model.image_size:
        raise UserError(
            f"{key}={sizes}: write (from which part of the run on, pixels), the first from 0.0, each later than the "
            f"one before, the last with the model's {config.model.image_size} pixels, like ((0.0, 24), (0.7, 32))"
        )
    if config.model.pool == "flatten" or config.model.token_mlp_dim:
        raise UserError(f'{key} needs a model for any number of tokens, no config.model.pool="flatten" and no Mixer')
    for _, size in sizes:
        model = dataclasses.replace(config.model, num_classes=config.model.num_classes or 10, image_size=size)
        create(model, target)

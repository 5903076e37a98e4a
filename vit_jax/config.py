"""The closed, typed schema of a run: every key is born here, with its unit and its default.

Config files (`configs/`) change an ml_collections ConfigDict made from these dataclasses; `from_config_dict`
turns it back into frozen dataclasses and refuses what does not fit.
"""

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any

from ml_collections import ConfigDict, config_dict

from vit_jax.schema import from_mapping, optional_of


@dataclass(frozen=True)
class DataConfig:
    # cifar10 | cifar100 | tfds:NAME[/CONFIG][:VERSION] | cifar10_batches | image_folder | parquet | npz | digits | fake
    name: str = "cifar10"
    dir: str | None = None  # where the data set lies; None: the source's own places
    cache_dir: str | None = None  # decoded arrays and indices; None: $VIT_JAX_CACHE, else ~/.cache/vit_jax
    train: str | None = None  # None: "train" where the data set has validation images of its own, else "train[:90%]"
    validation: str | None = None  # None: "validation", or else "train[90%:]"; "": none
    test: str | None = None  # None: "test" where the data set has one; "": none
    image_size: int | None = None  # pixels, height of encoded images once decoded; None: model.image_size
    # Of encoded images; None: as the weights of init_from say, else 1.0 and bilinear.
    crop_pct: float | None = None  # side of the central crop as a fraction of the shorter side
    interpolation: str | None = None  # of that resizing, with antialiasing: bilinear | bicubic | lanczos
    follow_links: bool = False  # image_folder: also links that lead out of `dir`
    pipeline: str = "auto"  # resident: decoded, on the devices | mapped: decoded, on disk | decoded as needed | auto


@dataclass(frozen=True)
class AugmentConfig:
    mean: tuple[float, ...] = ()  # per channel, of pixels in [0, 1]; (): as init_from says, or of the train split
    std: tuple[float, ...] = ()  # likewise
    crop_padding: int = 0  # pixels of reflected border around the stored image before a random crop
    crop_scale: tuple[float, ...] = ()  # random resized crop: (least, most) share of the image's area; (): none
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # of its sides, width / height
    flip: bool = False  # horizontal, probability 1/2
    alternate_flip: bool = False  # flips alternate: drawn once for each image, then in every other epoch
    policy: str = "none"  # randaugment | trivialaugment | none (data/policies.py)
    policy_operations: int = 2  # randaugment: one after the other
    policy_magnitude: float = 9.0  # randaugment: mean, of 10
    policy_std: float = 0.5  # randaugment: of the magnitude
    policy_probability: float = 0.5  # randaugment: of each operation
    rotate: float = 0.0  # fraction of a full turn in each direction
    zoom: float = 0.0  # in each direction, height and width apart
    cutout: int = 0  # pixels of a side, as the model sees them, of the square that is set to the mean
    erase: float = 0.0  # probability of random erasing
    mixup: float = 0.0  # parameter of the beta distribution; 0: none
    cutmix: float = 0.0  # likewise; with both, each batch takes one of them
    ramp: str = "constant"  # linear: magnitudes and probabilities of all but crop, flip, cutout grow from 0 to the end
    off_last: float = 0.0  # last fraction of the run, without policy, cutout and erasing
    mix_off_last: float = 0.0  # last fraction of the run, without mixup and cutmix


@dataclass(frozen=True)
class StemConfig:
    kind: str = "patch"  # linear patches, alone (patch) or behind convolutions (conv) or a ResNet (resnet)
    widths: tuple[int, ...] = ()  # conv: output channels of each convolution; resnet: of its root, a single one
    units: tuple[int, ...] = ()  # resnet: bottleneck units of each stage; (): the root alone
    norm_eps: float | None = None  # resnet: of its group norms; None: model.norm_eps
    variance_eps: float | None = None  # resnet: kernels / sqrt(variance + this), as timm; None: / (deviation + 1e-5)
    strides: tuple[int, ...] = ()  # stride of each; (): all 1
    kernel_size: int = 3
    norm: str = "none"  # after each convolution: none | layer | group
    activation: str = "gelu"  # gelu | gelu_tanh | relu | relu_squared
    bias: bool = True  # of each convolution; with a norm, which has its own, there is none
    whiten: int = (
        0  # pixels a side of patches that a fixed first layer whitens and takes its stride from; 0: no such layer
    )
    residual: tuple[bool, ...] = ()  # for each convolution: whether its input is added to its output; (): none
    pool: bool = False  # 3x3 max pooling with stride 2 after each convolution
    pools: tuple[int, ...] = ()  # for each convolution: side of max pooling without overlap after it; (): 1, none
    project: bool = True  # False: the last convolution gives the tokens itself (needs patch_size 1)


@dataclass(frozen=True)
class ModelConfig:
    variant: str | None = None  # "Ti/4": width, depth, heads, mlp_dim and patch_size of a preset
    num_classes: int | None = None  # None: as many as the data set has; 0: the model gives features
    image_size: int = 32  # pixels a side of the images that the model sees; unset, with init_from: its weights' own
    image_width: int | None = None  # of images that are image_size high and not square
    channels: int = 3  # of the images: 3 | 1, grey
    patch_size: int | None = None
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    head_dim: int | None = None  # None: width / heads
    mlp_dim: int | None = None
    token_mlp_dim: int | None = None  # MLP-Mixer: tokens are mixed by an MLP of this width, not by attention
    stem: StemConfig = field(default_factory=StemConfig)
    posemb: str = "learned"  # learned | sincos2d | rope2d | rope2d_dinov3 | learned_rope2d: both, as EVA-02 | none
    rope_side: int | None = None  # learned_rope2d: coordinates are scaled to this many tokens a side; None: the model's
    pool: str = "mean"  # token | mean | token_mean: both | map: attention | sequence: CCT's | flatten
    norm_after_pool: bool = False  # the last norm is of the pooled vector, not of every token
    registers: int = 0  # extra learned tokens that the pooling leaves out
    distill_token: bool = False  # a second class token with a classifier of its own; logits are the mean of both (DeiT)
    embed_norm: bool = False  # a norm of the tokens before the first block (CLIP)
    representation_dim: int | None = None  # width of a tanh layer before the head
    head_mlp: tuple[int, ...] = ()  # widths of dense layers before the classifier
    mlp_output_activation: bool = False  # activation after the MLP's second dense layer too
    activation: str = "gelu"  # gelu: exact, with erf | gelu_tanh | gelu_quick | silu | relu | relu_squared
    mlp_norm: bool = False  # of the MLP's hidden channels in each block, before its last layer
    gated_mlp: bool = False  # in each block times a second dense layer; with silu this is SwiGLU
    norm_eps: float = 1e-6
    layer_scale: float | None = None  # initial value; None: no LayerScale
    qkv_bias: bool = True  # of the queries, keys and values in each block; attention pooling always has them
    qk_norm: bool = False
    token_dropout: float = 0.0  # after the position embedding
    attention_dropout: float = 0.0  # on the attention weights
    mlp_dropout: float = 0.0  # after both dense layers of each MLP
    head_dropout: float = 0.0  # before the head and after each of its hidden layers
    drop_path: float = 0.0  # stochastic depth: rate of the last block, growing linearly from 0
    drop_path_ramp: str = "constant"  # linear: the rates grow from 0 over the run
    attention: str = (
        "auto"  # xla: plain | recomputed: weights not kept | chunked: few examples at a time | cudnn: fused | auto
    )
    remat: bool = False  # recompute each block in the backward pass: less memory, more time
    scan: bool = False  # the blocks as a loop over their parameters, stacked: a smaller program (docs/scale.md)
    init: str = "vit"  # initial values: vit | keras2 | cct (models/inits.py)
    dtype: str = "auto"  # of the computation: float32 | bfloat16 | auto: bfloat16 on accelerators and on CPUs with AMX


@dataclass(frozen=True)
class OptimConfig:
    name: str = "adamw"  # adamw | muon (and AdamW for what isn't a hidden matrix) | lion | sgd
    learning_rate: float = 1e-3
    rate_rules: tuple[tuple[str, float], ...] = ((r".*", 1.0),)  # factors of it, by path; 0.0 freezes
    schedule: str = "cosine"  # cosine | linear | constant | wsd: constant, then linear in the last `decay`
    warmup: str = "0 steps"  # linear from 0
    decay: float = 0.2  # last fraction of the run, in which wsd decays
    final_fraction: float = 0.0  # of learning_rate, where cosine, linear and wsd end
    lora_rank: int | None = None  # of LoRA beside the blocks' kernels; all else but the head is frozen; None: no LoRA
    weight_decay: float = 0.05  # multiplied by the learning rate, as in optax
    decay_rules: tuple[tuple[str, float], ...] = ((r".*/kernel", 1.0), (r".*", 0.0))
    b1: float = 0.9
    b2: float = 0.999  # of Lion, 0.99 is usual
    eps: float = 1e-8
    momentum: float = 0.95  # of muon and sgd
    muon: str = r"(block_\d+|stem/conv_.*)/.*kernel"  # paths of the kernels that Muon takes
    muon_iterations: int = 5  # Newton-Schulz
    adam_learning_rate: float | None = None  # of what Muon leaves to AdamW; None: learning_rate
    clip_norm: float | None = 1.0  # global gradient norm; None: no clipping
    skip_nonfinite: int = (
        0  # steps in a row with a loss or gradient that isn't finite to leave out; one more ends the run
    )


@dataclass(frozen=True)
class DistillConfig:
    teacher: str | None = None  # a workdir or weights, as for init_from; its logits are targets, too; None: no teacher
    kind: str = "hard"  # hard: the class that the teacher prefers | soft: its probabilities
    weight: float = 0.5  # of that loss; that of the labels has the rest
    temperature: float = 1.0  # soft: by which the logits of both are divided


@dataclass(frozen=True)
class TrainConfig:
    length: str = "10 epochs"  # or a time, "600 s": then everything that changes with progress follows the clock
    clock: str = "wall"  # of a length in s: wall, everything from the command to the results | train, the steps alone
    batch_size: int = 256  # global: over all devices and micro-batches
    accumulate: int | None = None  # micro-batches in a step; None: chosen for the machine (steps/cpu.py)
    mesh: str | None = None  # "data=4,fsdp=2": 4 replicas of the state, each sharded over 2 devices; None: replicated
    split_rules: tuple[tuple[str, str], ...] = ((r".*", "auto"),)  # with fsdp: auto, whole, or the axis to split
    steps_per_call: int = 1  # resident images only; pays where a step is under 1 ms on an accelerator
    label_smoothing: float = 0.0
    class_weights: str = "none"  # of the losses: none | balanced: images / (classes * images of the class)
    distill: DistillConfig = field(default_factory=DistillConfig)
    patience: int | None = None  # validations in a row without a better top-1, after which the run ends; None: never
    overfit_one_batch: bool = False  # a check: every step takes the first batch, as it is; its loss must vanish
    ema: float | None = None  # decay of a moving average of the parameters, kept beside them; None: none
    sizes: tuple[tuple[float, int], ...] = ()  # (from this part of the run on, pixels a side); (): image_size always
    deterministic: bool = False  # the same bits each time on a GPU, too; slower there. A CPU gives them anyway


@dataclass(frozen=True)
class EvalConfig:
    every: str = "1 epoch"
    batch_size: int = 500
    select: str = "last"  # the checkpoint tested at the end: last | best (validation top-1)
    params: str = "raw"  # whose validation selects the best, and which are tested: raw | ema
    flips: bool = False  # the test's logits are also averaged with those of the mirrored image, and reported apart


@dataclass(frozen=True)
class CheckpointConfig:
    every: str = "1 epoch"
    keep_latest: int = 2
    keep_best: int = 1


@dataclass(frozen=True)
class LogConfig:
    every: str = "50 steps"
    tensorboard: bool = True  # where TensorFlow is installed
    tracker: str = "none"  # wandb | mlflow | comet: figures go there, too (runs/trackers.py)


@dataclass(frozen=True)
class Config:
    seed: int = 0
    init_from: str | None = (
        None  # weights to start from: a file, a folder, a workdir, hf://OWNER/NAME (docs/weights.md)
    )
    seeds: int = 1  # runs, with `seed` and those after it, one after the other, each in a folder of its own
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)


# What can be changed where a run is evaluated; all else is the run's.
AT_EVALUATION = ("data.test", "eval.batch_size", "eval.flips", "eval.params", "data.dir", "data.cache_dir")


def base_config() -> ConfigDict:
    """All keys at their defaults: where every config file starts."""
    return to_config_dict(Config())


def to_config_dict(config: Any) -> ConfigDict:
    """A locked ConfigDict with the dataclass' keys; unset optional keys keep their type for overrides."""
    out = ConfigDict()
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            out[f.name] = to_config_dict(value)
        elif optional_of(hints[f.name]):
            out[f.name] = config_dict.placeholder(optional_of(hints[f.name]))
            out[f.name] = value
        else:
            out[f.name] = value
    return out.lock()


def from_config_dict(config: ConfigDict) -> Config:
    """The typed config of an ml_collections ConfigDict; raises UserError as `from_mapping` does."""
    return from_mapping(Config, config.to_dict())

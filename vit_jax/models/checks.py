"""Refuses descriptions that are no model, in one line each, before anything is built."""

import math

from vit_jax.config import ModelConfig, StemConfig
from vit_jax.errors import UserError
from vit_jax.models.activations import ACTIVATIONS
from vit_jax.models.posembs import ROTARY
from vit_jax.models.stems import conv_sides, image_shape, input_channels, patch_input_side, value_at

_CHOICES = {
    "posemb": ("learned", "sincos2d", *ROTARY, "none"),
    "pool": ("token", "mean", "token_mean", "map", "sequence", "flatten"),
    "drop_path_ramp": ("constant", "linear"),
    "init": ("vit", "keras2", "cct"),
    "activation": tuple(ACTIVATIONS),
    "attention": ("auto", "xla", "recomputed", "chunked", "cudnn"),
    "dtype": ("float32", "bfloat16", "auto"),
}
_STEM_CHOICES = {
    "kind": ("patch", "conv", "resnet"),
    "norm": ("none", "layer", "group"),
    "activation": tuple(ACTIVATIONS),
}
# Far beyond what any machine takes: descriptions beyond them are mistakes, or files made to do harm.
_MOST_PIXELS, _MOST_TOKENS = 2**16, 2**22
_RATES = ("token_dropout", "attention_dropout", "mlp_dropout", "head_dropout", "drop_path")


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{key}={value!r} is not one of {', '.join(allowed)}")


def positive(key: str, value: int | float) -> None:
    """Raises UserError unless `value` is above 0 and finite."""
    if not 0 < value < math.inf:
        raise UserError(f"{key} must be above 0; found {value!r}")


def check_model(cfg: ModelConfig) -> None:
    """Raises UserError for a resolved ModelConfig whose keys don't fit each other."""
    at = "config.model"
    for key, allowed in _CHOICES.items():
        one_of(f"{at}.{key}", getattr(cfg, key), allowed)
    for key in ("image_size", "patch_size", "width", "depth", "mlp_dim", "norm_eps"):
        positive(f"{at}.{key}", getattr(cfg, key))
    if cfg.num_classes < 0:
        raise UserError(f"{at}.num_classes must not be negative; found {cfg.num_classes}")
    if cfg.channels not in (1, 3):
        raise UserError(f"{at}.channels is 3, or 1 for grey images; found {cfg.channels!r}")
    for key in ("image_width", "heads", "head_dim", "token_mlp_dim", "representation_dim", "rope_side"):
        if getattr(cfg, key) is not None:
            positive(f"{at}.{key}", getattr(cfg, key))
    for width in cfg.head_mlp:
        positive(f"{at}.head_mlp", width)
    if cfg.registers < 0:
        raise UserError(f"{at}.registers must not be negative; found {cfg.registers}")
    if cfg.layer_scale is not None and not 0 <= cfg.layer_scale < math.inf:
        raise UserError(f"{at}.layer_scale must be at least 0; found {cfg.layer_scale!r}")
    for key in _RATES:
        if not 0 <= getattr(cfg, key) < 1:
            raise UserError(f"{at}.{key} must be at least 0 and below 1; found {getattr(cfg, key)!r}")
    _check_stem(cfg)
    height, width, _ = image_shape(cfg)
    tokens = math.prod(patch_input_side(cfg, side) // cfg.patch_size for side in (height, width))
    if max(height, width) > _MOST_PIXELS or tokens > _MOST_TOKENS:
        raise UserError(
            f"{at}.image_size={cfg.image_size}: images of {height:,} x {width:,} pixels in patches of {cfg.patch_size} "
            f"are more than {_MOST_PIXELS:,} pixels a side or {_MOST_TOKENS:,} tokens; give smaller ones"
        )
    if cfg.distill_token and (cfg.pool != "token" or cfg.norm_after_pool or cfg.representation_dim or cfg.head_mlp):
        raise UserError(
            f"{at}.distill_token is a second class token with a classifier of its own: it needs "
            f'{at}.pool="token" and no norm_after_pool, representation_dim or head_mlp'
        )
    of_attention = cfg.posemb in ROTARY or not cfg.qkv_bias or cfg.qk_norm or cfg.attention_dropout
    if cfg.token_mlp_dim is not None and of_attention:
        raise UserError(
            f"{at}.token_mlp_dim={cfg.token_mlp_dim} puts an MLP in the place of attention; "
            f"{at}.posemb of rotations, .qkv_bias=False, .qk_norm and .attention_dropout belong to attention"
        )
    if cfg.posemb == "sincos2d" and cfg.width % 4:
        raise UserError(f'{at}.posemb="sincos2d" needs a width that 4 divides; found {at}.width={cfg.width}')
    if cfg.posemb in ROTARY and cfg.head_dim % 4:
        raise UserError(
            f"{at}.posemb={cfg.posemb!r} needs a head_dim that 4 divides; found {at}.head_dim={cfg.head_dim}"
        )
    if cfg.rope_side is not None and cfg.posemb != "learned_rope2d":
        raise UserError(f'{at}.rope_side is of {at}.posemb="learned_rope2d"; found {at}.posemb={cfg.posemb!r}')
    if cfg.attention == "cudnn":
        if cfg.attention_dropout:
            raise UserError(f'{at}.attention="cudnn" has no dropout; set {at}.attention_dropout=0 or use "auto"')
        if cfg.head_dim % 8 or cfg.head_dim > 128:
            raise UserError(f'{at}.attention="cudnn" needs a head_dim up to 128 that 8 divides; found {cfg.head_dim}')
        if cfg.dtype == "float32":
            raise UserError(f'{at}.attention="cudnn" computes in bfloat16 only; set {at}.dtype=bfloat16 or use "auto"')


def _check_stem(cfg: ModelConfig) -> None:
    at, stem = "config.model.stem", cfg.stem
    for key, allowed in _STEM_CHOICES.items():
        one_of(f"{at}.{key}", getattr(stem, key), allowed)
    if stem.kind == "conv":
        if not stem.widths:
            raise UserError(f'{at}.kind="conv" needs {at}.widths, one for each convolution, like (64, 128)')
        for key in ("strides", "pools", "residual"):
            values = getattr(stem, key)
            if values and len(values) != len(stem.widths):
                raise UserError(f"{at}.{key}={values} and {at}.widths={stem.widths} differ in length")
        positive(f"{at}.kernel_size", stem.kernel_size)
        for value in stem.widths + stem.strides + stem.pools:
            positive(f"{at}.widths, .strides and .pools", value)
        _check_conv_shapes(cfg)
        if stem.norm == "group" and any(width % 32 for width in stem.widths):
            raise UserError(f'{at}.norm="group" makes 32 groups; found {at}.widths={stem.widths}')
        if not stem.project and (cfg.patch_size != 1 or stem.widths[-1] != cfg.width):
            raise UserError(
                f"{at}.project=False makes tokens of the last convolution's outputs: needs patch_size=1 and "
                f"widths[-1] equal to width; found patch_size={cfg.patch_size}, widths={stem.widths}, "
                f"width={cfg.width}"
            )
        if stem.units:
            raise UserError(f'{at}.units belongs to {at}.kind="resnet"; found kind="conv"')
    elif stem.strides or stem.pool or stem.pools or stem.residual or stem.whiten:
        raise UserError(
            f'{at}.strides, .pool, .pools, .residual and .whiten belong to {at}.kind="conv"; found kind={stem.kind!r}'
        )
    elif not stem.project:
        raise UserError(f'{at}.project=False belongs to {at}.kind="conv"')
    elif stem.kind == "resnet":
        _check_resnet(stem)
    elif stem.widths or stem.units:
        raise UserError(f'{at}.widths and .units belong to {at}.kind="conv" or "resnet"; found kind="patch"')
    if stem.kind != "resnet" and (stem.norm_eps is not None or stem.variance_eps is not None):
        raise UserError(f'{at}.norm_eps and .variance_eps belong to {at}.kind="resnet"; found kind={stem.kind!r}')
    height, width = (patch_input_side(cfg, side) for side in image_shape(cfg)[:2])
    if any(side % cfg.patch_size or side < cfg.patch_size for side in (height, width)):
        fits = [p for p in range(1, min(height, 4096) + 1) if height % p == width % p == 0]
        raise UserError(
            f"config.model.patch_size={cfg.patch_size} does not divide the {height} x {width} "
            f"{'image' if stem.kind == 'patch' else 'output of the stem'}; these do: {', '.join(map(str, fits))}"
        )


def _check_resnet(stem: StemConfig) -> None:
    at = "config.model.stem"
    if len(stem.widths) != 1:
        raise UserError(f'{at}.kind="resnet" needs {at}.widths with the channels of its root alone, like (64,)')
    if stem.widths[0] % 32 or stem.widths[0] < 32:
        raise UserError(f'{at}.kind="resnet" makes 32 groups; found {at}.widths={stem.widths}')
    for units in stem.units:
        positive(f"{at}.units", units)
    for key in ("norm_eps", "variance_eps"):
        if getattr(stem, key) is not None:
            positive(f"{at}.{key}", getattr(stem, key))


def _check_conv_shapes(cfg: ModelConfig) -> None:
    at, stem = "config.model.stem", cfg.stem
    if stem.pool and stem.pools:
        raise UserError(f"{at}.pool and {at}.pools are two ways of pooling; set one of them")
    height, width, _ = image_shape(cfg)
    if stem.whiten < 0 or (stem.whiten and (height % stem.whiten or width % stem.whiten)):
        raise UserError(f"{at}.whiten={stem.whiten} does not divide the {height} x {width} pixels of an image")
    channels = input_channels(cfg)
    for i, width in enumerate(stem.widths):
        stride, pool = value_at(stem.strides, i, 1), value_at(stem.pools, i, 1)
        for side in (conv_sides(cfg, side)[i][0] for side in image_shape(cfg)[:2]):
            if side % pool:
                raise UserError(f"{at}.pools: {pool} does not divide the {side} pixels of convolution {i}'s output")
        if value_at(stem.residual, i, False) and (width, stride, pool) != (channels, 1, 1):
            raise UserError(
                f"{at}.residual: convolution {i} turns {channels} channels into {width} with stride {stride} and "
                f"pooling {pool}; one that keeps them can have its input added"
            )
        channels = width

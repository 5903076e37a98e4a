"""The Vision Transformer (Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words").

B batch, N patch tokens, D width, C classes.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from vit_jax.config import ModelConfig
from vit_jax.errors import UserError
from vit_jax.models import backend, encoder, inits, posembs
from vit_jax.models.backend import Compute, Target
from vit_jax.models.checks import check_model
from vit_jax.models.dropout import Dropout
from vit_jax.models.heads import Head
from vit_jax.models.layers import Block, LayerNorm
from vit_jax.models.presets import resolve
from vit_jax.models.stems import ConvStem, PatchStem, ResNetStem, grid_shape, image_shape, prefix_tokens
from vit_jax.schema import from_mapping


class VisionTransformer(nn.Module):
    """images (B, H, W, channels) float -> (logits (B, C) float32, aux); with no classes pre_logits in their place.

    `cfg` must be resolved (`presets.resolve`); `compute.dtype` is of the computation, params are float32. Training with
    any dropout needs an rng named "dropout", and `drop_path_share` of stochastic depth's rate is in force. The same
    parameters take smaller or larger images where `input_size` says so: their positions are spread over the new grid.
    `aux` names the intermediates:

        stem            (B, N, D)  patches, before positions
        tokens          (B, prefix + N, D)  input of the first block; prefix: class token, DeiT's second, registers
        block_00, ...   attn, mlp, out: (B, prefix + N, D); attn_weights (B, K, prefix + N, prefix + N), not with cudnn
                        and not of an MLP-Mixer; none of these with cfg.scan
        encoded         (B, prefix + N, D)  after the last norm, unless that comes after pooling
        pooled, pre_logits  (B, ...)  before and after the head's hidden layers
        logits_token, logits_distill  (B, C)  with cfg.distill_token, of each token's classifier
    """

    cfg: ModelConfig
    compute: Compute
    input_size: int | None = None
    split: tuple[tuple[str, int], ...] = ()  # of_one_device

    @property
    def dtype(self) -> Any:
        """Of the computation."""
        return self.compute.dtype

    def of_one_device(self, split: Mapping[str, int] = MappingProxyType({})) -> "VisionTransformer":
        """The same module, for a device that computes its part of a batch by itself.

        Of the blocks' parameters it may hold parts alone: `split` says which, by path, and along which axis.
        """
        held = tuple(sorted((path, axis) for path, axis in split.items() if encoder.is_of_blocks(path)))
        return self.clone(compute=dataclasses.replace(self.compute, devices=1), split=held)

    @property
    def seen(self) -> ModelConfig:
        """The config of a model for images of `input_size`, where that is given."""
        return self.cfg if self.input_size is None else dataclasses.replace(self.cfg, image_size=self.input_size)

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, drop_path_share: float | jax.Array = 1.0
    ) -> tuple[jax.Array, dict[str, Any]]:
        cfg, aux = self.cfg, {}
        if images.shape[1:] != image_shape(self.seen):
            shape = ", ".join(map(str, image_shape(self.seen)))
            raise ValueError(f"images must be (B, {shape}); found {images.shape}")
        stem = {"patch": PatchStem, "conv": ConvStem, "resnet": ResNetStem}[cfg.stem.kind]
        x = aux["stem"] = stem(cfg, self.compute, name="stem")(images.astype(self.compute.dtype))  # (B, N, D)

        grid, here, angles = grid_shape(cfg), grid_shape(self.seen), None
        if cfg.posemb in posembs.LEARNED:
            table = self.param("posemb", inits.posemb(cfg), (grid[0] * grid[1], cfg.width), jnp.float32)
            # Added in float32, and so summed over the batch for the gradient; likewise below.
            x = (x + posembs.resized(table, grid, here)).astype(self.compute.dtype)
        elif cfg.posemb == "sincos2d":
            x = x + posembs.sincos2d(grid, cfg.width, here).astype(self.compute.dtype)
        prefix = prefix_tokens(cfg)
        if cfg.posemb in posembs.ROTARY:
            counted = grid if cfg.rope_side is None else (cfg.rope_side, cfg.rope_side)
            angles = posembs.ROTARY[cfg.posemb](counted, cfg.head_dim, prefix, here)

        # Class token and registers (Darcet et al. 2024) come after the positions: they have no place in the image.
        if prefix:
            extra = self.param("prefix", inits.prefix(cfg), (prefix, cfg.width), jnp.float32)
            extra = jnp.broadcast_to(extra, (x.shape[0], prefix, cfg.width))
            x = jnp.concatenate([extra.astype(self.compute.dtype), x], axis=1)  # (B, prefix + N, D)
        x = backend.in_rows(x, self.compute.rows_kept)
        if cfg.embed_norm:  # Radford et al. 2021, CLIP
            x = LayerNorm(cfg.norm_eps, self.compute, name="embed_norm")(x)
        x = aux["tokens"] = Dropout(cfg.token_dropout, train)(x)

        if cfg.scan and not self.is_initializing():
            params = encoder.stacked(self.variables["params"])["blocks"]
            block = Block(cfg, self.compute, train, cfg.drop_path, name="blocks", parent=None)
            key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
            split = encoder.of_loop(self.split)
            x = encoder.looped(block, params, x, angles, drop_path_share, key, cfg.remat, split)
        else:
            for i in range(cfg.depth):
                kind, name = encoder.written_out(cfg.remat, encoder.of_block(self.split, i)), f"block_{i:02d}"
                drop_path = cfg.drop_path * i / max(cfg.depth - 1, 1)
                x, aux[name] = kind(cfg, self.compute, train, drop_path, name=name)(x, angles, drop_path_share)
        if not cfg.norm_after_pool:
            x = LayerNorm(cfg.norm_eps, self.compute, name="norm")(x)
        aux["encoded"] = x
        logits, head_aux = Head(cfg, self.compute, train, prefix, name="head")(x)
        return logits, {**aux, **head_aux}


def create(
    model: ModelConfig | ConfigDict | Mapping[str, Any], target: Target | None = None, *, forward_mode: bool = False
) -> VisionTransformer:
    """The module of a `config.model`; raises UserError for one that describes no model.

    What it leaves to the machine (`dtype`, `attention`) is chosen for `target`, the devices at hand unless given
    (models/backend.py). Without `num_classes`, there are 10. `module.init(key, images)["params"]` are its parameters;
    `module.apply({"params": p}, images, train=False)` gives `(logits, aux)`.

    A module has gradients (jax.grad, jax.vjp) and, but for cuDNN's attention, their derivatives: jax.hessian, and
    Hessian-vector products by jax.jvp of jax.grad. `forward_mode=True` gives it all derivatives, those of jax.jvp,
    jax.linearize and jax.jacfwd too. It takes the same parameters and gives the same numbers up to rounding, but
    attention is plain, and training is slower:

        module = create(config.model, forward_mode=True)
        logits, change = jax.jvp(lambda p: module.apply({"params": p}, images)[0], (params,), (direction,))
    """
    if not isinstance(model, (ModelConfig, ConfigDict, Mapping)):
        raise UserError(f"a model is created from a config.model; found {model!r}")
    if isinstance(model, ModelConfig):  # a person's own may have lists for tuples, which can't be hashed
        model = dataclasses.asdict(model)
    mapping = model.to_dict() if isinstance(model, ConfigDict) else model
    model = from_mapping(ModelConfig, mapping, "config.model")
    # A config leaves the class count to the data set; alone, it is CIFAR-10's.
    model = resolve(model, 10)
    check_model(model)
    target = target or backend.target_at_hand()
    dtype = backend.compute_dtype(model.dtype, target)
    if forward_mode:
        model = dataclasses.replace(model, attention="xla")
    tokens = math.prod(grid_shape(model)) + prefix_tokens(model)
    model = dataclasses.replace(model, attention=backend.attention(model, dtype, target, tokens))
    return VisionTransformer(model, backend.compute_for(dtype, target, forward_mode))


def rounded_once(params: Any, module: VisionTransformer) -> Any:
    """Parameters for many small batches: the blocks' kernels in the dtype that each use of them would round them to.

    The module gives the same numbers with them, bit for bit. They are not for training.
    """

    def rounded(path: Any, x: jax.Array) -> jax.Array:
        names = [part.key for part in path]
        of_block = names[0].startswith("block_") and names[-1] == "kernel"
        return x.astype(module.dtype) if of_block else x

    return jax.tree_util.tree_map_with_path(rounded, params)

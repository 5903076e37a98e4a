"""The same model and step in PyTorch, from its own layers. B batch, N tokens, D width, K heads, E head dim."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vit_jax.config import Config, ModelConfig
from vit_jax.models.stems import grid_shape


class Attention(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.heads, self.head_dim, self.dropout = cfg.heads, cfg.head_dim, cfg.attention_dropout
        self.qkv = nn.Linear(cfg.width, 3 * cfg.heads * cfg.head_dim)
        self.out = nn.Linear(cfg.heads * cfg.head_dim, cfg.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)  # (B, K, N, E) each
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(b, n, -1))


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.norm_0, self.norm_1 = (nn.LayerNorm(cfg.width, cfg.norm_eps) for _ in range(2))
        self.attention = Attention(cfg)
        layers = [nn.Linear(cfg.width, cfg.mlp_dim), nn.GELU(), nn.Dropout(cfg.mlp_dropout)]
        layers += [nn.Linear(cfg.mlp_dim, cfg.width), *([nn.GELU()] if cfg.mlp_output_activation else [])]
        self.mlp = nn.Sequential(*layers, nn.Dropout(cfg.mlp_dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_0(x))
        return x + self.mlp(self.norm_1(x))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ViT(nn.Module):
    """Images (B, 3, H, W) -> logits (B, C)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        stem, channels = [], 3
        if cfg.stem.kind == "conv":
            for width, stride in zip(cfg.stem.widths, cfg.stem.strides, strict=True):
                stem += [nn.Conv2d(channels, width, cfg.stem.kernel_size, stride, 1, bias=False)]
                stem += [ChannelNorm(width, cfg.norm_eps), nn.GELU()]
                channels = width
        self.stem = nn.Sequential(*stem, nn.Conv2d(channels, cfg.width, cfg.patch_size, cfg.patch_size))
        tokens = math.prod(grid_shape(cfg))
        self.posemb = nn.Parameter(torch.randn(1, tokens, cfg.width) * 0.02, requires_grad=cfg.posemb == "learned")
        self.blocks = nn.Sequential(*[Block(cfg) for _ in range(cfg.depth)])
        self.norm = nn.LayerNorm(cfg.width, cfg.norm_eps)
        self.flatten = cfg.pool == "flatten"
        head, width = [nn.Dropout(cfg.head_dropout)], cfg.width * (tokens if self.flatten else 1)
        for hidden in cfg.head_mlp:
            head += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(cfg.head_dropout)]
            width = hidden
        self.head = nn.Sequential(*head, nn.Linear(width, cfg.num_classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2) + self.posemb  # (B, N, D)
        x = self.norm(self.blocks(x))
        return self.head(x.flatten(1) if self.flatten else x.mean(1))


def _model(config: Config, compiled: bool | str) -> tuple[nn.Module, torch.Tensor, torch.device, int]:
    """The model, a random batch, the device and the number of trained parameters.

    `compiled` is whether by torch.compile, or its mode.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # What stays float32 is multiplied in TF32, as XLA does on a GPU unless told otherwise.
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else "highest")
    torch.manual_seed(0)
    layout = torch.channels_last if config.model.stem.kind == "conv" else torch.contiguous_format
    model = ViT(config.model).to(device).to(memory_format=layout)
    shape = (config.train.batch_size, 3, config.model.image_size, config.model.image_size)
    images = torch.randn(shape, device=device).to(memory_format=layout)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    mode = compiled if isinstance(compiled, str) else None
    return (torch.compile(model, mode=mode) if compiled else model), images, device, count


def training(config: Config, compiled: bool | str) -> tuple[Callable[[], float], int]:
    """A function that runs one step of training and returns its loss; the number of parameters."""
    model, images, device, count = _model(config, compiled)
    labels = torch.from_numpy(np.random.RandomState(1).randint(config.model.num_classes, size=len(images))).to(device)
    o = config.optim
    parameters = [p for p in model.parameters() if p.requires_grad]
    tx = torch.optim.AdamW(parameters, o.learning_rate, (o.b1, o.b2), o.eps, o.weight_decay, fused=True)
    bf16 = config.model.dtype == "bfloat16"

    def step() -> float:
        tx.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = model(images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.train.label_smoothing)
        loss.backward()
        if o.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, o.clip_norm)
        tx.step()
        return float(loss.detach())

    return step, count


def inference(config: Config, compiled: bool | str) -> tuple[Callable[[], float], int]:
    """A function that computes the logits of one batch: weights and images in the dtype, as is fastest."""
    model, images, _, count = _model(config, compiled)
    if config.model.dtype == "bfloat16":
        model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
    model.eval()

    def step() -> float:
        with torch.inference_mode():
            return float(model(images)[0, 0])

    return step, count


def accelerator_bytes() -> int:
    """The most memory of the accelerator that was in use; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0

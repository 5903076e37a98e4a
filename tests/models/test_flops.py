"""The FLOPs of a model are XLA's, and its share of a peak."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from test_models import TINY, WHITENED

from vit_jax import models
from vit_jax.config import StemConfig
from vit_jax.models import flops
from vit_jax.models.stems import image_shape
from vit_jax.steps import state as states


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "map"},
        {"pool": "flatten", "head_mlp": (8,)},
        {"pool": "token", "registers": 1, "representation_dim": 9},
        {"pool": "token", "distill_token": True, "gated_mlp": True},
    ]
    + [{"channels": 1, "image_width": 32}, {"channels": 1, "stem": StemConfig("resnet", widths=(64,)), "patch_size": 1}]
    + [{"stem": StemConfig("conv", widths=(4, 8), strides=(1, 2)), "patch_size": 2}]
    + [{"stem": dataclasses.replace(WHITENED, norm="none"), "patch_size": 1, "pool": "sequence"}],
    ids=str,
)
def test_flops_are_xlas_but_for_the_elementwise(options):
    """Wide and few tokens: norms, softmax and activations, which only XLA counts, are little there."""
    cfg = dataclasses.replace(TINY, width=256, heads=4, mlp_dim=512, attention="xla", **options)
    module = models.create(cfg)
    params, images = states.abstract_params(module), jnp.zeros((4, *image_shape(module.cfg)))

    def counted(f):
        return jax.jit(f).lower(params, images).compile().cost_analysis()["flops"] / 4

    assert 1 <= counted(lambda p, x: module.apply({"params": p}, x)[0]) / flops.forward(module.cfg) < 1.06
    # The backward pass leaves out the gradient of the images.
    backward = counted(jax.grad(lambda p, x: module.apply({"params": p}, x)[0].sum()))
    assert 0.95 < backward / flops.training(module.cfg) < 1.06


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "flatten", "head_mlp": (64, 32)},
        {"representation_dim": 24, "pool": "map"},
        {"gated_mlp": True, "pool": "token_mean"},
        {"stem": StemConfig(kind="conv", widths=(64, 96), whiten=2), "patch_size": 2},
    ],
)
def test_kernel_entries_are_nearly_all_parameters(options):
    module = models.create(dataclasses.replace(TINY, width=64, heads=4, mlp_dim=128, **options))
    count = states.count(states.abstract_params(module))
    assert 0.93 * count < flops.kernel_entries(module.cfg) < count


def test_utilization_is_the_share_of_a_known_peak():
    assert flops.utilization(2 * 989e12, "NVIDIA H200", 4, "bfloat16") == pytest.approx(0.5)
    assert flops.utilization(378e12, "NVIDIA H100 PCIe", 1, "bfloat16") == pytest.approx(0.5)
    assert flops.utilization(98.9e12, "NVIDIA H100 80GB HBM3", 1, "bfloat16") == pytest.approx(0.1)
    assert flops.utilization(181e12, "NVIDIA L40", 1, "bfloat16") == pytest.approx(1)
    assert flops.utilization(1e12, "NVIDIA H100 80GB HBM3 MIG 1g.10gb", 1, "bfloat16") is None
    assert flops.utilization(1e12, "cpu", 1, "bfloat16") is None  # no peak to speak of
    assert flops.utilization(1e12, "NVIDIA H200", 1, "float32") is None  # another peak

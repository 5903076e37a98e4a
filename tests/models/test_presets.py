"""Models by their names have the parameters of their sources."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from configs import cct7_cifar10
from vit_jax import models
from vit_jax.config import ModelConfig, from_config_dict
from vit_jax.errors import UserError
from vit_jax.models import flops
from vit_jax.models.presets import PRESETS
from vit_jax.models.stems import grid_shape
from vit_jax.steps import state as states

# With 10 classes, mean pooling, learned positions of 32x32 images.
GOLDEN = {
    **{"Ti/4": 5_362_378, "S/4": 21_341_578, "B/4": 85_150_474, "L/4": 302_437_386},
    **{"H/4": 629_838_090, "g/4": 1_010_183_050},
}


def test_parameter_counts_of_all_presets():
    assert {name.split("/")[0] for name in GOLDEN} == set(PRESETS)
    for variant, expected in GOLDEN.items():
        module = models.create({"variant": variant, "num_classes": 10})
        assert states.count(states.abstract_params(module)) == expected, variant


@pytest.mark.parametrize(("patch_size", "tokens"), [(2, 256), (8, 16), (16, 4)])
def test_variants_take_any_patch_size(patch_size, tokens):
    cfg = models.resolve(ModelConfig(variant=f"S/{patch_size}", num_classes=10))
    assert cfg.width == 384 and math.prod(grid_shape(cfg)) == tokens


def test_own_sizes_go_before_the_variants():
    cfg = models.resolve(ModelConfig(variant="S/4", depth=3, num_classes=100))
    assert (cfg.depth, cfg.width, cfg.heads, cfg.head_dim, cfg.num_classes) == (3, 384, 6, 64, 100)


def test_unresolved_models_are_refused():
    with pytest.raises(UserError, match=r"config\.model\.patch_size, config\.model\.width, .*: not set"):
        models.create(ModelConfig())
    with pytest.raises(UserError, match="cudnn.*needs an NVIDIA GPU"):
        models.create(ModelConfig(variant="Ti/4", num_classes=5, attention="cudnn"))


def cct7(**changes):
    config = from_config_dict(cct7_cifar10.get_config())
    return models.create(dataclasses.replace(config.model, num_classes=10, **changes))


def test_cct7_has_the_parameters_of_its_source():
    """CCT-7/3x1: one 3x3 convolution to 256 channels, ReLU, 3x3 max pooling with stride 2: 256 tokens."""
    module = cct7()
    assert grid_shape(module.cfg) == (16, 16)
    shapes = states.abstract_params(module)
    assert set(shapes["stem"]) == {"conv_0"} and set(shapes["stem"]["conv_0"]) == {"kernel"}
    assert shapes["stem"]["conv_0"]["kernel"].shape == (3, 3, 3, 256)
    # The paper counts 1.19 G multiply-adds for CCT-7/3x1, with its sequence pooling.
    assert abs(flops.forward(module.cfg) / 2 - 1.18e9) < 0.01e9
    # Its repository counts 3.760 M: what src/cct.py makes of 256 channels, 7 blocks and 10 classes, written out.
    d, f = 256, 512
    block = 3 * d * d + (d + 1) * d + (d + 1) * f + (f + 1) * d + 4 * d  # queries, keys and values have no bias
    assert states.count(shapes) == 27 * d + 256 * d + 7 * block + 2 * d + (d + 1) + (d + 1) * 10 == 3_760_139


def test_cct7_begins_as_its_source():
    """src/utils/transformers.py and tokenizer.py of SHI-Labs/Compact-Transformers."""
    params = jax.jit(states.init_params, static_argnums=0)(cct7(depth=1), 0)
    for path, x in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, params)):
        *_, layer, name = path = ["", *(key.key for key in path)]
        if name in ("bias", "scale"):
            assert (x == (name == "scale")).all(), path
            continue
        deviation = 0.2 if name == "posemb" else math.sqrt(2 / 27) if layer == "conv_0" else 0.02
        assert abs(x.mean()) < 5 * deviation / math.sqrt(x.size), path
        assert abs(x.std() / deviation - 1) < 5 / math.sqrt(2 * x.size), path
        assert x.size < 1000 or abs(x).max() > 2.5 * deviation, path  # not cut at two deviations

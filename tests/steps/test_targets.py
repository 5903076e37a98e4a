"""Steps for devices that aren't here: what is decided for a GPU or a TPU shows in the program that a CPU traces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from configs import vit_ti4_cifar10
from vit_jax import models
from vit_jax.config import from_config_dict
from vit_jax.data.dataset import Examples
from vit_jax.data.pipeline import DevicePipeline
from vit_jax.errors import UserError
from vit_jax.models import backend
from vit_jax.models.backend import Target
from vit_jax.steps import optim
from vit_jax.steps import state as states
from vit_jax.steps.cpu import with_micro_batches
from vit_jax.steps.phases import traced_step
from vit_jax.steps.plan import Plan
from vit_jax.steps.schedules import learning_rate
from vit_jax.system.sharding import replicated

CPU = Target("cpu")
H100 = Target("gpu", "NVIDIA H100 80GB HBM3", compute_capability=9.0)
TPU = Target("tpu", "TPU v5 lite", devices=4, local_devices=4)
CONFIG = from_config_dict(vit_ti4_cifar10.get_config())
CONFIG = dataclasses.replace(
    CONFIG,
    model=models.resolve(dataclasses.replace(CONFIG.model, num_classes=10, depth=1)),
    augment=dataclasses.replace(CONFIG.augment, policy="none", mean=(0.5,) * 3, std=(0.25,) * 3),
)


@pytest.fixture
def cudnn(monkeypatch):
    """JAX asks for the version of the installed cuDNN while it traces."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)


def program(target, platform, config=CONFIG):
    """The training step for a target as `platform` gets it: config, module, StableHLO."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    module, config = models.create(config.model, target), with_micro_batches(config, target)
    tx = optim.optimizer(config.optim, states.abstract_params(module), module.dtype)
    state, everywhere = states.create(module, tx, config.seed, mesh), replicated(mesh)
    images, labels = np.zeros((config.train.batch_size, 32, 32, 3), np.uint8), np.zeros(config.train.batch_size, int)
    pipeline = DevicePipeline.of(Examples(images, labels), config.train.batch_size, everywhere)
    schedule = learning_rate(config.optim, 10, 0)
    traced = traced_step(config, module, tx, schedule, Plan(10, None), mesh, pipeline, state)
    return config, module, traced.lower(lowering_platforms=(platform,)).as_text()


def matmuls(text):
    """The types of the factors of all matmuls but those of the 10 logits, which are in float32 everywhere."""
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line and "x10x" not in line]
    assert lines
    return {"bf16" if "bf16>" in line.split(" : ")[1] else "f32" for line in lines}


def test_a_step_for_a_gpu_is_traced_without_one(cudnn):
    config, module, text = program(H100, "cuda")
    assert config.train.accumulate == 1
    assert module.dtype == jnp.bfloat16 and matmuls(text) == {"bf16"}
    assert module.cfg.attention == "cudnn" and "__cudnn$fmhaSoftmax(" in text and "__cudnn$fmhaSoftmaxBackward(" in text
    assert "optimization_barrier" not in text
    # Tokens, and their gradient, as rows: XLA's GPU would transpose them for the sum over the batch in the positions'.
    kept = [line for line in text.splitlines() if "@LayoutConstraint" in line]
    assert len(kept) == 2 and all("dense<[2, 1, 0]>" in line and "x64x192xbf16>" in line for line in kept)


@pytest.mark.parametrize(("version", "kept"), [((0, 10, 2), False), ((0, 12, 0), True)])
def test_tokens_are_not_gathered_to_keep_their_rows(version, kept, monkeypatch):
    """On several GPUs: JAX before 0.12 doesn't split what says so."""
    monkeypatch.setattr(jax, "__version_info__", version)
    two = dataclasses.replace(H100, devices=2, local_devices=2)
    assert models.create(CONFIG.model, two).compute.rows_kept == kept
    assert models.create(CONFIG.model, H100).compute.rows_kept


def test_a_step_for_a_tpu_is_traced_without_one():
    config, module, text = program(TPU, "tpu")
    assert config.train.accumulate == 1
    assert module.dtype == jnp.bfloat16 and matmuls(text) == {"bf16"}
    assert module.cfg.attention == "recomputed" and "cudnn" not in text
    # What is kept for the backward pass is rounded first: queries, keys, values; hidden values of an MLP.
    barriers = [line for line in text.splitlines() if "optimization_barrier" in line]
    assert len(barriers) == 2 and all("f32" not in line for line in barriers)


def test_the_same_config_on_a_cpu():
    config, module, text = program(CPU, "cpu")
    assert config.train.accumulate > 1
    assert module.dtype == jnp.float32 and matmuls(text) == {"f32"}
    assert module.cfg.attention == "chunked" and "optimization_barrier" in text and "LayoutConstraint" not in text


def test_a_cpu_with_matrix_units_multiplies_bfloat16_along_rows():
    muon = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, name="muon"))
    _, module, text = program(dataclasses.replace(CPU, fast_bfloat16=True), "cpu", muon)
    assert module.dtype == jnp.bfloat16 and module.compute.rows_alone and matmuls(text) == {"bf16"}
    assert module.cfg.attention == "recomputed" and "contracting_dims = [0] x [0]" not in text


# Of the processor by itself, of JAX, and of both.
flags_and_versions = pytest.mark.parametrize(
    ("flags", "version", "expected"),
    [(True, (0, 12, 0), True), (True, (0, 10, 2), False), (False, (0, 12, 0), False)],
)


@flags_and_versions
def test_bfloat16_is_fast_where_there_are_units_and_jax_uses_them(flags, version, expected, monkeypatch):
    monkeypatch.setattr(backend, "multiplies_bfloat16", lambda: flags)
    monkeypatch.setattr(jax, "__version_info__", version)
    assert backend.target_at_hand().fast_bfloat16 == expected


@flags_and_versions
def test_convolutions_are_matmuls_in_float32_where_that_was_faster(flags, version, expected, monkeypatch):
    monkeypatch.setattr(backend, "lacks_avx512", lambda: flags)
    monkeypatch.setattr(jax, "__version_info__", version)
    target = backend.target_at_hand()
    assert backend.compute_for(jnp.float32, target, False).windows == expected
    assert not backend.compute_for(jnp.bfloat16, target, False).windows
    assert not backend.compute_for(jnp.float32, target, True).windows  # of which no forward-mode derivative is known


@pytest.mark.parametrize(
    ("target", "changes", "expected"),
    [
        (CPU, {}, "chunked"),
        (H100, {}, "cudnn"),
        (H100, {"dtype": "float32"}, "recomputed"),
        (H100, {"attention_dropout": 0.1}, "recomputed"),
        (H100, {"head_dim": 12}, "recomputed"),
        (H100, {"pool": "token"}, "recomputed"),  # an odd number of tokens
        (H100, {"pool": "token", "registers": 1}, "cudnn"),
        (H100, {"attention": "chunked"}, "chunked"),  # what is asked for stays
        (Target("gpu", "Tesla V100-SXM2-16GB", compute_capability=7.0), {}, "recomputed"),
        (Target("gpu", "AMD Instinct MI300X"), {}, "recomputed"),
        (TPU, {}, "recomputed"),
    ],
)
def test_attention_of_each_target(target, changes, expected):
    assert models.create(dataclasses.replace(CONFIG.model, **changes), target).cfg.attention == expected


def test_cpu_devices_share_one_memory():
    assert backend.resident_copies(Target("cpu", devices=16, local_devices=8)) == 8
    assert backend.resident_copies(Target("gpu", devices=16, local_devices=8)) == 1


def test_without_a_target_models_are_for_the_devices_at_hand():
    here = Target("cpu", "cpu", devices=8, local_devices=8)  # conftest.py's
    assert backend.target_at_hand() == here
    assert models.create(CONFIG.model) == models.create(CONFIG.model, here)


def test_cudnn_where_it_has_no_gradient_is_refused():
    with pytest.raises(UserError, match="takes an even number of tokens; this model has 65"):
        models.create(dataclasses.replace(CONFIG.model, attention="cudnn", pool="token"), H100)


def test_a_size_with_an_odd_number_of_tokens_does_without_cudnn(cudnn):
    """Of progressive sizes, 20 pixels in patches of 4 are 25 tokens."""
    module = models.create(CONFIG.model, H100)
    params = states.abstract_params(module)
    module = module.clone(input_size=20)

    def loss(params):
        return module.apply({"params": params}, jnp.zeros((2, 20, 20, 3)))[0].sum()

    text = jax.jit(jax.grad(loss)).trace(params).lower(lowering_platforms=("cuda",)).as_text()
    assert module.cfg.attention == "cudnn" and "cudnn" not in text

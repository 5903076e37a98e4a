"""Cores become devices where it pays, whatever the batch; batches become micro-batches that fit the caches."""

import dataclasses
import subprocess
import sys

import pytest

from configs import article, conv_stem_cifar10, laptop, quickstart, vit_ti4_cifar10
from vit_jax.config import Config, TrainConfig, from_config_dict
from vit_jax.models import flops, resolve
from vit_jax.models.backend import Target
from vit_jax.steps.cpu import device_count, evaluation_parts, micro_batches, with_micro_batches


def resolved(config):
    typed = from_config_dict(config)
    return dataclasses.replace(typed, model=resolve(typed.model, 10))


def cpu(devices):
    return Target("cpu", devices=devices, local_devices=devices)


@pytest.mark.parametrize(
    ("batch_size", "gflops", "cores", "accumulate", "expected"),
    [
        (256, 1.2, 2, None, 2),  # the article's
        (64, 0.015, 2, None, 1),  # the quickstart's: too little work
        (255, 1.2, 2, None, 1),  # an odd batch
        (60, 1.2, 8, None, 6),  # as many as divide it
        (256, 1.2, 64, None, 8),  # no more than were tried
        (256, 1.2, 4, 128, 2),  # micro-batches of 2
        (0, 1.2, 2, None, 1),  # told elsewhere
    ],
)
def test_a_device_for_each_core_that_has_enough_to_do(batch_size, gflops, cores, accumulate, expected):
    config = dataclasses.replace(Config(), train=TrainConfig(batch_size=batch_size, accumulate=accumulate))
    assert device_count(config, gflops * 1e9, cores) == expected


@pytest.mark.parametrize("width", [16, 32, 64, 192])
def test_a_resumed_run_gets_the_devices_that_it_began_with(width):
    typed = from_config_dict(vit_ti4_cifar10.get_config())
    model = dataclasses.replace(typed.model, width=width, heads=2, mlp_dim=2 * width, depth=2, num_classes=10)
    train = dataclasses.replace(typed.train, batch_size=1024)
    config = dataclasses.replace(typed, model=resolve(model), train=train)
    began = device_count(config, flops.training(config.model), 2)
    chosen = with_micro_batches(config, cpu(began))
    assert chosen.train.accumulate >= 1
    assert device_count(chosen, flops.training(config.model), 2) == began


def test_micro_batches_fit_the_caches_and_divide_what_each_device_has():
    ti4 = vit_ti4_cifar10.get_config()
    assert micro_batches(resolved(ti4), cpu(2)) == 8 and micro_batches(resolved(ti4), cpu(1)) == 16
    assert micro_batches(resolved(article.get_config()), cpu(2)) == 4  # its large head makes adding up gradients dear
    assert micro_batches(resolved(quickstart.get_config()), cpu(1)) == 1  # small as it is
    assert micro_batches(resolved(conv_stem_cifar10.get_config()), cpu(2)) == 1  # convolutions are slow in a loop
    units = dataclasses.replace(cpu(2), fast_bfloat16=True)
    assert micro_batches(resolved(conv_stem_cifar10.get_config()), units) == 8  # there they are matmuls
    assert micro_batches(resolved(ti4), units) == 16
    avx2 = dataclasses.replace(cpu(2), slow_convolutions=True)
    assert (
        micro_batches(resolved(conv_stem_cifar10.get_config()), avx2) == 4 and micro_batches(resolved(ti4), avx2) == 8
    )
    eight = dataclasses.replace(cpu(8), fast_bfloat16=True)
    assert micro_batches(resolved(article.get_config()), eight) == 1  # as dear for each device's share
    assert micro_batches(resolved(laptop.get_config()), units) == 8  # 16 but for its stem's kernels
    ti4.train.batch_size = 2 * 127
    assert micro_batches(resolved(ti4), cpu(2)) == 1  # nothing but 1 divides it


def test_parts_of_an_evaluation_fit_the_caches_and_divide_its_images():
    model = resolved(article.get_config()).model
    assert [evaluation_parts(model, dtype, 64) for dtype in ("float32", "bfloat16")] == [8, 4]
    assert evaluation_parts(model, "float32", 127) == evaluation_parts(model, "bfloat16", 1) == 1


def test_a_given_number_of_micro_batches_stays():
    config = resolved(vit_ti4_cifar10.get_config())
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, accumulate=2))
    assert with_micro_batches(config, cpu(2)) == config


@pytest.mark.parametrize(
    "given", [{"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}]
)
def test_what_the_environment_says_stays(given, monkeypatch):
    for name in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = "import jax; from configs import article; from vit_jax.config import from_config_dict as f; "
    code += (
        "from vit_jax.steps.cpu import use_cpu_cores; use_cpu_cores(f(article.get_config())); print(jax.device_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"

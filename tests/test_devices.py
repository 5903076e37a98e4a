"""Cores become devices where it pays, whatever the batch."""

import dataclasses
import subprocess
import sys

import pytest

from vit_jax.config import Config, TrainConfig
from vit_jax.devices import count


def devices(batch_size, gflops_per_image, cores, accumulate=1):
    config = dataclasses.replace(Config(), train=TrainConfig(batch_size=batch_size, accumulate=accumulate))
    return count(config, gflops_per_image * 1e9, cores)


@pytest.mark.parametrize(
    ("batch_size", "gflops", "cores", "accumulate", "expected"),
    [
        (256, 1.2, 2, 1, 2),  # the article's
        (64, 0.015, 2, 1, 1),  # the quickstart's: too little work
        (255, 1.2, 2, 1, 1),  # an odd batch
        (60, 1.2, 8, 1, 6),  # as many as divide it
        (256, 1.2, 64, 1, 8),  # no more than were tried
        (256, 1.2, 4, 128, 1),  # micro-batches of 2: too little work
        (0, 1.2, 2, 1, 1),  # told elsewhere
    ],
)
def test_a_device_for_each_core_that_has_enough_to_do(batch_size, gflops, cores, accumulate, expected):
    assert devices(batch_size, gflops, cores, accumulate) == expected


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
        "from vit_jax.devices import use_cpu_cores; use_cpu_cores(f(article.get_config())); print(jax.device_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"

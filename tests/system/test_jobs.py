"""Processes of a job that don't belong together."""

import errno
import os

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from vit_jax.config import Config, DataConfig, OptimConfig
from vit_jax.errors import RunError
from vit_jax.system import environment, jobs
from vit_jax.training.prepare import compared


def test_what_the_system_refuses_is_told_by_its_name():
    told = "No space left on device: 'curves.png'; what was saved before is intact"
    with pytest.raises(RunError, match=told), jobs.explaining():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "curves.png")


def test_processes_that_differ_say_in_what(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)

    def gather(own):
        other = own.copy()
        other[1, :6] = np.frombuffer(b"0.11.0", np.uint8)
        return np.stack([own, other, own])

    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    with pytest.raises(RunError) as raised:
        jobs.require_same({"vit_jax's code": "abc", "the version of jax": "0.12.0"}, "set them up alike")
    told = "the version of jax: 0.12.0 (process 0, 2), 0.11.0 (process 1). To mend it, set them up alike"
    assert str(raised.value) == f"the job's processes differ in {told}"


def test_long_values_are_told_apart_too(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    rows = []
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: rows.append(own) or np.stack([own, own]))
    for end in "ab":
        jobs.require_same({"config.data.labels": "x" * 100 + end}, "")
    assert (rows[0] != rows[1]).any()


def test_all_keys_of_a_config_are_compared_but_where_the_data_lie():
    one = Config(data=DataConfig(dir="/here"), optim=OptimConfig(learning_rate=1e-3))
    other = Config(data=DataConfig(dir="/there"), optim=OptimConfig(learning_rate=2e-3))
    first, second = compared(one), compared(other)
    assert [key for key in first if first[key] != second[key]] == ["config.optim.learning_rate"]
    assert second["config.optim.learning_rate"] == "0.002" and "config.seed" in first


def test_what_processes_must_have_in_common_are_versions_and_this_code(monkeypatch, tmp_path):
    found = environment.programs()
    assert found["the version of jax"] == jax.__version__ and "the version of python" not in found
    copy = tmp_path / "vit_jax" / "__init__.py"
    copy.parent.mkdir()
    copy.write_text('__version__ = "0.1"\n')
    monkeypatch.setattr(environment.vit_jax, "__file__", str(copy))
    before = environment.programs()["vit_jax's code (sha256)"]
    (copy.parent / "more.py").write_text("x = 1\n")
    assert found["vit_jax's code (sha256)"] != before != environment.programs()["vit_jax's code (sha256)"]

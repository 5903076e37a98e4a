"""Processes of a job that don't belong together."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from vit_jax.errors import RunError
from vit_jax.system import environment, jobs


def test_processes_that_differ_say_in_what(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.stack([own, own + [0, 1]]))
    with pytest.raises(
        RunError, match=r"^the job's processes differ in the version of jax: \[5, 6\]; set them up alike$"
    ):
        jobs.require_same({"vit_jax's code": 3, "the version of jax": 5}, "set them up alike")


def test_what_processes_must_have_in_common_are_versions_and_this_code(monkeypatch, tmp_path):
    found = environment.programs()
    assert found["the version of jax"] == jax.__version__ and "the version of python" not in found
    copy = tmp_path / "vit_jax" / "__init__.py"
    copy.parent.mkdir()
    copy.write_text('__version__ = "0.1"\n')
    monkeypatch.setattr(environment.vit_jax, "__file__", str(copy))
    before = environment.programs()["vit_jax's code"]
    (copy.parent / "more.py").write_text("x = 1\n")
    assert found["vit_jax's code"] != before != environment.programs()["vit_jax's code"]

"""Annotations hold: mypy, with what setup.cfg says."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.slow  # without mypy's cache, which is kept between runs
def test_the_package_passes_the_type_check():
    cache = Path(tempfile.gettempdir()) / f"vit_jax_mypy_{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    command = [sys.executable, "-m", "mypy", "--config-file=setup.cfg", f"--cache-dir={cache}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr

"""A job of two processes under Open MPI, where it is installed."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from promises.harness import REPOSITORY, RUN


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Open MPI: apt-get install openmpi-bin")
def test_two_processes_find_each_other_under_mpirun(tmp_path):
    program = tmp_path / "bin" / "vit-jax"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m vit_jax.main "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "JAX_NUM_CPU_DEVICES": "1",
        **dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1"),
    }
    given = ("-n", "2", "--oversubscribe", "--", *RUN, "--config.train.length=5 steps", f"--workdir={tmp_path / 'run'}")
    script = REPOSITORY / "scripts" / "launch" / "openmpi.sh"
    done = subprocess.run([script, *given], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] == 5 and results["device"].startswith("2 x cpu")

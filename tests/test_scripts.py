"""What scripts/train.sh adds to the arguments it is given."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.sh"


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("", "--config=quickstart --workdir=runs/quickstart"),
        ("--workdir=new", "--config=quickstart --workdir=new"),
        ("--workdir new", "--config=quickstart --workdir new"),
        ("--workdir=new --config.seed=3", "--config=quickstart --workdir=new --config.seed=3"),
        ("--config.seed=3", "--config=quickstart --workdir=runs/quickstart --config.seed=3"),
        ("--workdir=run", "--workdir=run"),  # there is one: it goes on
        ("--config=laptop --workdir=new", "--config=laptop --workdir=new"),
        ("evaluate --workdir=new", "evaluate --workdir=new"),
        ("--mode=evaluate --workdir=new", "--mode=evaluate --workdir=new"),
        ("--help", "--help"),
        ("--workdir=new --resume must", "--config=quickstart --workdir=new --resume must"),
    ],
)
def test_without_a_config_it_is_the_quickstart(tmp_path, given, passed):
    scripts, program = tmp_path / "scripts", tmp_path / ".venv" / "bin" / "python"
    scripts.mkdir()
    program.parent.mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    shutil.copy(SCRIPT, scripts)
    (scripts / "setup.sh").write_text('cd "$(dirname "${BASH_SOURCE[0]}")/.."\n')
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    done = subprocess.run([scripts / "train.sh", *given.split()], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"-m vit_jax.main {passed}"

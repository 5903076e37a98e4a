"""What the README tells people to do works: its commands parse, its files and keys are there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from scripts.release_check import commands
from vit_jax.cli import flags
from vit_jax.runs.folder import RunFolder

README = Path("README.md").read_text()


def test_it_opens_with_the_two_commands():
    assert commands(README)[:2] == ["./scripts/train.sh", "./scripts/test.sh"]


@pytest.mark.parametrize("command", commands(README))
def test_every_command_is_understood(command, monkeypatch, tmp_path):
    program, *args = shlex.split(command)
    if program == ".venv/bin/python":
        assert Path(args[0]).is_file()
        return
    if program != ".venv/bin/vit-jax":
        assert Path(program).stat().st_mode & 0o100, "not executable"
    if not any(arg.startswith("--workdir") for arg in args):
        return
    if not any(arg.startswith("--config=") for arg in args):
        args = [arg for arg in args if "workdir" not in arg]
        monkeypatch.setattr(RunFolder, "exists", lambda self: True)
        monkeypatch.setattr(RunFolder, "config", lambda self: None)
        args.append(f"--workdir={tmp_path}")
    flags.parse([program, *args])


@pytest.mark.parametrize(("block", "side"), [("models.create", 72), ("pretrained.load", 32)])
def test_the_python_examples_run(block, side):
    code = next(code for code in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if block in code)
    names = {"images": np.zeros((1, side, side, 3), np.float32)}
    exec(code.replace("B_16.npz", "tests/fixtures/pretrained/google_vit_token.npz"), names)
    assert names["logits"].shape == (1, 10) and "encoded" in names["aux"]


def test_every_file_it_names_is_there():
    for name in re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"`((?:configs|scripts|vit_jax)/[\w./]+)`", README):
        assert Path(name).exists(), name


def test_every_config_says_how_to_run_it():
    for file in Path("configs").glob("*.py"):
        command = re.search(r"^python -m vit_jax\.main (.*)$", file.read_text(), flags=re.MULTILINE)
        assert command, file
        assert flags.parse(["vit-jax", *shlex.split(command[1])]).config is not None
        assert len(file.read_text().splitlines()) <= 45

"""Eight virtual CPU devices, a compilation cache, no network, and data only from where a test puts them."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

_cache = Path(tempfile.gettempdir()) / f"vit_jax_tests_{os.getuid()}"
_cache.mkdir(mode=0o700, exist_ok=True)
os.environ.update(
    JAX_PLATFORMS="cpu",
    JAX_NUM_CPU_DEVICES="8",
    JAX_COMPILATION_CACHE_DIR=str(_cache),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
)
os.environ.pop("TFDS_DATA_DIR", None)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays cached by a test stay its own, the home folder is empty, and nothing can be fetched."""
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(REPOSITORY)

    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def command(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str]]:
    """Runs the program in this process: (exit code, what it printed)."""
    from vit_jax.main import main

    def run(*args: str) -> tuple[int, str]:
        code = main(["vit-jax", *args])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Starts the program in a process of its own, on one device unless told otherwise."""
    started = []

    def start(*args: str, devices: int = 1, code: str = "") -> subprocess.Popen:
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        program = ["-m", "vit_jax.main"] if not code else ["-c", code]
        started.append(
            subprocess.Popen(
                [sys.executable, *program, *args],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()

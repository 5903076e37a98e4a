"""Eight virtual CPU devices, quick compiling, no network, and data only from where a test puts them."""

import gc
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
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
# The tests compile far longer than they compute: code that is less optimised is there in half the time.
_QUICK_COMPILING = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# The cores are the tests' already: a program in parts, to be compiled side by side, is only more to compile.
_QUICK_COMPILING += " --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):
    # Loops made by LLVM alone, in a third of the time that MLIR takes to; later versions have only that.
    _QUICK_COMPILING += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK_COMPILING}".strip()
os.environ.pop("TFDS_DATA_DIR", None)
# Tracing makes far more objects than garbage: looked through less often.
gc.set_threshold(50_000)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes run the tests: one for each core, up to 4; only this for files and tests that are named."""
    if all(Path(arg.partition("::")[0]).is_file() for arg in config.args):
        return 0
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


@pytest.fixture(autouse=True, scope="session")
def float32() -> None:
    """ "auto" is float32 on every CPU: what a test finds doesn't depend on the machine's units and instructions."""
    from vit_jax.models import backend

    backend.multiplies_bfloat16 = backend.lacks_avx512 = lambda: False


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays cached by a test stay its own, the home folder is empty, and nothing can be fetched."""
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(REPOSITORY)

    def refuse(self: socket.socket, address: object) -> None:
        raise OSError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says to what weights of other projects were compared: with a library itself, or as recorded alone."""
    reports = terminalreporter.getreports("passed")
    found = Counter(value for r in reports for key, value in r.user_properties if key == "weights compared")
    for with_what, count in sorted(found.items()):
        terminalreporter.write_line(f"Weights compared with {with_what}: {count} models")


@pytest.fixture(scope="session")
def straight_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Finished runs of promises.harness.RUN, by their numbers of devices. pytest-xdist's workers share them."""
    from promises.harness import StraightRuns

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return StraightRuns(folder / "straight_runs")


@pytest.fixture
def straight(straight_runs: Callable[[int], Path]) -> Path:
    """The workdir of a finished run on as many devices as there are here: to be copied, not changed."""
    return straight_runs(8)


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

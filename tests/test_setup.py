"""scripts/setup.sh takes the newest Python that works and JAX for the accelerator, and leaves a .venv in use alone.

Stand-ins take the places of nvidia-smi, uv and the interpreters; nothing is installed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
TOOLS = ("awk", "bash", "cat", "cksum", "dirname", "env", "head", "ls", "mkdir", "rm", "sh", "sort", "uname")

# A Python of another version, which otherwise does what this one does.
PYTHON = """#!/bin/sh
case "$1" in --version | -VV) echo "Python {version}"; exit;; esac
if [ "$2" != -c ]; then exec {real} "$@"; fi
exec {real} -I -c '
import importlib.util, sys, sysconfig
class Version(tuple):
    releaselevel = "{level}"
sys.version_info = Version(map(int, "{version}".split(".")))
sys.executable, sys.prefix = sys.argv.pop(1), sys.base_prefix
sys.modules.update(dict.fromkeys({missing}))
sysconfig.get_config_var = lambda name: {threaded}
exec(sys.argv.pop(1))' "$0" "$3" "$4"
"""
UV = """#!/bin/sh
echo "$@" >> {log}
case "$1" in venv) rm -rf .venv; mkdir -p .venv/bin; cat "$5" > .venv/bin/python; chmod +x .venv/bin/python;; esac
case "$*" in *"{failing}"*) exit 1;; esac
"""


class Machine:
    """A folder with the repository's set-up, a PATH of its own, and an empty home."""

    def __init__(self, folder):
        self.project, self.home, self._bin = folder / "project", folder / "home", folder / "bin"
        self._log = folder / "log"
        self.home.mkdir()
        self._bin.mkdir()
        for tool in (*TOOLS, "chmod"):
            (self._bin / tool).symlink_to(shutil.which(tool))
        for file in (*REPOSITORY.glob("*.lock"), *map(REPOSITORY.joinpath, SET_UP)):
            target = self.project / file.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        chooser, root = self.project / "vit_jax/system/accelerators.py", 'Path("/")))'
        assert root in chooser.read_text()  # there the machine that runs the tests may have a TPU, or WSL's driver
        chooser.write_text(chooser.read_text().replace(root, f'Path("{folder}")))'))
        self.uv()

    def program(self, path, text):
        path = self._bin / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def python(self, version, path=None, level="final", missing=(), threaded=None):
        values = {"version": version, "level": level, "missing": json.dumps(missing), "threaded": threaded}
        path = path or "python" + version.rpartition(".")[0]
        self.program(path, PYTHON.format(real=os.path.realpath(sys.executable), **values))

    def nvidia(self, driver):
        self.program("nvidia-smi", f"#!/bin/sh\necho {driver}\n")

    def uv(self, failing="nothing fails"):
        self.program("uv", UV.format(log=self._log, failing=failing))

    def without(self, program):
        (self._bin / program).unlink()

    def set_up(self, code=0, **variables):
        """What the script prints; the lines of uv's commands go to `done`."""
        self._log.write_text("")
        done = subprocess.run(
            [self._bin / "bash", "scripts/setup.sh"],
            cwd=self.project,
            env={"PATH": str(self._bin), "HOME": str(self.home), **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        self.done = self._log.read_text().splitlines()
        return done.stdout + done.stderr

    @property
    def lock(self):
        (lock,) = {found[1] for line in self.done if (found := re.search(r"-r (requirements\S*)", line))}
        return lock


SET_UP = ("scripts/setup.sh", "setup.cfg", "pyproject.toml", "vit_jax/system/accelerators.py")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_the_newest_python_that_works_is_taken(machine):
    machine.program("python3.14", "#!/bin/sh\necho 'pyenv: python3.14: command not found' >&2; exit 127\n")
    machine.python("3.13.1")
    machine.python("3.12.9")
    printed = machine.set_up()
    assert printed.startswith("Python 3.13.1, the newest that works here (") and "VIT_JAX_PYTHON=" in printed
    assert machine.done[0].startswith("venv ") and "/python3.13 " in machine.done[0]
    assert "TensorFlow" not in printed


def test_one_that_can_not_be_used_is_passed_over(machine):
    machine.without("uv")
    machine.python("3.14.0", level="candidate")
    machine.python("3.13.1", threaded=1)
    machine.python("3.12.9", missing=("ensurepip",))  # Debian's, without python3-venv
    machine.python("3.11.2", missing=("ctypes",))  # built without libffi
    machine.python("3.10.2", "python3")
    printed = machine.set_up(code=2)
    assert len(printed.splitlines()) == 1 and "python3 is: Python 3.10.2" in printed
    assert "python3-venv" in printed and "VIT_JAX_PYTHON=" in printed
    machine.uv()  # which makes environments without ensurepip
    assert machine.set_up().startswith("Python 3.12.9")


@pytest.mark.parametrize("folder", [".pyenv/versions/3.13.5", ".local/share/uv/python/cpython-3.13.5-linux"])
def test_one_that_is_not_in_path_is_found_where_version_managers_keep_it(machine, folder):
    machine.python("3.12.9")
    machine.python("3.13.5", machine.home / folder / "bin" / "python3.13")
    assert machine.set_up().startswith("Python 3.13.5")


def test_python_3_14_says_what_is_left_out(machine):
    machine.python("3.14.2")
    printed = machine.set_up()
    assert "TensorFlow has no wheel" in printed and "TensorBoard" in printed


def test_an_environment_in_use_keeps_its_python(machine):
    machine.python("3.12.9")
    machine.set_up()
    machine.python("3.13.1")
    assert machine.set_up() == "" and not machine.done
    (machine.project / "setup.cfg").write_text("[metadata]\nname = changed\n")
    assert machine.set_up().startswith("Python 3.12.9, as before")
    assert machine.set_up(VIT_JAX_PYTHON="python3.13").startswith("Python 3.13.1, as VIT_JAX_PYTHON says")


@pytest.mark.parametrize("given", ["python3.13", "nowhere/python"])
def test_a_python_that_is_named_is_taken_or_refused(machine, given):
    machine.python("3.12.9")
    machine.python("3.13.0", level="beta")
    printed = machine.set_up(code=2, VIT_JAX_PYTHON=given)
    assert len(printed.splitlines()) == 1 and f"VIT_JAX_PYTHON={given}: " in printed and not machine.done


@pytest.mark.parametrize(
    ("driver", "lock", "said"),
    [
        ("580.65.06", "requirements-cuda13.lock", "JAX for cuda13: NVIDIA driver 580.65.06. "),
        ("550.54.14", "requirements-cuda12.lock", "JAX for cuda12: NVIDIA driver 550.54.14; cuda13 needs driver 580"),
        ("470.82.01", "requirements.lock", "JAX for cpu: NVIDIA driver 470.82.01 is older than 525"),
    ],
)
def test_jax_is_installed_for_the_driver(machine, driver, lock, said):
    machine.python("3.13.1")
    machine.nvidia(driver)
    printed = machine.set_up()
    assert said in printed and "VIT_JAX_ACCELERATOR=cpu|cuda12|cuda13|tpu" in printed
    assert machine.lock == lock


def test_the_accelerator_that_is_named_is_taken_and_then_kept(machine):
    machine.python("3.13.1")
    machine.nvidia("580.1")
    assert "JAX for cpu: as VIT_JAX_ACCELERATOR says" in machine.set_up(VIT_JAX_ACCELERATOR="cpu")
    assert machine.lock == "requirements.lock"
    assert machine.set_up() == "" and not machine.done  # as test.sh after train.sh
    machine.set_up(VIT_JAX_ACCELERATOR="cuda12")
    assert machine.lock == "requirements-cuda12.lock"
    machine.without("nvidia-smi")  # as on another node of a cluster
    assert machine.set_up() == "" and not machine.done


def test_an_accelerator_that_is_none_is_refused(machine):
    printed = machine.set_up(code=2, VIT_JAX_ACCELERATOR="nonsense")
    assert printed == "error: VIT_JAX_ACCELERATOR=nonsense: it is cpu, cuda12, cuda13 or tpu\n"


def test_other_systems_have_the_cpu_only(machine):
    machine.without("uname")
    machine.program("uname", "#!/bin/sh\necho Darwin\n")
    printed = machine.set_up(code=2, VIT_JAX_ACCELERATOR="cuda13")
    assert printed == "error: VIT_JAX_ACCELERATOR=cuda13: JAX has that build for Linux only; leave it out\n"


def test_an_install_that_failed_is_begun_again(machine):
    machine.python("3.13.1")
    machine.uv(failing="-e .")
    assert "Ready" not in machine.set_up(code=1)
    machine.uv()
    assert "Ready" in machine.set_up()
    assert len([line for line in machine.done if "--require-hashes" in line]) == 2

"""The build of JAX is chosen by the driver, the GPU and the PCI cards, whatever nvidia-smi does."""

import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from vit_jax.system import accelerators
from vit_jax.system.accelerators import be_quiet_without_accelerator, best_build, cuda_build, tpu_chips

SLEEP = shutil.which("sleep")


def nvidia_smi(folder, body):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "nvidia-smi").chmod(0o755)


def card(root, address, vendor, device):
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "device").write_text(f"{device}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """The root of a Linux machine with nothing in it; its programs are in /bin."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


@pytest.mark.parametrize(
    ("driver", "capability", "name", "reason"),
    [
        ("580.65.06", 9.0, "cuda13", "NVIDIA driver 580.65.06"),
        ("612.1", None, "cuda13", "NVIDIA driver 612.1"),
        ("580.65.06", 7.0, "cuda12", "NVIDIA driver 580.65.06, compute capability 7.0; cuda13 needs 7.5"),
        ("579.9", 9.0, "cuda12", "NVIDIA driver 579.9; cuda13 needs driver 580 or newer"),
        ("525.60", None, "cuda12", "NVIDIA driver 525.60; cuda13 needs driver 580 or newer"),
    ],
)
def test_the_newest_cuda_that_driver_and_gpu_run(driver, capability, name, reason):
    assert cuda_build(driver, capability) == (name, reason)


@pytest.mark.parametrize(("driver", "capability"), [("524.9", 9.0), ("470.82", None), ("580.1", 3.5)])
def test_what_is_too_old_for_any_cuda_build(driver, capability):
    assert cuda_build(driver, capability) is None


def test_the_oldest_of_several_gpus_decides(machine):
    nvidia_smi(
        machine / "bin", 'case "$1" in *compute_cap) printf "9.0\\n7.0\\n";; *) printf "580.1\\n580.1\\n";; esac'
    )
    assert best_build(machine).name == "cuda12"


def test_an_old_driver_knows_no_compute_capability(machine):
    nvidia_smi(machine / "bin", 'case "$1" in *compute_cap) echo no such field; exit 2;; *) echo 530.30.02;; esac')
    assert best_build(machine).name == "cuda12"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 470.82", "470.82 is older than 525"),
        ("echo has failed because it; echo more; exit 9", "fails: has failed because it: "),
        ("exit 1", "nvidia-smi fails: mend"),
        ("echo No devices were found", "No devices were found"),
        ("true", "says: nothing"),
        ('case "$1" in *compute_cap) echo 3.5;; *) echo 580.1;; esac', "the GPU is older"),
    ],
)
def test_the_cpu_where_the_driver_is_of_no_use_and_why(machine, body, reason):
    nvidia_smi(machine / "bin", body)
    build = best_build(machine)
    assert build.name == "cpu" and reason in build.reason and "\n" not in build.reason


def test_a_driver_that_hangs_is_not_waited_for(machine):
    nvidia_smi(machine / "bin", f"exec {SLEEP} 60")
    started = time.monotonic()
    build = best_build(machine, timeout=0.3)
    assert build == ("cpu", "nvidia-smi does not answer within 0.3 s: mend NVIDIA's driver")
    assert time.monotonic() - started < 30


def test_nothing_there_is_the_cpu(machine):
    assert best_build(machine) == ("cpu", "no NVIDIA driver and no TPU is here")
    (machine / "dev").mkdir()
    (machine / "dev" / "nvidia0").touch()
    assert best_build(machine).name == "cpu" and "install NVIDIA's driver" in best_build(machine).reason


def test_the_driver_of_wsl_is_found_outside_path(machine):
    nvidia_smi(machine / "usr/lib/wsl/lib", "echo 581.15")
    assert best_build(machine).name == "cuda13"


def test_chips_are_told_from_googles_network_card(machine):
    card(machine, "0000:00:04.0", "0x1ae0", "0x0042")  # gVNIC, in any machine of Google's cloud
    card(machine, "0000:00:05.0", "0x10de", "0x0063")
    assert tpu_chips(machine) == 0 and best_build(machine).name == "cpu"
    for i in range(4):
        card(machine, f"0000:00:1{i}.0", "0x1ae0", "0x0063")
    card(machine, "0000:00:10.1", "0x1ae0", "0x0063")  # another function of a chip that is counted
    assert best_build(machine) == ("tpu", "4 TPU chips")
    nvidia_smi(machine / "bin", "exit 9")
    assert best_build(machine).name == "tpu"


def test_other_systems_have_the_cpu_only(machine, monkeypatch):
    nvidia_smi(machine / "bin", "echo 580.1")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert best_build(machine).name == "cpu"


def test_the_file_runs_where_nothing_is_installed(machine):
    nvidia_smi(machine / "bin", "echo 580.1")
    file = accelerators.__file__
    done = subprocess.run([sys.executable, "-I", "-S", file], capture_output=True, text=True, check=True)
    assert done.stdout == "cuda13 NVIDIA driver 580.1\n"


def test_a_cuda_build_is_quiet_only_where_no_gpu_is(machine, monkeypatch):
    name = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"
    monkeypatch.setenv(name, "to be restored")
    for device in ("nvidia0", "nvidiactl", "dxg"):
        monkeypatch.delenv(name)
        (machine / "dev").mkdir(exist_ok=True)
        (machine / "dev" / device).touch()
        be_quiet_without_accelerator(machine)
        assert name not in os.environ, device
        (machine / "dev" / device).unlink()
        be_quiet_without_accelerator(machine)
        assert os.environ[name]


@pytest.mark.parametrize(
    ("files", "modules", "platforms", "kept"),
    [
        ((), {"libtpu"}, None, "cpu"),
        ((), {"libtpu"}, "tpu", None),  # as the user says
        ((), {"libtpu", "jax_plugins"}, None, "cpu"),
        (("dev/nvidia0",), {"libtpu", "jax_plugins"}, None, None),
        (("dev/kfd",), {"libtpu", "jax_plugins"}, None, None),
        ((), set(), None, None),
        (("dev/accel0",), {"libtpu"}, None, None),  # in a container that doesn't show PCI cards
        (("dev/vfio/0",), {"libtpu"}, None, None),
        (("dev/vfio/vfio",), {"libtpu"}, None, "cpu"),  # any machine with virtualization has it
    ],
)
def test_a_tpu_build_keeps_to_the_cpu_only_where_no_tpu_is(machine, monkeypatch, files, modules, platforms, kept):
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    for file in files:
        (machine / file).parent.mkdir(parents=True)
        (machine / file).touch()
    told = {}
    config = SimpleNamespace(values={"jax_platforms": platforms}, update=told.__setitem__)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(accelerators, "find_spec", lambda name: name in modules or None)
    be_quiet_without_accelerator(machine)
    assert told.get("jax_platforms") == kept

"""The doctor names what is wrong with a machine and what to do, whatever is broken, and changes nothing on it."""

import os
import sys
from types import SimpleNamespace

import pytest

from vit_jax.cli.doctor import report
from vit_jax.cli.doctor.data import cifar, compiled, data_cache, tfds_places
from vit_jax.cli.doctor.devices import Gpu, Nvidia, devices, nvidia_gpus
from vit_jax.cli.doctor.finding import size
from vit_jax.cli.doctor.machine import huge_pages, processors_and_memory, working_folder
from vit_jax.cli.doctor.probe import Probe, probe
from vit_jax.cli.doctor.settings import settings
from vit_jax.cli.doctor.versions import installed_versions, libraries, needs, setup_with_tensorflow

ON_CPU = Probe(platform="cpu", kinds=("cpu",), deviation=1e-7, seconds=0.01)
ON_GPU = ON_CPU._replace(platform="gpu", kinds=("NVIDIA H100 80GB HBM3",), capability=9.0)
H100 = Gpu("NVIDIA H100 80GB HBM3", "580.82", 81_559, 4, parted=False)
OLDER = H100._replace(driver="550.1")
OTHERS = (
    "optax orbax-checkpoint numpy ml-collections absl-py rich tensorflow-cpu tensorflow-datasets importlib-resources"
)
OTHERS += " clu tensorboard matplotlib pillow scikit-learn vit-jax"
LIBRARIES = {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8"} | dict.fromkeys(OTHERS.split(), "1.0")
NEEDS = {
    "jaxlib": [("jax", "<=0.10.2,>=0.10.1")],
    "libtpu": [("jax", "==0.0.42.*")],
    "jax": [("vit-jax", "<0.11,>=0.10.2")],
}


def bad(findings):
    return {finding.what: finding for finding in findings if finding.status != "ok"}


def test_a_sound_machine_has_no_problem_and_stays_as_it_is(command, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={tmp_path / 'dump'}")
    monkeypatch.setattr(report, "nvidia_gpus", lambda: Nvidia(present=False))
    code, printed = command("doctor")
    assert code == 0, printed
    assert "each compiled program is written to disk" in printed
    for what in ("Python", "jax ", "devices", "arithmetic", "cores", "disk", "data cache", "CIFAR-10"):
        assert f" {what}" in printed
    assert "No problem" in printed and "--config=quickstart " in printed
    assert not list(tmp_path.iterdir())


def test_a_problem_ends_with_exit_code_1(command, monkeypatch):
    monkeypatch.setattr(report, "probe", lambda env: Probe(error="RuntimeError: no such luck"))
    code, printed = command("--mode=doctor")
    assert code == 1
    assert "no such luck" in printed and printed.splitlines()[-1].startswith("error: 1 problem (JAX) and ")


def test_it_starts_where_jax_does_not(process, tmp_path, monkeypatch):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("raise RuntimeError('jaxlib version 9 is newer than jax')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = process("doctor")
    printed = child.communicate()[0]
    assert child.returncode == 1, printed
    assert "importing jax fails with RuntimeError: jaxlib version 9 is newer than jax" in printed
    assert "setup.sh" in printed and "CIFAR-10" in printed and "Traceback" not in printed


def test_a_platform_that_is_not_here_is_explained():
    env = {**os.environ, "JAX_PLATFORMS": "cuda"}
    seen = probe(env)
    (finding,) = devices(seen, Nvidia(present=False), LIBRARIES, env)
    assert finding.status == "problem" and "starting a device" in finding.found
    assert finding.remedy.startswith("unset JAX_PLATFORMS, which is cuda")


@pytest.mark.parametrize(
    ("script", "found", "remedy"),
    [
        ("echo 'Unknown flags in XLA_FLAGS: --x' >&2; kill -ABRT $$", "SIGABRT: Unknown flags", "mend that variable"),
        ("kill -ILL $$", "SIGILL", "AVX"),
        ("exec sleep 60", "no answer", "nvidia-smi"),
        ("echo no JSON; exit 3", "exit code 3", "setup.sh"),
    ],
)
def test_a_process_that_breaks_is_explained(script, found, remedy, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    (finding,) = devices(probe(os.environ, timeout=0.3), Nvidia(present=False), LIBRARIES, {})
    assert finding.status == "problem" and found in finding.found and remedy in finding.remedy


@pytest.mark.parametrize(
    ("env", "nvidia", "more", "status", "found", "remedy"),
    [
        ({}, Nvidia(True, (H100,)), {}, "problem", "without CUDA", "VIT_JAX_ACCELERATOR=cuda13 ./scripts/setup.sh"),
        ({}, Nvidia(True, (OLDER,)), {}, "problem", "without CUDA", "VIT_JAX_ACCELERATOR=cuda12 ./scripts/setup.sh"),
        ({}, Nvidia(True, (H100,), capability=7.0), {}, "problem", "without CUDA", "VIT_JAX_ACCELERATOR=cuda12 "),
        ({}, Nvidia(True, (OLDER,)), {"jax-cuda13-plugin": "0.10.2"}, "problem", "for cuda13", "ACCELERATOR=cuda12 "),
        ({}, Nvidia(True, (H100._replace(driver="470.1"),)), {}, "problem", "470.1", "newer"),
        ({}, Nvidia(True), {}, "problem", "nvidia-smi doesn't answer", "driver"),
        ({}, Nvidia(True, (H100._replace(parted=True),)), {}, "problem", "MIG", "nvidia-smi mig"),
        ({}, Nvidia(True, (H100,)), {"jax-cuda12-plugin": "0.10.2"}, "problem", "no CUDA here", "driver"),
        ({"JAX_PLATFORMS": "cpu"}, Nvidia(True, (H100,)), {}, "warning", "JAX_PLATFORMS=cpu", "unset JAX_PLATFORMS"),
        ({"CUDA_VISIBLE_DEVICES": ""}, Nvidia(True, (H100,)), {}, "warning", "CUDA_VISIBLE_DEVICES", "unset"),
    ],
)
def test_a_gpu_that_jax_does_not_use_is_noticed(env, nvidia, more, status, found, remedy):
    findings = devices(ON_CPU._replace(said="no CUDA here"), nvidia, LIBRARIES | more, env)
    finding = bad(findings)["devices"]
    assert finding.status == status and found in finding.found and remedy in finding.remedy


@pytest.mark.parametrize(
    ("env", "more", "status", "found", "remedy"),
    [
        (
            {},
            {},
            "problem",
            "4 TPU chips are here: JAX is installed without libtpu",
            "VIT_JAX_ACCELERATOR=tpu ./scripts",
        ),
        ({}, {"libtpu": "0.0.42.1"}, "problem", "libtpu doesn't start. It says: no CUDA here", "lsof"),
        ({"JAX_PLATFORMS": "cpu"}, {}, "warning", "JAX_PLATFORMS=cpu says so", "unset JAX_PLATFORMS"),
    ],
)
def test_a_tpu_that_jax_does_not_use_is_noticed(env, more, status, found, remedy):
    nothing = Nvidia(present=False)
    findings = devices(ON_CPU._replace(said="no CUDA here"), nothing, LIBRARIES | more, env, tpus=4)
    finding = bad(findings)["devices"]
    assert finding.status == status and found in finding.found and remedy in finding.remedy
    assert not bad(devices(ON_CPU._replace(platform="tpu", kinds=("TPU v5 lite",)), nothing, LIBRARIES, {}, tpus=1))


def test_a_tpu_that_another_program_has_is_explained():
    seen = Probe(error="starting a device fails with RuntimeError: The TPU is already in use by process with pid 7")
    (finding,) = devices(seen, Nvidia(present=False), LIBRARIES, {}, tpus=1)
    assert finding.status == "problem" and "lsof" in finding.remedy


def test_what_is_wrong_around_a_gpu_in_use():
    assert not bad(devices(ON_GPU, Nvidia(True, (H100,)), LIBRARIES, {}))
    v100 = Gpu("Tesla V100", "535.1", 16_000, 9_000, parted=False)
    findings = bad(devices(ON_GPU._replace(capability=7.0), Nvidia(True, (v100, v100)), {"tensorflow": "2.21"}, {}))
    assert set(findings) == {"devices", "GPU memory", "bfloat16", "tensorflow"}
    assert "1 of 2" in findings["devices"].found
    assert "float32" in findings["bfloat16"].remedy


@pytest.mark.parametrize("deviation", [0.01, float("nan")])
def test_a_device_that_computes_wrong_is_a_problem(deviation):
    findings = bad(devices(ON_GPU._replace(deviation=deviation), Nvidia(True, (H100,)), LIBRARIES, {}))
    assert findings["arithmetic"].status == "problem"


def test_gpus_are_known_from_their_driver_or_their_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_gpus(tmp_path) == Nvidia(present=False)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    assert nvidia_gpus(tmp_path) == Nvidia(present=True)
    smi = tmp_path / "nvidia-smi"
    listed = "GPU 0: NVIDIA H100 (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-1)\n"
    table = "NVIDIA H100, 580.82, 81559, [N/A], Enabled\n"
    cases = f'-L) printf "{listed}";; *compute_cap) echo 9.0;; *) printf "{table}"'
    smi.write_text(f'#!/bin/sh\ncase "$1" in {cases};; esac\n')
    smi.chmod(0o755)
    gpu = Gpu("NVIDIA H100", "580.82", 81_559, None, parted=True)
    assert nvidia_gpus(tmp_path) == Nvidia(True, (gpu,), instances=1, capability=9.0)


def test_what_fits_is_fine():
    assert not bad(libraries(LIBRARIES, NEEDS, "3.11.9"))


def test_versions_here_are_found():
    installed = installed_versions()
    found = needs(installed)
    assert installed["jax"] and all(any(who == "jax" for who, _ in found[name]) for name in ("jaxlib", "libtpu"))


def test_python_3_14_has_one_word_about_all_that_needs_tensorflow():
    without = ("tensorflow-cpu", "tensorflow-datasets", "importlib-resources", "clu", "tensorboard")
    installed = {name: version for name, version in LIBRARIES.items() if name not in without}
    (finding,) = bad(libraries(installed, NEEDS, "3.14.2")).values()
    assert finding.what == "tensorflow" and finding.status == "warning" and "TensorBoard" in finding.found
    assert "VIT_JAX_PYTHON=/path/to/python3.13 ./scripts/setup.sh" in finding.remedy
    assert "VIT_JAX_PYTHON" not in setup_with_tensorflow("3.13.9") and "setup.sh" in setup_with_tensorflow("3.13.9")


def test_whatever_is_declared_is_looked_for():
    findings = bad(libraries(LIBRARIES, NEEDS | {"new-one": [("vit-jax", ">=2")]}, "3.11.9"))
    assert findings["new-one"].status == "problem" and "not installed" in findings["new-one"].found


def test_what_is_missing_is_a_problem_only_where_runs_need_it():
    installed = {name: version for name, version in LIBRARIES.items() if name not in ("optax", "matplotlib")}
    del installed["tensorflow-cpu"]
    findings = bad(libraries(installed, NEEDS, "3.11.9"))
    assert {what: finding.status for what, finding in findings.items()} == {
        "optax": "problem",
        "tensorflow": "warning",
        "matplotlib": "warning",
    }
    assert "no pictures" in findings["matplotlib"].found


@pytest.mark.parametrize(
    ("changed", "python", "what", "status", "found"),
    [
        ({}, "3.10.2", "Python", "problem", "3.11"),
        ({}, "3.15.0", "Python", "warning", "3.15.0"),
        ({"jax": "0.11.1", "jaxlib": "0.11.1"}, "3.12.1", "jax and flax", "problem", "0.12.12"),
        ({"jax": "0.11.1", "jaxlib": "0.11.1", "flax": "0.12.12"}, "3.11.9", "jax and Python", "problem", "3.12"),
        ({"jaxlib": "0.11.0"}, "3.11.9", "jaxlib", "problem", "jax needs jaxlib<=0.10.2,>=0.10.1"),
        ({"jax": "0.9"}, "3.11.9", "jax", "warning", "vit-jax needs jax<0.11,>=0.10.2"),
        ({"tensorflow": "2.21"}, "3.11.9", "tensorflow", "warning", "overwrite"),
        ({"libtpu": "0.0.30"}, "3.11.9", "libtpu", "warning", "jax needs libtpu==0.0.42.*"),
        ({"jax-cuda12-plugin": "0.9.1"}, "3.11.9", "CUDA", "problem", "0.9.1 doesn't fit jaxlib 0.10.2"),
        ({name: "0.10.2" for name in ("jax-cuda12-plugin", "jax-cuda13-plugin")}, "3.11.9", "CUDA", "warning", "both"),
    ],
)
def test_versions_that_do_not_fit(changed, python, what, status, found):
    finding = bad(libraries(LIBRARIES | changed, NEEDS, python))[what]
    assert finding.status == status and found in finding.found and finding.remedy


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("JAX_ENABLE_X64", "True", "64-bit"),
        ("JAX_DEBUG_NANS", "1", "NaN"),
        ("JAX_DISABLE_JIT", "on", "many times"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16", "other results"),
        ("JAX_ENABLE_COMPILATION_CACHE", "false", "compiles"),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math", "other results"),
        ("XLA_FLAGS", "--xla_dump_to=/tmp/x --xla_dump_to=/tmp/y", "2 times"),
    ],
)
def test_settings_that_change_results_or_speed_are_named(name, value, found):
    findings = [finding for finding in settings({name: value}, cores=2) if finding.status != "ok"]
    assert any(found in finding.found for finding in findings)
    assert all(finding.what == name and finding.status == "warning" and finding.remedy for finding in findings)


def test_settings_without_a_harm_are_only_told():
    assert [finding.status for finding in settings({"HOME": "/root"}, cores=2)] == ["ok"]
    env = {"JAX_ENABLE_X64": "0", "XLA_FLAGS": "--xla_cpu_enable_fast_math=false", "JAX_PLATFORMS": "cpu"}
    (finding,) = settings(env, cores=2)
    assert finding.status == "ok" and "JAX_PLATFORMS=cpu" in finding.found


def test_numbers_of_devices_that_contradict_each_other_or_the_cores():
    flag = "--xla_force_host_platform_device_count="
    assert not bad(settings({"JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": f"{flag}2"}, cores=2))
    two = bad(settings({"JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": f"{flag}4"}, cores=8))
    assert "JAX_NUM_CPU_DEVICES=2" in two["CPU devices"].found
    assert "2 cores" in bad(settings({"XLA_FLAGS": f"{flag}4"}, cores=2))["CPU devices"].found


def kernel(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_a_container_has_less_than_its_machine(tmp_path):
    sound = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   8388608 kB\n", "proc/loadavg": "0.10 0.2 0.3 1/99 1\n"}
    assert not bad(processors_and_memory(kernel(tmp_path, sound), cores=8))
    limits = {"memory.max": f"{2**30}", "memory.current": f"{2**29}", "cpu.max": "200000 100000"}
    kernel(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in limits.items()})
    findings = bad(processors_and_memory(tmp_path, cores=8))
    assert "512.0 MiB" in findings["memory"].found
    assert "taskset -c 0-1" in findings["cores"].remedy


def test_the_older_control_groups_are_read_too(tmp_path):
    groups = {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}
    groups |= {"memory/memory.limit_in_bytes": f"{2**30}", "memory/memory.usage_in_bytes": "0"}
    kernel(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in groups.items()})
    assert set(bad(processors_and_memory(tmp_path, cores=2))) == {"cores", "memory"}
    kernel(tmp_path, {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"})  # no limit
    assert set(bad(processors_and_memory(tmp_path, cores=2))) == {"memory"}


def test_other_programs_on_the_cores_are_noticed(tmp_path):
    kernel(tmp_path, {"proc/loadavg": "3.90 0.2 0.3 1/99 1\n"})
    assert "3.9" in bad(processors_and_memory(tmp_path, cores=4))["cores"].found


ASKED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.mark.parametrize(
    ("mode", "libc", "env", "remedy"),
    [
        ("always [madvise] never", "2.36", {}, 'export GLIBC_TUNABLES="glibc.malloc.hugetlb=1", or start with'),
        ("always [madvise] never", "2.36", {"GLIBC_TUNABLES": "a=1"}, 'GLIBC_TUNABLES="a=1:glibc.malloc.hugetlb=1"'),
        ("always [madvise] never", "2.31", ASKED, "newer system"),
        ("always madvise [never]", "2.36", ASKED, "administrator"),
        ("always [madvise] never", "2.36", ASKED | {"LD_PRELOAD": "libtcmalloc.so"}, "unset"),
        ("always [madvise] never", "2.36", ASKED, None),
        ("[always] madvise never", "2.36", {}, None),
    ],
)
def test_huge_pages_are_asked_for_or_the_way_is_told(mode, libc, env, remedy, tmp_path):
    kernel(tmp_path, {"sys/kernel/mm/transparent_hugepage/enabled": mode})
    (finding,) = huge_pages("cpu", env, tmp_path, ("glibc", libc))
    assert finding.status == ("warning" if remedy else "ok") and (remedy or "") in finding.remedy


def test_huge_pages_are_a_matter_of_glibc_on_a_cpu(tmp_path):
    assert huge_pages("cpu", {}, tmp_path, ("", "")) == []  # no Linux
    kernel(tmp_path, {"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"})
    assert huge_pages("gpu", {}, tmp_path, ("glibc", "2.36")) == huge_pages("cpu", {}, tmp_path, ("", "")) == []


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    assert not bad(working_folder(tmp_path))
    for free, status in ((2**29, "warning"), (2**20, "problem")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        (finding,) = working_folder(tmp_path)
        assert finding.status == status and "--workdir" in finding.remedy


def test_sizes():
    assert [size(n) for n in (0, 1023, 2048, 3 * 2**29)] == ["0 bytes", "1023 bytes", "2.0 KiB", "1.5 GiB"]


def decoded(root, name="cifar10-0123456789abcdef"):
    (root / name).mkdir(parents=True)
    (root / name / "index.json").write_text("x" * 2048)
    return root / name


def test_the_cache_and_what_it_holds(tmp_path):
    root = tmp_path / "cache"
    (finding,) = data_cache(root)
    assert finding.status == "ok" and "the first run makes" in finding.found and not root.exists()
    decoded(root), decoded(root, "digits-0123456789abcdef"), decoded(root, "digits-fedcba9876543210")
    (finding,) = data_cache(root)
    assert finding.found == f"{root} has cifar10, digits (2 times); 6.0 KiB"


def test_a_cache_that_can_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (finding,) = data_cache(tmp_path / "file" / "cache")
    assert finding.status == "problem" and "is no folder" in finding.found and "VIT_JAX_CACHE" in finding.remedy
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert bad(data_cache(tmp_path))["data cache"].status == "problem"
    decoded(tmp_path)
    assert bad(data_cache(tmp_path))["data cache"].status == "warning"  # what is there can be used


def test_damaged_and_unfinished_data_sets_are_named(tmp_path):
    damaged = decoded(tmp_path, "cifar10-0123456789abcdef-damaged-1700000000")
    unfinished = decoded(tmp_path, f".cifar10-0123456789abcdef.{'0123456789abcdef' * 2}")
    assert bad(data_cache(tmp_path))["data cache"].remedy == f"rm -r {damaged}"  # the other may be under way
    os.utime(unfinished, (0, 0))
    assert str(unfinished) in bad(data_cache(tmp_path))["data cache"].remedy


def test_a_cache_of_compiled_steps_that_others_may_write(tmp_path):
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / "step").write_text("x" * 1024)
    (finding,) = compiled(tmp_path, {})
    assert finding.status == "ok" and "1.0 KiB" in finding.found
    (tmp_path / "compiled").chmod(0o777)
    env = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    assert "chmod go-w" in bad(compiled(tmp_path, env))["compiled steps"].remedy
    assert "gs://b" in compiled(tmp_path, {"JAX_COMPILATION_CACHE_DIR": "gs://b"})[0].found


def test_a_place_of_tfds_that_is_not_there(tmp_path):
    (finding,) = tfds_places([tmp_path / "tfds", tmp_path / "home"])
    assert finding.status == "warning" and f"{tmp_path / 'tfds'} does not exist" in finding.found
    assert not tfds_places([tmp_path, tmp_path / "home"])


@pytest.mark.parametrize(("name", "title"), [("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")])
def test_where_cifar_is_and_how_it_comes_here(tmp_path, name, title):
    places, root = [tmp_path / "tfds", tmp_path / "home"], tmp_path / "cache"
    (finding,) = cifar(name, root, places, LIBRARIES)
    assert finding.status == ("warning" if name == "cifar10" else "ok")  # few want the other
    assert "downloads" in finding.remedy and f"TFDS's folder {name} " in finding.remedy
    assert ("cifar10_batches" in finding.remedy) == ("cifar-10-python" in finding.remedy) == (name == "cifar10")

    version = tmp_path / "tfds" / name / "3.0.2"
    version.mkdir(parents=True)
    (version / "dataset_info.json").touch()
    (finding,) = cifar(name, root, places, LIBRARIES)
    assert finding.status == "ok" and str(version) in finding.found
    finding = bad(cifar(name, root, places, {"tensorflow-datasets": "4"}))[title]
    assert "TensorFlow is missing" in finding.found and "setup.sh" in finding.remedy
    assert f"vit-jax prepare --name={name} " in finding.remedy and ("cifar10_batches" in finding.remedy) == (
        name == "cifar10"
    )

    folder = decoded(root, f"{name}-0123456789abcdef")
    (finding,) = cifar(name, root, places, {})
    assert finding.status == "ok" and str(folder) in finding.found

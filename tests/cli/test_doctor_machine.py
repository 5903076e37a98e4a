"""The doctor's words about cores, memory, disks, compiled sources and the settings of JAX and XLA."""

import shlex
import subprocess
from importlib.util import spec_from_file_location
from types import SimpleNamespace

import pytest

from vit_jax.cli.doctor.finding import size
from vit_jax.cli.doctor.machine import huge_pages, processors_and_memory, working_folder
from vit_jax.cli.doctor.settings import settings
from vit_jax.cli.doctor.versions import bytecode


def bad(findings):
    return {finding.what: finding for finding in findings if finding.status != "ok"}


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
    limits = {"memory.max": f"{2**30}", "memory.current": f"{2**29}"}
    kernel(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in limits.items()})
    assert "512.0 MiB" in bad(processors_and_memory(tmp_path, cores=8))["memory"].found


def test_the_older_control_groups_are_read_too(tmp_path):
    groups = {"memory/memory.limit_in_bytes": f"{2**30}", "memory/memory.usage_in_bytes": "0"}
    kernel(tmp_path, {f"sys/fs/cgroup/{name}": content for name, content in groups.items()})
    assert set(bad(processors_and_memory(tmp_path, cores=2))) == {"memory"}


def test_cores_come_with_what_they_compute_with(tmp_path):
    kernel(tmp_path, {"proc/cpuinfo": "model name : X\nflags : sse avx2 avx512f amx_bf16\n"})
    assert processors_and_memory(tmp_path, cores=4)[0].found == "4 (AMX, AVX-512, AVX2)"
    kernel(tmp_path, {"sys/fs/cgroup/cpu.max": "250000 100000"})
    assert processors_and_memory(tmp_path, cores=2)[0].found.endswith("this container gets the time of 2.5")


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


def test_libraries_whose_sources_each_start_compiles(tmp_path, monkeypatch):
    source = tmp_path / "site" / "jax" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    spec = spec_from_file_location("jax", source)
    assert bytecode(None, True) == [] and bytecode(spec, False) == []  # the first start keeps what it compiles
    with monkeypatch.context() as closed:
        closed.setattr("os.access", lambda path, mode: False)
        assert bytecode(spec, False)[0].remedy.startswith("as its owner: ")
    (finding,) = bytecode(spec, True)
    assert finding.status == "warning" and "PYTHONDONTWRITEBYTECODE" in finding.found
    subprocess.run(shlex.split(finding.remedy), check=True)
    assert bytecode(spec, True) == []

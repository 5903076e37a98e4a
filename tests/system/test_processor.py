"""What the kernel says of a CPU, and of the part of it that a container gets."""

import os

import pytest

from vit_jax.system import processor


def kernel(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        # Of the group that the process is in, and of those around it, the least.
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
          "sys/fs/cgroup/a/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/gone", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        # The older groups.
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        ({"proc/self/cgroup": "4:memory:/m\n2:cpu,cpuacct:/job\n0::/", "sys/fs/cgroup/m/cpu.max": "1 1",
          "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000", "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)  # fmt: skip
def test_a_containers_share_of_the_time(files, expected, tmp_path):
    assert processor.quota(kernel(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("limit", "allowed", "expected"), [("max", 16, 16), ("1000", 16, 16), ("2.9", 16, 2), ("0.5", 4, 1)]
)
def test_cores_are_no_more_than_the_time_that_there_is(limit, allowed, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    text = limit if limit == "max" else str(int(float(limit) * 100_000))
    assert processor.cores(kernel(tmp_path, {"sys/fs/cgroup/cpu.max": f"{text} 100000"})) == expected


def test_what_it_computes_with(tmp_path):
    flags = "flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile\n"
    intel = kernel(tmp_path / "intel", {"proc/cpuinfo": f"processor : 0\nmodel name\t: Intel(R) Xeon(R)\n{flags}"})
    assert processor.name(intel) == "Intel(R) Xeon(R)"
    assert processor.instruction_sets(intel) == ("AMX", "AVX-512 bfloat16", "AVX-512", "AVX2")
    assert processor.multiplies_bfloat16(intel) and not processor.lacks_avx512(intel)
    arm = kernel(tmp_path / "arm", {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd\n"})
    assert processor.instruction_sets(arm) == ("NEON",) and not processor.multiplies_bfloat16(arm)
    assert not processor.lacks_avx512(arm)
    assert processor.name(tmp_path) and processor.instruction_sets(tmp_path) == ()

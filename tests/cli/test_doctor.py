"""The doctor names what is wrong with a machine and what to do, whatever is broken, and changes nothing on it."""

import os
import sys

import pytest

from vit_jax.cli.doctor import report
from vit_jax.cli.doctor.data import cifar, compiled, data_cache, tfds_places
from vit_jax.cli.doctor.devices import Gpu, Nvidia, devices, nvidia_gpus
from vit_jax.cli.doctor.probe import Probe, probe
from vit_jax.cli.doctor.versions import installed_versions, libraries, needs, setup_with_tensorflow

ON_CPU = Probe(platform="cpu", kinds=("cpu",), deviation=1e-7, seconds=0.01)
ON_GPU = ON_CPU._replace(platform="gpu", kinds=("NVIDIA H100 80GB HBM3",), capability=9.0)
H100 = Gpu("NVIDIA H100 80GB HBM3", "580.82", 81_559, 4, parted=False)
OLDER = H100._replace(driver="550.1")
OTHERS = (
    "optax orbax-checkpoint numpy ml-collections absl-py rich tensorflow-cpu tensorflow-datasets importlib-resources"
)
OTHERS += " pyarrow clu tensorboard matplotlib pillow scikit-learn vit-jax"
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
    env = {**os.environ, "JAX_PLATFORMS": "nowhere"}
    seen = probe(env)
    (finding,) = devices(seen, Nvidia(present=False), LIBRARIES, env)
    assert finding.status == "problem" and "starting a device" in finding.found
    assert finding.remedy.startswith("unset JAX_PLATFORMS, which is nowhere")


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
    without = ("tensorflow-cpu", "tensorflow-datasets", "importlib-resources", "pyarrow", "clu", "tensorboard")
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

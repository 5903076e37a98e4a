"""The referee is fair and complete: same model for all, rounds that alternate, absences and failures said."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import benchmark  # noqa: E402 - after the path
from benchmarks import attention, cores, decoding, growth, pipelines, profile, table, training, worker  # noqa: E402
from benchmarks.shapes import MODELS, config_of  # noqa: E402


def result(seconds, params=10, **more):
    return {
        "seconds": seconds, "cpu_seconds_per_step": 1.0, "peak_memory_bytes": 2**30, "accelerator_bytes": 0,
        "ready_seconds": 1.0, "params": params, "batch_size": 8, "mfu": None, **more,
    }  # fmt: skip


OURS, PEER = training.CONTESTANTS[0], training.CONTESTANTS[-1]


def test_a_row_has_medians_over_rounds_and_the_ratio_round_by_round():
    results = {
        OURS.name: [result([1.0, 1.0, 9.0]), result([2.0, 2.0, 2.0]), result([3.0, 3.0, 3.0])],
        PEER.name: [result([3.0]), result([2.0]), result([6.0])],
    }
    ours, peer = training.summary([OURS, PEER], results, OURS.name)
    assert (ours["seconds_per_step"], ours["lowest"], ours["highest"]) == (2.0, 1.0, 3.0)
    assert ours["images_per_second"] == 4.0 and ours["times_ours"] == 1.0
    assert peer["ratio_by_round"] == [3.0, 1.0, 2.0] and peer["times_ours"] == 2.0


def test_models_of_another_size_are_refused():
    with pytest.raises(SystemExit, match="differ in size"):
        training.summary([OURS, PEER], {OURS.name: [result([1.0])], PEER.name: [result([1.0], params=11)]}, OURS.name)


def test_rounds_alternate_and_a_contestant_that_fails_is_not_tried_again(monkeypatch):
    calls = []

    def worker(contestant, spec):
        calls.append(contestant.name)
        return {"failed": "out of memory"} if contestant is PEER else result([1.0])

    monkeypatch.setattr(training, "run_worker", worker)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    results = training.rounds([OURS, PEER], {}, 3)
    assert calls == [OURS.name, PEER.name, OURS.name, OURS.name]
    assert training.summary([OURS, PEER], results, OURS.name)[1]["absent"] == "out of memory"


def test_a_peer_that_is_not_installed_is_listed_as_absent(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = training.summary([PEER], training.rounds([PEER], {}, 2), OURS.name)
    assert rows == [{"contestant": PEER.name, "dtype": PEER.dtype, "absent": "torch is not installed"}]
    assert "torch is not installed" in table.table(rows)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_a_config_without_augmentation_unless_asked_for(model):
    config = config_of(model, 8, "float32")
    assert config.train.batch_size == 8 and config.model.dtype == "float32"
    assert not (config.augment.flip or config.augment.crop_padding or config.augment.rotate)


def test_devices_of_more_cores_share_the_batch_up_to_the_most_that_there_are():
    config = config_of("vit_d192", None, "float32")
    shares = {count: cores.share_of(config, count, fast_bfloat16=False) for count in cores.CORES}
    assert {count: devices for count, (_, devices) in shares.items()} == {1: 1, 2: 2, 4: 4} | dict.fromkeys(
        (8, 16, 32, 64), 8
    )
    for own, devices in shares.values():
        assert own.train.batch_size * devices == 256 and own.train.batch_size % own.train.accumulate == 0
    assert shares[1][0].train.accumulate > shares[8][0].train.accumulate  # a small share fits the caches sooner


def test_exponents_are_slopes_of_logarithms():
    assert growth.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_a_profile_gives_each_operation_to_its_part_of_the_model():
    paths = {
        "dot.1": "jit(train_step)/jvp(VisionTransformer)/block_00/attention/qkv/dot_general",
        "fusion.1": "jit(train_step)/transpose(jvp(VisionTransformer))/block_00/attention/while/body/exp",
        "fusion.2": "jit(train_step)/jvp(VisionTransformer)/block_00/norm_0/mul",
        "fusion.3": "jit(train_step)/mul",
    }
    program = "\n".join(f'  %{name} = f32[] add(), metadata={{op_name="{path}"}}' for name, path in paths.items())
    events = [{"ph": "X", "dur": 1000.0 * i, "args": {"hlo_op": name}} for i, name in enumerate(paths, 1)]
    events += [{"ph": "X", "dur": 5000.0, "args": {"hlo_op": "all-reduce.7"}}, {"ph": "M"}, {"ph": "X", "dur": 9.0}]
    rows = {row["part"]: row["milliseconds"] for row in profile.table(events, program, 1)}
    assert rows == {
        "waiting for and adding up devices": 5.0, "dense layers and convolutions": 1.0, "attention": 2.0,
        "layer norms": 3.0, "optimizer, data, augmentation": 4.0, "all": 15.0,
    }  # fmt: skip


def run(tmp_path, *args):
    """The rows of the script, run on our contestant alone."""
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--rounds=1", "--steps=1", "--warmup=1"]
    out = tmp_path / "rows.json"
    done = subprocess.run([*command, f"--json={out}", *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


@pytest.mark.slow
def test_a_step_is_measured_and_written_as_json(tmp_path):
    report, printed = run(tmp_path, "--model=tiny", "--contestants=vit_jax_1")
    first = report["rows"][0]
    assert first["contestant"] == "vit_jax_1_device" and first["dtype"] == "float32" and first["batch_size"] == 16
    assert first["images_per_second"] * first["seconds_per_step"] == pytest.approx(16)
    assert report["git_commit"] and report["cores"] and "vit_jax_1_device" in printed
    assert all("absent" not in row for row in report["rows"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (["--mode=inference", "--contestants=vit_jax_1", "--batch=8"], {"images_per_second"}),
        (["--mode=augment"], {"share"}),
        (["--mode=policies", "--batch=4"], {"matmuls", "compile_seconds"}),
        (["--mode=cpu", "--contestants=vit_jax"], {"what", "dtype", "jax_gflops"}),
        (["--mode=attention"], {"plain", "recomputed", "chunked_1", "chosen"}),
        (["--mode=cores"], {"cores", "devices", "micro_batches", "times_as_fast"}),
        (["--mode=profile"], {"part", "milliseconds"}),
    ],
)
def test_the_other_modes_run(tmp_path, monkeypatch, args, keys):
    """In this process; the test above has the script's own and that of a contestant."""

    def here(contestant, spec):
        return worker.measure({**vars(contestant), **spec})

    out = tmp_path / "rows.json"
    short = ["--model=tiny", "--rounds=1", "--steps=1", "--warmup=1", f"--json={out}"]
    monkeypatch.setattr(training, "run_worker", here)
    monkeypatch.setattr(cores, "CORES", (2,))
    monkeypatch.setattr(attention, "SHAPES", ((4, 4, 2, 8),))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *short, *args])
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # the program doesn't start itself again
    try:
        assert benchmark.main() == 0
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    rows = json.loads(out.read_text())["rows"]
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    assert keys <= rows[0].keys()


@pytest.mark.slow
def test_decoding_is_measured_on_the_same_images(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(decoding, "IMAGES", 8)
    decoding.write(tmp_path)
    for view in decoding.VIEWS:
        for name in ("vit_jax", "vit_jax, folder", "tf.data"):
            batch = next(iter(decoding.ADAPTERS[name](tmp_path, view, 4)))
            images = batch["image"] if isinstance(batch, dict) else batch[0]
            assert images.shape == (4, 224, 224, 3) and images.mean() == pytest.approx(127, abs=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_jax_tfdata", "tf.data_augmented"])
def test_pipelines_give_batches(name, monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(pipelines, "IMAGES", 64)
    batch = pipelines.start(name, 8)()
    images = batch["image"] if isinstance(batch, dict) else batch[0]
    assert images.shape == (8, 32, 32, 3)

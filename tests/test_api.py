"""From Python: training, evaluation and the pieces, without a command line, signals or an end of the process."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import vit_jax
from vit_jax.api import _config
from vit_jax.config import base_config
from vit_jax.training import loop

SMALL = {"train.length": "6 steps", "eval.every": "3 steps", "checkpoint.every": "3 steps", "log.every": "1 steps"}
SMALL |= {"model.depth": 1, "model.width": 16, "model.mlp_dim": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Results and folder of a small run."""
    workdir = tmp_path_factory.mktemp("fit") / "run"
    return vit_jax.fit("debug", workdir, SMALL), workdir


def test_importing_costs_nothing():
    code = "import sys, vit_jax; print([m for m in ('jax', 'numpy', 'absl', 'ml_collections') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {"fit", "evaluate", "load", "Predictor", "setup", "UserError", "models"} <= set(dir(vit_jax))


def test_fit_gives_the_results_as_a_table(run):
    results, workdir = run
    assert dict(results) == json.loads((workdir / "results.json").read_text())
    assert results["steps"] == 6 and results["num_examples"] == 128
    assert re.search(rf"top-1 +{100 * results['top1']:.2f} %", repr(results))
    page = results._repr_html_()
    assert page.startswith("<table>") and f"<td>{100 * results['top1']:.2f} %</td>" in page


def test_a_second_fit_goes_on_and_others_share_the_process(run, tmp_path):
    results, workdir = run
    assert vit_jax.fit("debug", workdir, SMALL) == results  # complete
    with pytest.raises(vit_jax.UserError, match="already holds a run"):
        vit_jax.fit("debug", workdir, SMALL, resume="never")
    with pytest.raises(vit_jax.UserError, match="config.seed: 0 in the run, 1 now"):
        vit_jax.fit("debug", workdir, {**SMALL, "seed": 1})
    config = base_config()
    config.data.name, config.data.test = "fake", ""
    config.update({"model": {"variant": "Ti/8", "width": 32, "depth": 1, "heads": 2, "mlp_dim": 32}})
    other = vit_jax.fit(config, tmp_path / "other", {"train.length": "2 steps", "log.tensorboard": False})
    assert other["split"] == "validation" and other["step"] == 2 and "top-1" in repr(other)


def test_evaluations_are_kept_apart_from_the_results(run):
    results, workdir = run
    before = (workdir / "results.json").read_bytes()
    whole = vit_jax.evaluate(workdir, "latest", {"eval.batch_size": 7})
    assert whole["top1"] == results["top1"] and whole["loss"] == pytest.approx(results["loss"], abs=1e-6)
    part = vit_jax.evaluate(workdir, 3, {"data.test": "test[:50%]"})
    assert part["num_examples"] == 64 and part["checkpoint"] == 3
    assert json.loads((workdir / "evaluations/test-6/results.json").read_text()) == dict(whole)
    kept = sorted(path.name for path in (workdir / "evaluations").iterdir())
    assert kept == ["test-6", "test_to50%-3"] and (workdir / "results.json").read_bytes() == before
    with pytest.raises(vit_jax.UserError, match="config.model.width can't be changed at evaluation"):
        vit_jax.evaluate(workdir, overrides={"model.width": 3})


def test_a_trained_run_predicts_and_its_weights_load(run):
    _, workdir = run
    images = np.zeros((2, 20, 30, 3), np.uint8)
    probabilities = vit_jax.Predictor(workdir)(list(images))
    assert probabilities.shape == (2, 10) and np.allclose(probabilities.sum(axis=1), 1)
    module, params = vit_jax.load(str(workdir))
    assert module.apply({"params": params}, np.zeros((1, 32, 32, 3)))[0].shape == (1, 10)


@pytest.mark.parametrize(
    ("config", "overrides", "told"),
    [
        ("quikstart", {}, "did you mean quickstart"),
        ("debug", {"optim.lr": 1}, "did you mean config.optim.learning_rate"),
        ("debug", {"seed": "3"}, "config.seed must be a whole number, like 4; found '3'"),
        (5, {}, "a config is a name, a path, a ConfigDict or a Config; found 5"),
        ("debug", ["a"], "overrides are a dictionary"),
        ("debug", {1: 2}, "overrides are a dictionary"),
        ("debug", {"model": {"widht": 3}}, "did you mean config.model.width"),
        ("debug", {"train.batch_size": 33, "train.accumulate": 2}, "33 is not divisible"),
    ],
)
def test_a_mistake_is_a_user_error(tmp_path, config, overrides, told):
    with pytest.raises(vit_jax.UserError, match=told):
        vit_jax.fit(config, tmp_path / "run", overrides)


@pytest.mark.parametrize("workdir", ["", None, 5])
def test_a_workdir_is_named(workdir):
    for use in (
        lambda: vit_jax.fit("debug", workdir),
        lambda: vit_jax.evaluate(workdir),
        lambda: vit_jax.load(workdir),
    ):
        with pytest.raises(vit_jax.UserError, match="found"):
            use()


def test_overrides_by_group_change_those_keys_alone():
    whole = _config("laptop", {})
    config = _config("laptop", {"optim": {"learning_rate": np.float32(0.5)}, "config.seed": np.int64(3)})
    assert config.optim == dataclasses.replace(whole.optim, learning_rate=0.5) and config.seed == 3
    assert _config("laptop", {"optim": {}}) == whole
    assert _config("laptop", {"data.dir": Path("/x")}).data.dir == "/x"


def test_in_a_thread_signals_stay_as_they_are(run, tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    found = []
    thread = threading.Thread(target=lambda: found.append(vit_jax.fit("debug", run[1], SMALL)))
    thread.start()
    thread.join(60)
    assert found == [run[0]]
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]


def test_an_interrupt_saves_and_the_same_call_goes_on(run, tmp_path, monkeypatch, capsys):
    workdir, beats, until = tmp_path / "run", [], time.monotonic() + 60
    beat = loop.Watchdog.beat
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist's workers ignore it

    def interrupt_at_the_second_step(self):
        beats.append(time.monotonic())
        if len(beats) == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as a notebook's stop button does
            while not asked() and time.monotonic() < until:
                time.sleep(0.01)
        beat(self)

    def asked() -> bool:
        return "Stopping: what there is to save" in capsys.readouterr().out

    monkeypatch.setattr(loop.Watchdog, "beat", interrupt_at_the_second_step)
    with pytest.raises(KeyboardInterrupt, match="stopped after saving"):
        vit_jax.fit("debug", workdir, SMALL)
    signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    assert [path.name for path in (workdir / "checkpoints").iterdir() if path.name != "0"] == ["2"]
    resumed = vit_jax.fit("debug", workdir, SMALL)
    same = ("top1", "top5", "loss")
    assert [resumed[key] for key in same] == [run[0][key] for key in same]


def test_pieces_have_one_size_of_images():
    with pytest.raises(vit_jax.UserError, match=r"config\.train\.sizes=.*one size of images; set it to \(\)"):
        vit_jax.setup("debug", {"train.sizes": ((0.0, 16), (0.5, 32))})


def test_a_loop_of_ones_own_has_its_own_batches_and_the_weights_of_the_classes():
    with pytest.raises(vit_jax.UserError, match=r"overfit_one_batch=True: a loop of one's own takes the batches"):
        vit_jax.setup("debug", {"train.overfit_one_batch": True})
    setup = vit_jax.setup("debug", {"train.class_weights": "balanced"})
    counts = np.bincount(setup.splits.train.labels)
    assert setup.train_step.keywords["class_weights"] == pytest.approx(len(setup.splits.train.labels) / (10 * counts))


@pytest.mark.slow
def test_the_pieces_are_those_of_a_run(run):
    _, workdir = run
    setup = vit_jax.setup("debug", SMALL)
    state, metrics = setup.step(setup.state)
    batch = setup.batch_at(setup.config.seed, 0)
    assert batch["image"].shape == (32, 32, 32, 3)
    again, figures = jax.jit(setup.train_step)(setup.state, batch)  # the first state is still there
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state, again))
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert float(metrics["loss"]) == float(figures["loss"]) == rows[0]["loss"]
    state, metrics = setup.step(state)
    assert float(metrics["loss"]) == rows[1]["loss"] and int(state.step) == 2
    logits = jax.jit(setup.eval_step)(state.params, setup.splits.test.images[:5])
    assert logits.shape == (5, len(setup.classes)) and setup.config.model.num_classes == 10

"""Runs that end otherwise than at their length: for want of a better validation; and that try one batch alone."""

import importlib
import json
import signal

import pytest
from promises.harness import RUN, arrays, digests, rows, stopping_after

from vit_jax.data.pipeline import TfDataPipeline
from vit_jax.evaluation import evaluate
from vit_jax.runs import manifest
from vit_jax.training.patience import Waiting


@pytest.fixture
def still(monkeypatch):
    """No validation is better than the first."""
    importlib.import_module("vit_jax.training.loop")  # what it imports by name stays as it is
    score = evaluate.score
    monkeypatch.setattr(evaluate, "score", lambda *args: score(*args) | {"top1": 0.5})


def test_waiting_counts_validations_without_a_better_one():
    waiting, counted = Waiting(), []
    for top1 in (0.0, 0.5, 0.5, 0.4, 0.6, 0.5, 0.5):
        waiting = waiting.after(top1)
        counted.append(waiting.validations)
    assert counted == [0, 0, 1, 2, 0, 1, 2]
    assert waiting.over(2) and not waiting.over(3) and not waiting.over(None)


@pytest.mark.slow
def test_a_run_without_a_better_validation_ends_early(command, tmp_path, still):
    """At the same step with an interruption, bit for bit; complete then, and tested by its best checkpoint."""
    args = [*RUN, "--config.eval.every=4 steps", "--config.train.patience=3", "--config.eval.select=best"]
    code, printed = command(*args, f"--workdir={tmp_path / 'straight'}")
    assert code == 0 and "No better validation top-1 in 3 evaluations: ended after step 16 of 30." in printed
    assert [row["step"] for row in rows(tmp_path / "straight", "validation")] == [4, 8, 12, 16]
    found = json.loads((tmp_path / "straight" / "results.json").read_text())
    assert found["steps"] == 16 and found["selected"] == "best on validation"
    assert (tmp_path / "straight" / "curves.png").exists()

    workdir = tmp_path / "interrupted"
    with stopping_after({10, 15}, signal.SIGTERM):
        assert command(*args, f"--workdir={workdir}")[0] == 143
        assert command(*args, f"--workdir={workdir}")[0] == 143
    code, printed = command(*args, f"--workdir={workdir}")
    assert code == 0 and "ended after step 16 of 30" in printed
    assert rows(workdir) == rows(tmp_path / "straight")
    ours, theirs = arrays(workdir, 16), arrays(tmp_path / "straight", 16)
    assert ours.keys() == theirs.keys() and all(x.tobytes() == theirs[path].tobytes() for path, x in ours.items())

    (workdir / "results.json").unlink()  # as if it had been killed before the test
    code, printed = command(*args, f"--workdir={workdir}")
    assert code == 0 and "ended after step 16 of 30" in printed and (workdir / "results.json").exists()
    before = digests(workdir)
    code, printed = command(*args, f"--workdir={workdir}")
    assert code == 0 and "already complete" in printed and digests(workdir) == before


@pytest.mark.slow
def test_a_run_by_the_clock_ends_early_too(command, tmp_path, still):
    args = [*RUN, "--config.eval.every=2 steps", "--config.train.patience=1", "--config.train.length=1000 s"]
    args += [f"--workdir={tmp_path}"]
    code, printed = command(*args)
    assert code == 0 and "No better validation top-1 in 1 evaluations: ended after step 4 of a run of 1000 s" in printed
    last, scored = tmp_path / "checkpoints" / "4", rows(tmp_path, "validation")[-1]
    meta = json.loads((last / "meta.json").read_text())
    (last / "meta.json").write_text(json.dumps(meta | {"total_steps": -1}))  # as if the end had come after the save
    manifest.seal(last)
    code, printed = command(*args)
    assert code == 0 and "already complete" not in printed and "ended after step 4" in printed
    assert json.loads((last / "meta.json").read_text())["scores"]["top1"] == scored["top1"]
    code, printed = command(*args)
    assert code == 0 and "already complete" in printed


# All that would keep the loss from vanishing is on, and is left out.
ONE_BATCH = (
    *RUN, "--config.train.overfit_one_batch=true", "--config.augment.mixup=0.5", "--config.augment.policy=randaugment",
    "--config.model.drop_path=0.2", "--config.model.head_dropout=0.5", "--config.train.label_smoothing=0.1",
    "--config.train.patience=1", "--config.eval.select=best",
)  # fmt: skip


@pytest.mark.slow
def test_one_batch_is_learned_by_heart(command, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    asked, batch_at = [], TfDataPipeline.batch_at

    def counted(self, seed, step):
        asked.append(step)
        return batch_at(self, seed, step)

    monkeypatch.setattr(TfDataPipeline, "batch_at", counted)
    args = [*ONE_BATCH, "--config.train.length=80 steps", "--config.optim.learning_rate=1e-2"]
    args += ["--config.data.pipeline=mapped", f"--workdir={tmp_path}"]
    code, printed = command(*args)
    assert code == 0, printed
    assert "The first batch of 32 images: loss 0.0" in printed and "top-1 100.00 %\n" in printed
    assert "Warning" not in printed and "validation" not in printed and not (tmp_path / "results.json").exists()
    assert rows(tmp_path, "train")[-1]["loss"] < 0.05
    assert set(asked) == {0}
    code, printed = command(*args)
    assert code == 0 and "already complete" in printed


@pytest.mark.slow
def test_a_batch_that_is_not_learned_is_told(command, tmp_path):
    code, printed = command(*ONE_BATCH, "--config.train.length=2 steps", f"--workdir={tmp_path}")
    assert code == 0 and "The first batch of 32 images: loss 2." in printed
    assert "Warning: the model hasn't learned this one batch." in printed and "config.train.length='2 steps'" in printed

"""Whole runs through the command line: what a run leaves, and starting it again."""

import json
import shutil

import pytest
from promises.harness import RUN, arrays, digests, rows


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def test_what_a_run_leaves(straight):
    assert {p.name for p in straight.iterdir()} == {
        "config.json", "data.json", "metrics.jsonl", "checkpoints", "results.json",
        "curves.png", "patches.png", "confusion.png", "confusion.csv", ".lock",
    }  # fmt: skip
    config = json.loads((straight / "config.json").read_text())
    assert config["model"]["num_classes"] == 10 and config["model"]["head_dim"] == 16
    assert len(config["augment"]["mean"]) == 3 and all(0.3 < m < 0.7 for m in config["augment"]["mean"])
    assert [r["step"] for r in rows(straight, "train")] == list(range(1, 31))
    for row in rows(straight, "train"):
        assert {"loss", "top1", "top5", "grad_norm", "learning_rate", "epoch"} <= row.keys()
    for split in ("train_epoch", "validation"):
        assert [r["step"] for r in rows(straight, split)] == [10, 20, 30]
        assert all({"loss", "top1", "top5"} <= row.keys() for row in rows(straight, split))
    assert {int(p.name) for p in (straight / "checkpoints").iterdir()} >= {28, 30}
    assert {path.split("'")[1] for path in arrays(straight)} == {"step", "seed", "params", "opt_state", "totals"}


def test_the_train_epoch_is_the_mean_of_its_steps(straight):
    steps, means = rows(straight, "train"), rows(straight, "train_epoch")
    for i, mean in enumerate(means):
        window = steps[10 * i : 10 * i + 10]
        for name in ("loss", "top1", "top5"):
            assert abs(mean[name] - sum(r[name] for r in window) / 10) < 1e-5


def test_results_hold_the_contract(straight):
    found = results(straight)
    assert set(found) >= {
        "dataset", "split", "num_examples", "top1", "top5", "loss", "params", "flops_per_image", "steps", "epochs",
        "seed", "checkpoint", "wall_seconds", "compile_seconds", "images_per_second", "device", "versions",
        "git_commit", "balanced_accuracy", "macro_f1", "per_class", "per_class_f1",
    }  # fmt: skip
    assert found["dataset"] == "fake" and found["split"] == "test" and found["num_examples"] == 128
    assert 0.3 < found["top1"] <= found["top5"] <= 1
    assert found["steps"] == found["checkpoint"] == 30
    recalls = [recall for recall in found["per_class"].values() if recall is not None]
    assert found["balanced_accuracy"] == pytest.approx(sum(recalls) / len(recalls))
    assert found["per_class_f1"].keys() == found["per_class"].keys()
    assert abs(found["epochs"] - 30 * 32 / 461) < 1e-9
    assert found["wall_seconds"] > found["compile_seconds"] > 0
    assert found["train_flops_per_image"] == 3 * found["flops_per_image"]
    rate = found["images_per_second"] * found["train_flops_per_image"] / 1e12
    assert found["tflops_per_second"] == pytest.approx(rate)
    startup = found["startup_seconds"]
    assert startup.keys() == {"imports", "data", "init", "compile", "first_step"} and min(startup.values()) > 0
    assert startup["compile"] == found["compile_seconds"] and sum(startup.values()) < found["wall_seconds"]


def test_learning_happens(straight):
    steps = rows(straight, "train")
    assert steps[-1]["loss"] < 0.95 * steps[0]["loss"]


def test_running_a_finished_run_again_changes_nothing(straight, command):
    before = digests(straight)
    code, printed = command(*RUN, f"--workdir={straight}")
    assert code == 0 and "already complete" in printed
    assert f"for longer, choose another --workdir and add --config.init_from={straight}" in printed
    assert digests(straight) == before


def test_a_changed_config_is_refused_with_the_difference(straight, command):
    before = digests(straight)
    code, printed = command(*RUN, "--config.optim.learning_rate=0.5", "--config.seed=3", f"--workdir={straight}")
    assert code == 2
    assert "config.optim.learning_rate: 0.001 in the run, 0.5 now" in printed
    assert "config.seed: 0 in the run, 3 now" in printed and "Traceback" not in printed
    assert "--config.init_from" not in printed
    code, printed = command(*RUN, "--config.train.length=40 steps", f"--workdir={straight}")
    assert code == 2 and "config.train.length: '30 steps' in the run, '40 steps' now" in printed
    assert f"for longer, choose another --workdir and add --config.init_from={straight}" in printed
    assert digests(straight) == before


def test_a_run_from_before_a_key_was_born_is_still_the_runs(straight, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["attention"] = "xla"  # what "auto" was then
    del config["train"]["steps_per_call"]
    (workdir / "config.json").write_text(json.dumps(config))
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 0 and "already complete" in printed


@pytest.mark.slow
def test_a_result_from_before_the_end_does_not_end_the_run(straight, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    expected = results(copy)
    assert command("--mode=evaluate", "--checkpoint=28", f"--workdir={copy}")[0] == 0
    shutil.copy(copy / "evaluations" / "test-28" / "results.json", copy)  # where version 0.1.0 wrote it
    assert results(copy)["checkpoint"] == 28 and results(copy)["selected"] == "given"
    code, printed = command(*RUN, f"--workdir={copy}")
    assert code == 0 and "already complete" not in printed
    assert results(copy)["checkpoint"] == 30 and results(copy)["top1"] == expected["top1"]
    assert rows(copy) == rows(straight)


@pytest.mark.parametrize(("resume", "exists"), [("never", True), ("must", False)])
def test_resume_flags(straight, command, tmp_path, resume, exists):
    code, printed = command(*RUN, f"--resume={resume}", f"--workdir={straight if exists else tmp_path / 'new'}")
    assert code == 2 and "--resume=auto" in printed
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_without_its_config_file(command, tmp_path, straight):
    code, printed = command(f"--workdir={straight}")
    assert code == 0 and "already complete" in printed


@pytest.mark.slow
def test_the_quickstart_learns(process, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # here it computes longer than it compiles
    # TensorFlow's import, for the events, is tried with other runs.
    # Half of its length: 60 epochs reach 97 %.
    args = ["--config=quickstart", "--config.train.length=30 epochs", "--config.log.tensorboard=false"]
    child = process(*args, f"--workdir={tmp_path / 'run'}")
    printed = child.communicate()[0]
    assert child.returncode == 0, printed
    assert results(tmp_path / "run")["top1"] >= 0.93
    assert (tmp_path / "run" / "curves.png").exists()


@pytest.mark.slow
def test_an_image_folder_without_a_test_split(command, tmp_path):
    from PIL import Image

    for i, label in enumerate(("cat", "dog") * 40):
        folder = tmp_path / "pets" / "train" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (200 * (i % 2), i, 0)).save(folder / f"{i}.png")
    args = ["--config=configs/debug.py", "--config.model.depth=1", "--config.data.name=image_folder"]
    args += [f"--config.data.dir={tmp_path / 'pets'}"]
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0, printed
    assert "no test split" in printed and not (tmp_path / "run" / "results.json").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["num_classes"] == 2
    before = digests(tmp_path / "run")
    code, printed = command(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 0 and "already complete" in printed and digests(tmp_path / "run") == before
    # More images of another class are other data: refused, and nothing of the run is changed.
    (tmp_path / "pets/train/frog").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "pets/train/frog/1.png")
    shutil.rmtree(tmp_path / "run/checkpoints/20")  # as if it had not been at its end
    before = digests(tmp_path / "run")
    for again in ([*args], ["--mode=evaluate", "--config.data.test=train[90%:]"]):
        code, printed = command(*again, f"--workdir={tmp_path / 'run'}")
        assert code == 2 and "trained on other data" in printed and "frog" in printed
    assert digests(tmp_path / "run") == before


def test_one_process_at_a_time(command, tmp_path):
    from vit_jax.runs.folder import RunFolder

    run = RunFolder(tmp_path / "run")
    run.create()
    with run.lock():
        code, printed = command("--config=configs/debug.py", f"--workdir={run.path}")
    assert code == 2 and "another process" in printed


def test_checkpoints_without_a_config_are_not_taken_over(straight, command, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(straight, copy)
    (copy / "config.json").unlink()
    code, printed = command(*RUN, f"--workdir={copy}")
    assert code == 2 and "no config.json" in printed


def test_a_wrong_class_count_names_the_right_one(command, tmp_path):
    code, printed = command(
        "--config=configs/debug.py", "--config.model.num_classes=7", f"--workdir={tmp_path / 'run'}"
    )
    assert code == 2 and "--config.model.num_classes=10" in printed


def test_damaged_results_and_metrics_are_made_again(straight, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    (workdir / "results.json").write_text('{"top1": ')
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join([*lines[:3], "garbage\n", "5\n", "{}\n", *lines[3:], '{"step": 3']))
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 0 and "3 lines" in printed and "metrics.jsonl.damaged" in printed
    assert rows(workdir) == rows(straight) and results(workdir)["top1"] == results(straight)["top1"]
    assert "garbage" in (workdir / "metrics.jsonl.damaged").read_text()
    (workdir / "config.json").write_text("{")
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 2 and "config.json can't be read" in printed and "Traceback" not in printed


def test_a_run_without_its_checkpoints_is_not_begun_anew(straight, command, tmp_path):
    """Its metrics would be wiped: a disk that isn't mounted looks like that."""
    workdir = tmp_path / "run"
    shutil.copytree(straight, workdir)
    shutil.rmtree(workdir / "checkpoints")
    before = rows(workdir)
    code, printed = command(*RUN, f"--workdir={workdir}")
    assert code == 2 and "come to step 30, but none of its checkpoints is left" in printed
    assert rows(workdir) == before


def test_a_folder_that_cannot_be_written_is_evaluated_all_the_same(straight, command, tmp_path, monkeypatch):
    from vit_jax.runs import report

    def fail(*_):
        raise OSError(30, "Read-only file system", "confusion.csv")

    monkeypatch.setattr(report, "write_confusion", fail)
    copy = shutil.copytree(straight, tmp_path / "run")
    code, printed = command("--mode=evaluate", f"--workdir={copy}")
    assert code == 0 and "not kept" in printed and "Read-only file system" in printed and "top-1" in printed

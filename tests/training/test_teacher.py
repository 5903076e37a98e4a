"""Runs that distil a teacher: from another run or weights, going on, and what is said of a teacher that doesn't fit."""

import json
import shutil

import pytest
from promises.harness import RUN, arrays, rows

import vit_jax

TAUGHT = (
    "--config=debug", "--config.model.depth=1", "--config.model.dtype=float32", "--config.model.pool=token",
    "--config.model.distill_token=true", "--config.train.length=6 steps", "--config.eval.every=6 steps",
    "--config.checkpoint.every=3 steps", "--config.log.every=1 steps", "--config.train.distill.kind=soft",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_is_taught_by_another_and_goes_on_bit_for_bit(straight, command, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(straight, teacher)
    options = (*TAUGHT, f"--config.train.distill.teacher={teacher}")
    code, printed = command(*options, f"--workdir={tmp_path / 'run'}")
    assert code == 0, printed
    assert f"Teacher: checkpoint 30 of {teacher}, for images of 32 x 32; soft targets, weight 0.5" in printed
    code, printed = command(*[x.replace("soft", "hard") for x in options], f"--workdir={tmp_path / 'hard'}")
    assert code == 0, printed
    found, hard = rows(tmp_path / "run", "train"), rows(tmp_path / "hard", "train")
    assert len(found) == 6 and all(a["loss"] != b["loss"] for a, b in zip(found, hard, strict=True))

    # The teacher has moved in the meantime, and the run had come to step 3.
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    (tmp_path / "again" / "results.json").unlink()
    teacher.rename(tmp_path / "moved")
    moved = (*TAUGHT, f"--config.train.distill.teacher={tmp_path / 'moved'}", f"--workdir={tmp_path / 'again'}")
    code, printed = command(*moved)
    assert code == 0 and "Resuming after step 3" in printed, printed
    again, whole = (arrays(tmp_path / name, 6) for name in ("again", "run"))
    assert again.keys() == whole.keys() and all((again[key] == whole[key]).all() for key in whole)
    assert rows(tmp_path / "again") == rows(tmp_path / "run")

    # A teacher that has learned on in the meantime is another.
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    (tmp_path / "again" / "results.json").unlink()
    shutil.rmtree(tmp_path / "moved")
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    code, printed = command(*moved)
    assert code == 2 and "isn't the teacher that the run began with" in printed, printed
    code, printed = command(*TAUGHT[:-1], f"--workdir={tmp_path / 'again'}")
    assert code == 2 and "config.train.distill.teacher" in printed, printed


def test_a_teacher_that_does_not_fit_is_told(straight, command, tmp_path):
    for options, said in (
        (("kind=harder", f"teacher={straight}"), "config.train.distill.kind"),
        (("weight=2.0", f"teacher={straight}"), "from 0 to 1"),
        (("temperature=0.0", f"teacher={straight}"), "config.train.distill.temperature"),
        (("kind=soft",), "give config.train.distill.teacher"),
        (("kind=hard", "temperature=3.0", f"teacher={straight}"), "needs soft targets"),
        ((f"teacher={tmp_path / 'nowhere'}",), "nowhere"),
    ):
        flags = [f"--config.train.distill.{option}" for option in options]
        code, printed = command(*TAUGHT[:-1], *flags, f"--workdir={tmp_path / 'run'}")
        assert code == 2 and said in printed and "Traceback" not in printed, printed

    other = tmp_path / "other"
    shutil.copytree(straight, other)
    data = json.loads((other / "data.json").read_text())
    data["classes"] = data["classes"][::-1]
    (other / "data.json").write_text(json.dumps(data))
    flag = f"--config.train.distill.teacher={other}"
    code, printed = command(*TAUGHT, flag, f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "in the same order" in printed, printed
    code, printed = command("export", f"--workdir={other}", "--format=timm", f"--output={tmp_path / 'out'}")
    assert code == 0, printed
    code, printed = command(*TAUGHT, flag.replace("other", "out"), f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "in the same order" in printed, printed
    (tmp_path / "out/config.json").unlink()
    alone = f"--config.train.distill.teacher={tmp_path / 'out/model.safetensors'}"
    code, printed = command(*TAUGHT, alone, "--config.model.heads=2", f"--workdir={tmp_path / 'run'}")
    assert code == 2 and "put the config.json beside them" in printed and "say so" not in printed, printed
    code, printed = command(*RUN, flag, "--config.train.overfit_one_batch=true", f"--workdir={tmp_path / 'one'}")
    assert code == 0 and "Teacher" not in printed, printed


@pytest.mark.slow
def test_weights_teach_a_loop_of_ones_own(straight, command, tmp_path):
    """An export tells what its images are normalised with."""
    weights = tmp_path / "weights"
    code, printed = command("export", f"--workdir={straight}", f"--output={weights}")
    assert code == 0, printed
    norms = []
    for teacher in (str(straight), str(weights), None):
        overrides = {"model.depth": 1, "train.distill.teacher": teacher}
        setup = vit_jax.setup("debug", overrides)
        norms.append(float(setup.step(setup.state)[1]["grad_norm"]))
    assert norms[0] == norms[1] != norms[2]

"""Checkpoints: what is kept and checked, what survives a kill between two renames, and that none runs code."""

import hashlib
import json
import math
import pickle
import shutil
import subprocess
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.config import CheckpointConfig
from vit_jax.errors import RunError, UserError
from vit_jax.runs import manifest
from vit_jax.runs.checkpoints import Checkpoints
from vit_jax.runs.keeping import kept, ranked
from vit_jax.steps.state import TrainState
from vit_jax.system.sharding import make_mesh, put, replicated

PARAMS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def state(step, params=PARAMS):
    everywhere = replicated(make_mesh())
    return TrainState(jnp.int32(step), jnp.uint32(0), jax.tree.map(lambda x: put(x, everywhere), params), {}, {})


def scores(top1):
    return {"top1": top1, "loss": 1.0}


@pytest.fixture
def saved(tmp_path):
    """A workdir with checkpoints 3 and 7, of which 3 is the better."""
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(state(3), {"clock": {}}, scores(0.9))
        checkpoints.save(state(7), {"clock": {}}, scores(0.5))
    return tmp_path


def test_the_latest_and_the_best_are_kept_apart():
    found = {1: scores(0.9), 2: scores(0.5), 3: None, 4: scores(math.nan), 5: scores(0.9), 6: scores(0.1)}
    assert ranked(found) == [5, 1, 2, 6]
    assert kept(found, CheckpointConfig(keep_latest=1, keep_best=1)) == {6, 5}
    assert kept(found, CheckpointConfig(keep_latest=2, keep_best=3)) == {5, 6, 1, 2}
    assert kept(found, CheckpointConfig(keep_latest=1, keep_best=0)) == {6}


def test_what_was_saved_comes_back_though_the_state_was_given_up(tmp_path):
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        given = state(5)
        checkpoints.save(given, {"clock": {"wall": 1.5}}, None)
        given.params["w"].delete()
    reader = Checkpoints(tmp_path)
    restored = reader.restore(5, {"params": PARAMS, "step": jnp.int32(0)}, make_mesh())
    np.testing.assert_array_equal(restored["params"]["w"], PARAMS["w"])
    assert int(restored["step"]) == 5 and restored["params"]["w"].sharding.is_fully_replicated
    assert reader.meta(5)["clock"] == {"wall": 1.5} and reader.meta(5)["scores"] is None


def test_sha256sum_agrees_with_the_manifest(saved):
    """The manifest can be checked without this project, by the tool that every Linux has."""
    if not shutil.which("sha256sum"):
        pytest.skip("needs sha256sum")
    folder = saved / "checkpoints" / "7"
    command = ["sha256sum", "--check", "--strict", "--quiet", manifest.NAME]
    assert subprocess.run(command, cwd=folder).returncode == 0
    (folder / "meta.json").write_text("{}")
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode != 0


def test_all_of_a_damaged_manifest_is_noticed(saved):
    """Also one that was cut at the end of a line, and one that names a file twice."""
    folder = saved / "checkpoints" / "7"
    lines = (folder / manifest.NAME).read_text().splitlines(keepends=True)
    assert manifest.damage(folder) is None
    vertical = ["".join(lines).replace("\n", "\v", 1)]
    cut = ["".join(lines)[:-1]]
    for content in (lines[:-1], lines[1:], [], [*lines, lines[0]], [*lines, "\n"], [*lines, "0  x\n"], vertical, cut):
        (folder / manifest.NAME).write_text("".join(content))
        assert manifest.damage(folder), content
    (folder / manifest.NAME).write_bytes(b"\xff\xfe")
    assert "no text" in manifest.damage(folder)


def test_what_cannot_be_read_now_is_not_called_damaged(saved, monkeypatch):
    """Too many open files, or a server that is away: nothing is set aside for that."""

    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(hashlib, "file_digest", fail)
    with Checkpoints(saved, CheckpointConfig()) as checkpoints:
        with pytest.raises(OSError, match="Too many open files"):
            checkpoints.set_damaged_aside()
        assert checkpoints.steps() == [3, 7]


def test_damaged_ones_are_set_aside_by_name_and_none_is_overwritten(saved):
    for n in range(2):
        with Checkpoints(saved, CheckpointConfig()) as checkpoints:
            if n:
                checkpoints.save(state(7), {}, None)
                checkpoints.wait()
            (saved / "checkpoints/7/meta.json").write_text("{}")
            (line,) = checkpoints.set_damaged_aside()
            assert "checkpoint 7" in line and "meta.json differs" in line and checkpoints.steps() == [3]
    assert {p.name for p in (saved / "checkpoints").iterdir()} == {"3", "7.damaged", "7.damaged-1"}


def test_the_best_of_a_run_with_a_damaged_checkpoint_is_not_guessed(saved):
    (saved / "checkpoints/3/meta.json").write_text("{}")
    with pytest.raises(UserError, match="checkpoint 3 .* is damaged"):
        Checkpoints(saved).resolve("best")
    assert Checkpoints(saved).resolve("latest") == 7


@pytest.mark.parametrize("killed", ["before the first rename", "between", "before the removal"])
def test_a_kill_while_a_step_is_saved_again_loses_neither(saved, killed):
    """The state that a save of step 7, with its scores, leaves where it is killed."""
    folder = saved / "checkpoints"
    shutil.copytree(folder / "7", folder / ".saving-7")
    if killed != "before the first rename":
        (folder / "7").rename(folder / ".replaced-7")
    if killed == "before the removal":
        (folder / ".saving-7").rename(folder / "7")
    with Checkpoints(saved, CheckpointConfig()) as checkpoints:
        assert checkpoints.steps() == [3, 7]
        checkpoints.check(7)
        assert {p.name for p in folder.iterdir()} == {"3", "7"}


def test_a_reader_changes_nothing(saved):
    (saved / "checkpoints" / ".saving-9").mkdir()
    assert Checkpoints(saved).steps() == [3, 7]
    assert (saved / "checkpoints" / ".saving-9").is_dir()


def test_a_save_that_fails_is_told_by_the_next_poll_and_leaves_no_litter(saved, monkeypatch):
    failing = threading.Event()

    def seal(folder):
        failing.wait()
        raise OSError(28, "No space left on device", str(folder))

    with Checkpoints(saved, CheckpointConfig()) as checkpoints:
        monkeypatch.setattr(manifest, "seal", seal)
        checkpoints.save(state(9), {}, None)
        checkpoints.poll()  # not known yet
        failing.set()
        with pytest.raises(RunError, match=r"checkpoint 9 can't be saved .*No space left.*\[3, 7\] are intact"):
            for _ in range(1000):
                checkpoints.poll()
                threading.Event().wait(0.01)
        assert {p.name for p in (saved / "checkpoints").iterdir()} == {"3", "7"}


def test_a_state_that_is_not_finite_is_not_saved(saved):
    with Checkpoints(saved, CheckpointConfig()) as checkpoints:
        for bad in (np.nan, np.inf):
            with pytest.raises(RunError, match="params/w isn't finite after step 9"):
                checkpoints.save(state(9, {"w": np.array([1, bad], np.float32)}), {}, None)
        checkpoints.wait()
        assert checkpoints.steps() == [3, 7]


def test_too_little_space_is_told_with_figures(saved, monkeypatch):
    with Checkpoints(saved, CheckpointConfig(keep_latest=3)) as checkpoints:
        big = {"params": jax.ShapeDtypeStruct((2**20,), np.float32)}
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 13 * 2**20))
        with pytest.raises(UserError, match="13 MiB free, and 3 checkpoints of 4.0 MiB need 14 MiB"):
            # Two of five are there.
            checkpoints.check_space(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), big), 100)
        checkpoints.check_space(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), big), 2)  # of a run of two saves
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 15 * 2**20))
        checkpoints.check_space(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), big), 100)


def test_what_the_system_leaves_in_folders_does_not_damage_a_checkpoint(saved):
    for name in (".DS_Store", "state/._manifest.ocdbt", "state/.nfs0000a1"):
        (saved / "checkpoints" / "7" / name).touch()
    checkpoints = Checkpoints(saved)
    assert checkpoints.set_damaged_aside() == [] and checkpoints.steps() == [3, 7]
    (saved / "checkpoints" / "7" / "state" / "other").touch()
    assert len(checkpoints.set_damaged_aside()) == 1 and checkpoints.steps() == [3]


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("where", ["pickle", "msgpack", "metadata", "meta", "type"])
def test_a_hostile_checkpoint_runs_nothing(saved, tmp_path, where):
    """A stranger's checkpoint with a manifest that is right: restoring it, or refusing to, runs none of its content."""
    folder, canary = saved / "checkpoints" / "7", tmp_path / "canary"
    hostile = pickle.dumps(Canary(canary))
    state_folder = folder / "state"
    if where == "pickle":  # under the names that old formats and other libraries unpickle
        for name in ("checkpoint", "tree.pkl", "pytree.pkl", "structure.pickle", "_sharding"):
            (state_folder / name).write_bytes(hostile)
    elif where == "msgpack":
        for file in state_folder.iterdir():
            if file.is_file() and file.name != "_METADATA":
                file.write_bytes(hostile)
    elif where == "metadata":
        (state_folder / "_METADATA").write_bytes(hostile)
    elif where == "meta":
        (folder / "meta.json").write_bytes(hostile)
    else:
        content = json.loads((state_folder / "_METADATA").read_text())
        text = json.dumps(content).replace("np.ndarray", "os.system").replace("jax.Array", "builtins.eval")
        (state_folder / "_METADATA").write_text(text)
    manifest.seal(folder)
    reader = Checkpoints(saved)
    for read in (lambda: reader.meta(7), lambda: reader.restore(7, {"params": PARAMS}, make_mesh())):
        try:
            read()
        except UserError as error:
            assert "checkpoint 7" in str(error)
    assert not canary.exists()

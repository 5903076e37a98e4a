"""Checkpoints of a run, each of them whole, checked by sha256, or not there.

checkpoints/STEP/            state/ in Orbax's format, meta.json, and the manifest SHA256SUMS of both
checkpoints/STEP.damaged     what didn't agree with its manifest and was set aside
checkpoints/.saving-STEP     a save under way; what a killed one left goes at the next start
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vit_jax.config import CheckpointConfig
from vit_jax.errors import RunError, UserError
from vit_jax.runs import manifest, stored
from vit_jax.runs.keeping import kept, ranked
from vit_jax.steps.state import TrainState
from vit_jax.system import jobs
from vit_jax.system.disk import size_of, sync_folder
from vit_jax.system.sharding import on_host

_STATE, _META = "state", "meta.json"
_SAVING, _REPLACED = ".saving-", ".replaced-"
_MARGIN = 1.2  # of free space over what the checkpoints to be kept will take


class NotFinite(RunError):
    """A state with NaN or infinite numbers, which is not saved."""


class Checkpoints:
    """The `checkpoints/` of a workdir. Steps are counted as steps done."""

    def __init__(self, workdir: Path, cfg: CheckpointConfig | None = None):
        """Opens for saving with `cfg`, for reading only without: then nothing is created, removed or renamed."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax narrates each file
        self._root, self._cfg = Path(workdir).absolute() / "checkpoints", cfg
        self._saving: Future | None = None
        self._executor = ThreadPoolExecutor(1, "save") if cfg else None
        if cfg:
            try:
                self._root.mkdir(exist_ok=True)
                self._tidy()
                probe = self._root / f"{_SAVING}probe"
                probe.mkdir()
                probe.rmdir()
            except OSError as error:
                raise UserError(f"{self._root} can't be written ({error.strerror}); mend its permissions") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._executor:
            self._executor.shutdown()  # a save under way goes to its end

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, damaged or not, in order."""
        if not self._root.is_dir():
            return []
        return sorted(int(p.name) for p in self._root.iterdir() if p.name.isdecimal() and p.is_dir())

    # --- saving

    def save(self, state: TrainState, meta: dict[str, Any], scores: dict[str, float] | None) -> None:
        """Starts to save, in the background; `scores` (with "top1") make it a candidate for the best.

        A state that lies in parts on several processes' devices is saved by all of them, which call this together, and
        before it returns.

        A step that was saved before its evaluation could end is saved again with its scores. Raises NotFinite for a
        state that isn't, and RunError if the save before this one failed.
        """
        self.wait()
        step = int(state.step)
        meta = {**meta, "step": step, "scores": scores}
        if stored.is_spread(state):
            self._save_together(step, state, meta)
            return
        host = jax.tree.map(on_host, state)  # copies: the next step gives the buffers up
        if path := stored.not_finite(host):
            raise NotFinite(f"{path} isn't finite after step {step}; that state is not saved")
        assert self._executor, "opened for reading only"
        self._saving = self._executor.submit(self._save, step, host, meta)

    def poll(self) -> None:
        """Raises RunError if the last save has failed by now."""
        if self._saving and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Returns when what was saved is complete and on the disk; raises RunError if it couldn't be saved."""
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def _save(self, step: int, host: TrainState, meta: dict[str, Any]) -> None:
        folder = self._root / f"{_SAVING}{step}"
        with self._refusing(step, folder):
            # Its folders first: whatever is in their way, Orbax would say it less plainly.
            folder.mkdir()
            stored.write(folder / _STATE, host)
            self._complete(folder, step, meta)

    def _save_together(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Each process writes its own shards; the first makes a checkpoint of them. When one fails, none is there."""
        if jobs.any_of(path := stored.not_finite(state)):
            raise NotFinite(f"{path or 'another part'} isn't finite after step {step}; that state is not saved")
        folder = self._root / f"{_SAVING}{step}"
        with self._refusing(step, folder):
            if self._cfg:
                folder.mkdir()
            jobs.meet(f"save {step}")
            stored.write(folder / _STATE, state)
            if self._cfg:
                self._complete(folder, step, meta)
            jobs.meet(f"saved {step}")

    def _complete(self, folder: Path, step: int, meta: dict[str, Any]) -> None:
        """Makes a whole checkpoint of a folder with a state."""
        (folder / _META).write_text(json.dumps(meta, indent=2) + "\n")
        manifest.seal(folder)
        self._put_in_place(folder, step)
        self._prune()

    @contextlib.contextmanager
    def _refusing(self, step: int, folder: Path) -> Iterator[None]:
        """Within, what goes wrong is a RunError that says what is left, and no half of a checkpoint stays."""
        try:
            yield
        except Exception as error:  # Orbax and its storage raise many types
            shutil.rmtree(folder, ignore_errors=True)
            raise RunError(
                f"checkpoint {step} can't be saved in {self._root} ({_first_line(error)}); those of steps "
                f"{self.steps()} are intact. Mend that, and the same command goes on from the last of them"
            ) from error

    def _put_in_place(self, folder: Path, step: int) -> None:
        final, replaced = self._root / str(step), self._root / f"{_REPLACED}{step}"
        again = final.exists()
        if again:
            os.rename(final, replaced)
        os.rename(folder, final)
        sync_folder(self._root)
        if again:
            shutil.rmtree(replaced)

    def _prune(self) -> None:
        scores = {step: self._scores(step) for step in self.steps()}
        assert self._cfg, "opened for reading only"
        for step in scores.keys() - kept(scores, self._cfg):
            # By another name first: half a checkpoint is never listed.
            doomed = self._root / f"{_SAVING}{step}"
            os.rename(self._root / str(step), doomed)
            shutil.rmtree(doomed)

    def _scores(self, step: int) -> dict[str, float] | None:
        try:
            return self.meta(step)["scores"]
        except UserError:  # damaged since; the next start sets it aside
            return None

    def _tidy(self) -> None:
        """Removes what a killed save left, and brings back what it was about to replace."""
        for path in self._root.glob(f"{_REPLACED}*"):
            final = self._root / path.name.removeprefix(_REPLACED)
            if not final.exists():
                os.rename(path, final)
        for pattern in (_SAVING, _REPLACED):
            for path in self._root.glob(f"{pattern}*"):
                shutil.rmtree(path)

    def check_space(self, state: TrainState, saves: float) -> None:
        """Raises UserError where those that a run of so many `saves` keeps, and one more, don't fit on the disk."""
        assert self._cfg, "opened for reading only"
        size = sum(x.nbytes for x in jax.tree.leaves(state))
        most = min(self._cfg.keep_latest + self._cfg.keep_best, saves)
        more = int(max(most + 1 - len(self.steps()), 1))
        needed, free = _MARGIN * more * size, shutil.disk_usage(self._root).free
        if free < needed:
            raise UserError(
                f"{self._root} has {free / 2**20:,.0f} MiB free, and {more} checkpoints of {size / 2**20:,.1f} MiB "
                f"need {needed / 2**20:,.0f} MiB with a margin; free some, or choose another --workdir, on another "
                "disk or with lower config.checkpoint.keep_latest and keep_best"
            )

    def set_damaged_aside(self) -> list[str]:
        """Renames each checkpoint that differs from its manifest to STEP.damaged; gives a line for each."""
        lines = []
        for step in self.steps():
            found = manifest.damage(self._root / str(step))
            if found:
                aside = next(
                    path
                    for n in range(1000)
                    if not (path := self._root / f"{step}.damaged{f'-{n}' if n else ''}").exists()
                )
                os.rename(self._root / str(step), aside)
                lines.append(f"Warning: checkpoint {step} is damaged ({found}); set aside as {aside}.")
        return lines

    # --- reading

    def resolve(self, name: str) -> int:
        """The step that "latest", "best" or a number stands for; raises UserError with those that there are."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self._root.parent} holds no checkpoint; train there first")
        if name == "latest":
            return steps[-1]
        if name == "best":
            best = ranked({step: self.meta(step)["scores"] for step in steps})
            if not best:
                raise UserError(f"{self._root.parent} has no evaluated checkpoint to be the best; there are {steps}")
            return best[0]
        if not name.isdecimal() or int(name) not in steps:
            raise UserError(f"--checkpoint={name}: there is no such checkpoint; use best, latest or one of {steps}")
        return int(name)

    def meta(self, step: int) -> dict[str, Any]:
        """What `save` was given beside the state, with its `step` and `scores`. Raises UserError if it is damaged."""
        self._check_whole(step, _META)
        try:
            meta = json.loads((self._root / str(step) / _META).read_text())
            scores, numbers = meta["scores"] or {}, {"total_steps", "num_train"} & meta.keys()
            if meta["step"] != step or not all(isinstance(meta[name], int) for name in numbers):
                raise ValueError(f"{_META} is of another checkpoint")
            if scores and not all(isinstance(x, int | float) for x in (scores["top1"], *scores.values())):
                raise ValueError(f"{_META} has scores that are no numbers")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:  # whoever wrote its manifest
            raise self._damaged(step, _first_line(error)) from error
        return meta

    def check(self, step: int) -> dict[str, Any]:
        """The same; raises UserError if any of the checkpoint's files is damaged."""
        self._check_whole(step)
        return self.meta(step)

    def restore(self, step: int, target: Any, mesh: Mesh) -> Any:
        """The whole state, or the part of it that `target` (arrays or shapes) names.

        It lies as the arrays of `target` do; shapes' are on every device of the mesh.

        Raises UserError for a checkpoint that differs from its manifest, and with every difference in paths, shapes
        and dtypes for one of another model, before anything is read.
        """
        self._check_whole(step)
        try:
            return stored.read(self._root / str(step) / _STATE, target, mesh, f"checkpoint {step}")
        except UserError:
            raise
        except Exception as error:  # a folder whose manifest is right, yet that Orbax can't read
            raise self._damaged(step, _first_line(error)) from error

    def _check_whole(self, step: int, only: str = "") -> None:
        folder = self._root / str(step)
        if not folder.is_dir():
            raise UserError(f"{folder} is no longer there: training keeps the latest and the best; run this again")
        if found := manifest.damage(folder, only):
            raise self._damaged(step, found)

    def _damaged(self, step: int, found: str) -> UserError:
        others = [other for other in self.steps() if other != step]
        return UserError(
            f"checkpoint {step} in {self._root} is damaged ({found}); training goes on from an earlier one by itself; "
            f"to evaluate, move its folder away and name one of {others}"
        )


def under_way(workdir: Path) -> tuple[str, int] | None:
    """The save that is being written there, in words, and the bytes that it has by now; None where there is none.

    Raises OSError where the disk does.
    """
    root = Path(workdir).absolute() / "checkpoints"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(root):
            if name.startswith(_SAVING):
                return f"checkpoint {name.removeprefix(_SAVING)} in {root}", size_of(root / name)
    return None


def _first_line(error: Exception) -> str:
    """Of an OSError what and where, of others the first line of the text."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:300]

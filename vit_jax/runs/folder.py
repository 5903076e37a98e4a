"""The folder of a run: what lies in it describes the run entirely."""

import contextlib
import dataclasses
import fcntl
import json
import re
from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any

from vit_jax.config import Config, DistillConfig, ModelConfig
from vit_jax.data.dataset import DataSet
from vit_jax.errors import RunError, UserError
from vit_jax.models.presets import resolve
from vit_jax.schema import difference, from_mapping, to_dict
from vit_jax.system.disk import expanded, write_whole

# Where things lie may differ from start to start; it doesn't change a result.
_PLACES = (
    ("data", "dir"),
    ("data", "cache_dir"),
    ("train", "mesh"),
    ("train", "split_rules"),
    ("model", "scan"),
    ("log", "tracker"),
)

# Names in the runs of version 0.1.0, and now.
_PIPELINES = {"device": "resident", "tfdata": "mapped"}


class RunFolder:
    """A workdir: config.json, data.json, metrics.jsonl, checkpoints/, results.json and pictures.

    Of a job's processes only one `writes`; with the others, what would write does nothing.
    """

    def __init__(self, workdir: str | PathLike[str], writes: bool = True):
        if not isinstance(workdir, (str, PathLike)) or not fspath(workdir):
            raise UserError(f"a workdir is the folder of a run, like runs/first; found {workdir!r}")
        self.path, self.writes = expanded(workdir).absolute(), writes

    def exists(self) -> bool:
        try:
            return (self.path / "config.json").is_file()
        except OSError as error:  # a name that is too long, a folder of others
            raise UserError(f"{self.path} can't be looked at ({error.strerror}); choose another --workdir") from error

    def create(self) -> None:
        """Makes the folder; raises UserError where that can't be done."""
        if not self.writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"--workdir={self.path} can't be written ({error.strerror}); choose another") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from training here meanwhile; raises UserError if one does already."""
        if not self.writes:
            yield
            return
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.path} is being trained by another process; wait or stop that one") from error
            except OSError:
                pass  # a file system without locks
            yield

    def config(self) -> Config:
        """The run's resolved config; raises UserError where there is no run."""
        if not self.exists():
            raise UserError(
                f"{self.path} holds no run (no config.json); name the --workdir of one, or train there first"
            )
        content = self.read("config.json")
        data = content.get("data")
        if isinstance(data, dict) and data.get("pipeline") in _PIPELINES:
            content["data"] = data | {"pipeline": _PIPELINES[data["pipeline"]]}
        return from_mapping(Config, content)

    def same_config(self, config: Config) -> Config:
        """The run's config, with the places where `config` says that things lie now.

        Raises UserError with every difference between the two.
        """
        before = self.config()
        saved = to_dict(before)
        given = dataclasses.replace(config, model=with_sizes(config.model))
        now = to_dict(given)
        # What a config leaves open, the run has filled in.
        open_keys: tuple[tuple[str, str, Any], ...] = (
            ("data", "train", None),
            ("data", "validation", None),
            ("data", "test", None),
            ("data", "crop_pct", None),
            ("data", "interpolation", None),
            ("augment", "mean", []),
            ("augment", "std", []),
            ("model", "num_classes", None),
        )
        machine_keys = (("model", "dtype", "auto"), ("model", "attention", "auto"), ("train", "accumulate", None))
        for group, key, unset in (*open_keys, *machine_keys):
            if now[group][key] == unset:
                now[group][key] = saved[group][key]
        if _is_commit_of(before.init_from, config.init_from):
            now["init_from"] = saved["init_from"]
        teacher = _teacher_of_both(before.train.distill, config.train.distill)
        if teacher is not None:  # its place; its numbers are compared when they are read
            now["train"]["distill"]["teacher"] = saved["train"]["distill"]["teacher"]
        for group, key in _PLACES:
            now[group][key] = saved[group][key] = None
        lines = difference(saved, now)
        if lines:
            title = f"{self.path} holds a run with another config; give the same one or choose another --workdir:"
            is_longer = saved["train"]["length"] != now["train"]["length"] and (self.path / "checkpoints").is_dir()
            raise UserError(
                "\n".join([title, *(f"  {line}" for line in lines), *([self.longer()] if is_longer else [])])
            )
        return dataclasses.replace(
            before,
            data=dataclasses.replace(before.data, dir=config.data.dir, cache_dir=config.data.cache_dir),
            model=dataclasses.replace(before.model, scan=config.model.scan),
            log=dataclasses.replace(before.log, tracker=config.log.tracker),
            train=dataclasses.replace(
                before.train,
                mesh=config.train.mesh,
                split_rules=config.train.split_rules,
                distill=dataclasses.replace(before.train.distill, teacher=teacher),
            ),
        )

    def longer(self) -> str:
        """How to go on beyond a run's end: its learning rate has followed its length, which thus can't change."""
        return f"To train its weights for longer, choose another --workdir and add --config.init_from={self.path}"

    def data_sha256(self) -> str:
        """That of the data set that the run was trained on; "" where it isn't known."""
        return self.read("data.json").get("sha256", "") if (self.path / "data.json").exists() else ""

    def check_data(self, dataset: DataSet) -> None:
        """Raises UserError if the run knows its data and these are others."""
        if not self.exists() or not (self.path / "data.json").exists():
            return
        known, now = self.read("data.json"), _description(dataset)
        # Runs from before a key was born don't have it.
        lines = difference(known, {key: value for key, value in now.items() if key in known}, "data")
        if lines:
            title = f"{self.path} was trained on other data; bring those back or choose another --workdir:"
            raise UserError("\n".join([title, *(f"  {line}" for line in lines)]))

    def describe(self, config: Config, dataset: DataSet) -> None:
        """Writes what rebuilding the run needs: the resolved config and the data set's classes and sizes."""
        self.write("data.json", _description(dataset))
        self.write("config.json", to_dict(config))

    def read(self, name: str) -> dict[str, Any]:
        """The content of a JSON file; raises UserError for one that is missing or damaged."""
        try:
            content = json.loads((self.path / name).read_text())
            if not isinstance(content, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path / name} can't be read ({error}); bring it back from a copy, or choose another --workdir"
            ) from error
        return content

    def write(self, name: str, content: Any) -> None:
        """Writes a JSON file whole or not at all; raises RunError where that can't be done."""
        if not self.writes:
            return
        try:
            write_whole(self.path / name, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise RunError(f"{self.path / name} can't be written ({error.strerror}); make room or mend that") from error


def _teacher_of_both(before: DistillConfig, now: DistillConfig) -> str | None:
    """Where the teacher of a run that goes on lies now; None where only one of the two has any."""
    if before.teacher is None or now.teacher is None:
        return None
    return before.teacher if _is_commit_of(before.teacher, now.teacher) else now.teacher


def _is_commit_of(pinned: str | None, named: str | None) -> bool:
    """Whether weights of the Hub, hf://OWNER/NAME@COMMIT, are those of a name with a branch, a tag or nothing."""
    (before, commit), (now, revision) = ((text or "").partition("@")[::2] for text in (pinned, named))
    is_commit = re.fullmatch("[0-9a-f]{7,40}", revision) is not None
    return bool(commit) and before == now and (not is_commit or commit.startswith(revision))


def _description(dataset: DataSet) -> dict[str, Any]:
    sizes = {split: len(examples.labels) for split, examples in dataset.splits.items()}
    stored = next(iter(dataset.splits.values())).images.shape[1:3]
    return {
        "name": dataset.name,
        "classes": list(dataset.classes),
        "examples": sizes,
        "image_size": list(map(int, stored)),  # as stored, height and width; the model's own is in config.json
        "crop_pct": dataset.view.crop_pct if dataset.view else 1.0,  # of all the originals, in the middle
        "sha256": dataset.sha256,
    }


def with_sizes(model: ModelConfig) -> ModelConfig:
    """The model with its variant's sizes filled in, its class count left as it is."""
    return dataclasses.replace(resolve(model, num_classes=model.num_classes or 1), num_classes=model.num_classes)

"""The folder of an export: it appears whole or not at all."""

import contextlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vit_jax
from vit_jax.errors import UserError
from vit_jax.export.programs import WRITERS, write_program
from vit_jax.export.weights import write_weights
from vit_jax.runs import trained
from vit_jax.runs.trained import Trained
from vit_jax.system.disk import expanded
from vit_jax.system.progress import doing, say

# What of a folder says that it is an export, which a new one may take the place of.
_DESCRIPTION = "model.json"


def export(workdir: str, checkpoint: str | None, format: str, output: str | None) -> Path:
    """Writes the model of a run's checkpoint into the folder `output`, by default `workdir`/export/`format`.

    Gives the folder. Raises UserError for a run or checkpoint that can't be used, a folder that holds anything but an
    earlier export, and a library that isn't installed; RunError for a program that can't be made or gives other logits.
    """
    model = trained.load(workdir, checkpoint)
    folder = expanded(output).resolve() if output else model.run.path / "export" / format
    with _appearing(folder, format) as unfinished:
        if format in WRITERS:
            with doing(f"Writing and checking {format}"):
                written = write_program(model, format, unfinished)
        else:
            written = write_weights(model, format, unfinished)
        description = _describe(model, format) | written | {"files": sorted(_files(unfinished))}
        (unfinished / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    say(
        f"Checkpoint {model.step} of {model.run.path} as {format}; loaded again by "
        f"{' and by '.join(written['loaded_by'])}, its logits differ by up to {written['largest_difference']:.2g}"
    )
    say(f"In {folder}: {', '.join(sorted(entry.name for entry in folder.iterdir()))}")
    return folder


def _describe(model: Trained, format: str) -> dict[str, Any]:
    return {
        "format": format,
        "made_by": f"vit_jax {vit_jax.__version__}",
        "checkpoint": model.step,
        "classes": list(model.classes),
    }


@contextlib.contextmanager
def _appearing(folder: Path, format: str) -> Iterator[Path]:
    """Within, another folder beside is filled; only when all went well, it takes the name and place of `folder`.

    Raises UserError where `folder` holds anything but an earlier export of this format, and where the one beside can't
    be made.
    """
    if folder.exists() and not _may_go(folder, format):
        raise UserError(
            f"{folder} is there already and holds other things than an export as {format}; choose another --output, or "
            "remove it"
        )
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}); choose another --output") from error
    try:
        yield unfinished
        aside = folder.with_name(f"{unfinished.name}.before")
        if folder.exists():
            folder.rename(aside)
        unfinished.rename(folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _may_go(folder: Path, format: str) -> bool:
    """Whether a folder is empty, or an earlier export of a format to which nothing was added."""
    if not folder.is_dir():
        return False
    there = _files(folder)
    try:
        known = json.loads((folder / _DESCRIPTION).read_text())
        return known["format"] == format and there <= {*known["files"], _DESCRIPTION}
    except (OSError, ValueError, KeyError, TypeError):
        return not there


def _files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir()}

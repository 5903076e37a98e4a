"""The folder of an export: it appears whole or not at all."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vit_jax
from vit_jax import trained
from vit_jax.errors import UserError
from vit_jax.export.programs import WRITERS, write_program
from vit_jax.progress import doing, say
from vit_jax.trained import Trained

# What of a folder says that it is an export, which a new one may take the place of.
_DESCRIPTION = "model.json"


def export(workdir: str, checkpoint: str | None, format: str, output: str | None) -> Path:
    """Writes the model of a run's checkpoint into the folder `output`, by default `workdir`/export/`format`.

    Gives the folder. Raises UserError for a run or checkpoint that can't be used, a folder that holds anything but an
    earlier export, and a library that isn't installed; RunError for a program that can't be made or gives other logits.
    """
    model = trained.load(workdir, checkpoint)
    folder = Path(output).expanduser().absolute() if output else model.run.path / "export" / format
    with _appearing(folder) as unfinished:
        if format in WRITERS:
            with doing(f"Writing and checking {format}"):
                written = write_program(model, format, unfinished)
        else:
            from vit_jax.pretrained import write_weights

            written = write_weights(model, format, unfinished)
        (unfinished / _DESCRIPTION).write_text(json.dumps(_describe(model, format) | written, indent=2) + "\n")
    difference = f"loaded again, its logits differ by up to {written['largest_difference']:.2g}"
    say(f"Checkpoint {model.step} of {model.run.path} as {format}; {difference}")
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
def _appearing(folder: Path) -> Iterator[Path]:
    """Within, another folder beside is filled; only when all went well, it takes the name and place of `folder`.

    Raises UserError where `folder` holds anything but an earlier export, or the one beside can't be made.
    """
    if folder.exists() and not _is_export(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and is no export of a run; choose another --output, or remove it")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of an export that was killed
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}); choose another --output") from error
    try:
        yield unfinished
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _is_export(folder: Path) -> bool:
    try:
        return json.loads((folder / _DESCRIPTION).read_text())["made_by"].startswith("vit_jax ")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False

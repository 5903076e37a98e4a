"""Puts the page together and writes it."""

import time
from collections.abc import Sequence
from pathlib import Path

from vit_jax.errors import UserError
from vit_jax.page import configs, curves, html, inside, results
from vit_jax.page.html import Section, paragraph
from vit_jax.page.runs import Entry, read_all
from vit_jax.system.disk import expanded, write_whole
from vit_jax.system.progress import say


def write(workdirs: Sequence[str], output: str | None) -> Path:
    """Writes the page about the runs in these folders to `output`, by default report.html in the first; gives its path.

    A folder holds a run, finished or not, or those of several seeds. Raises UserError for a folder without a run, for
    one that is damaged, and for a place that can't be written.
    """
    started, entries = time.monotonic(), read_all(workdirs)
    path = expanded(output or entries[0].folder.path / "report.html").absolute()
    if not path.parent.is_dir():  # told before minutes are spent
        raise UserError(f"--output={path}: there is no folder {path.parent}; make it, or name another")
    if path.is_dir() or (path.exists() and not path.read_bytes()[:15].lower().startswith(b"<!doctype html>")):
        raise UserError(f"--output={path} is there already and is no page; name another file")
    text = page_of(entries)
    try:
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}); name another file with --output") from error
    say(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, written in {time.monotonic() - started:.0f} s")
    return path


def page_of(entries: Sequence[Entry]) -> str:
    """The HTML document."""
    runs = [run for entry in entries for run in entry.runs]
    sections: list[Section] = [
        results.section(entries),
        curves.section(entries),
        configs.section(entries),
        *(inside.section(i, entry) for i, entry in enumerate(entries)),
        configs.environment(entries),
    ]
    data = ", ".join(dict.fromkeys(f"{run.config.data.name} ({len(run.classes)} classes)" for run in runs))
    lead = paragraph(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of vit_jax on {data}.")
    title = ", ".join(entry.name for entry in entries) if len(entries) < 4 else f"{len(entries)} folders of runs"
    return html.page(f"Report: {title}", lead, sections)

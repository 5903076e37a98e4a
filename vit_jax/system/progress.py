"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere, and tables."""

import contextlib
import html
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Who read the output (a pager, tee) is gone, by the same Ctrl-C perhaps: the run isn't, and has to save.
        self.quiet = True


# :100: may be a part of a name. In a notebook lines are printed as anywhere else; rich would make each an output.
console = _Console(highlight=False, soft_wrap=True, emoji=False, force_jupyter=False)


def in_notebook() -> bool:
    """Whether what is displayed shows in a notebook's cell."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def say(text: str) -> None:
    """Prints a line, above the bar if one is shown."""
    console.print(text, markup=False)


def say_table(title: str, rows: Iterable[tuple[str, ...]], header: tuple[str, ...] = ()) -> None:
    """Prints a small table: of names and figures or, with a header, of as many columns as that has.

    Where the terminal is too narrow for it, it does without lines; then cells are wrapped, and nothing is cut.
    """
    table = Table(title=title, title_justify="left", show_header=bool(header))
    for i, name in enumerate(header or ("", "")):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if console.measure(table, options=console.options.update(width=10_000)).maximum > console.width:
        table.box, table.pad_edge, table.padding = None, False, (0, 1, 0, 0)
    console.print(table)


def room() -> int | None:
    """Columns that a line may have: those of the terminal or of $COLUMNS; None where it goes to a file or a program."""
    return console.width if console.is_terminal or os.environ.get("COLUMNS") else None


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


@contextlib.contextmanager
def doing(what: str, first: float = 5.0, every: float = 20.0) -> Iterator[None]:
    """Says after `first` seconds and then `every` so many, until it is done, that it is still being done."""
    done, started = threading.Event(), time.monotonic()

    def tell() -> None:
        wait = first
        while not done.wait(wait):
            wait = every
            say(f"{what}: {time.monotonic() - started:.0f} s so far")

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()


class TrainingBar:
    """How far a run is, with loss, accuracy, images/s and the time left.

    On a terminal a live bar, in a notebook one in the cell; elsewhere (a log file, a batch job) a line at least every
    `quiet` seconds.
    """

    def __init__(self, total: int, progress: float, step: int, by_clock: bool, quiet: float = 20.0):
        """`progress` is where the run stands, from 0 to `total`; `by_clock`: that is no number of steps."""
        self._total, self._quiet, self._by_clock = total, quiet, by_clock
        self._started, self._first, self._shown = time.monotonic(), progress, time.monotonic()
        self._cell = _Cell(total) if in_notebook() and not console.quiet else None
        self._live = console.is_terminal or self._cell is not None
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[where]}"),
            TextColumn("{task.fields[figures]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=True,
            disable=self._cell is not None or not console.is_terminal,
        )
        self._where = self._said(step, progress)
        # Fractions do as well, whatever its annotation says.
        self._task = self._bar.add_task("", total=total, completed=progress, figures="", where=self._where)  # type: ignore[arg-type]
        self._bar.start()
        self._closed = threading.Event()
        if not self._live:
            threading.Thread(target=self._tell, daemon=True).start()

    def _said(self, step: int, progress: float) -> str:
        return f"{step}, {100 * progress / self._total:.0f} %" if self._by_clock else f"{step}/{self._total}"

    def _tell(self) -> None:
        """Says where training is when no step has ended for long."""
        while not self._closed.wait(self._quiet / 10):
            if time.monotonic() - self._shown > 1.25 * self._quiet:
                self._shown = time.monotonic()
                say(f"  step {self._where} done, the next is under way")

    def wants_figures(self) -> bool:
        """Whether new figures would be shown now: reading them from the device costs a little."""
        return time.monotonic() - self._shown > (0.2 if self._live else self._quiet)

    def update(self, step: int, progress: float, loss: float, top1: float, images_per_second: float) -> None:
        self._where = self._said(step, progress)
        if not self.wants_figures():
            return
        self._shown = time.monotonic()
        figures = f"loss {loss:.3f}  top-1 {percent(top1)}  {images_per_second:,.0f} images/s"
        self._bar.update(self._task, completed=progress, figures=figures, where=self._where)
        left = (self._shown - self._started) / max(progress - self._first, 1e-9) * (self._total - progress)
        text = f"step {self._where}  {figures}  ETA {duration(left)}"
        if self._cell:
            self._cell.draw(progress, text)
        elif not self._live:
            say(f"  {text}")

    def close(self) -> None:
        self._closed.set()
        self._bar.stop()
        if self._cell:
            self._cell.clear()


class _Cell:
    """A bar in a notebook's cell."""

    def __init__(self, total: float):
        from IPython.display import HTML, display

        self._total, self._html = total, HTML
        self._handle = display(HTML(""), display_id=True)

    def draw(self, progress: float, text: str) -> None:
        bar = f"<progress style='width:20em' max='{self._total}' value='{progress:.2f}'></progress>"
        self._handle.update(self._html(f"{bar} <code>{html.escape(text)}</code>"))

    def clear(self) -> None:
        self._handle.update(self._html(""))


def duration(seconds: float) -> str:
    """95 -> "1:35"; 3725 -> "1:02:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""The table for people: trial.md, written anew at the end of each call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trial.record import Record
from trial.runner import Part


def write(path: Path, parts: Sequence[Part], record: Record) -> str:
    """Writes what was found, part by part, and what was not reached; gives the text, too."""
    calls = [e for e in record.events if e["event"] == "call"]
    lines = ["# A trial on an accelerator", ""]
    lines += [f"Call {i}: {_facts(e)}" for i, e in enumerate(calls, 1)]
    missing = []
    for part in parts:
        status = record.status(part.name)
        if status is None:
            missing.append(f"- {part.name}: {part.title}" + ("" if part.ready() else f" (waits for {part.waits_for})"))
            continue
        ends = record.of(part.name, "end")
        last = ends[-1] if ends and ends[-1]["status"] == status else {}
        said = " ".join(str(last[key]) for key in ("why",) if last.get(key))
        seconds = f" in {last['seconds']:g} s" if last else ""
        lines += ["", f"## {part.name}: {part.title}", "", f"{status}{seconds} {said}".rstrip()]
        rows = record.rows(part.name)
        lines += ["", *table(rows)] if rows else []
    lines += ["", "## Not reached", "", *(missing or ["Nothing: all parts were begun."])]
    text = "\n".join(lines) + "\n"
    path.write_text(text)
    return text


def write_tails(path: Path, logs: Path, characters: int = 4000) -> None:
    """Puts the ends of all logs into one file: few files come back from the machine."""
    tails = [f"=== {log.stem}\n{log.read_text(errors='replace')[-characters:]}\n" for log in sorted(logs.glob("*.log"))]
    path.write_text("".join(tails))


def _facts(event: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in event.items() if k not in ("event", "part") and v not in (None, False))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of a Markdown table; columns in the order in which the rows first name them."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_text(row.get(column)) for column in columns] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")

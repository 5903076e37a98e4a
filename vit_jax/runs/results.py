"""What training and evaluation find, as a dictionary that shows itself as a table."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax.system.progress import duration, percent

Row = tuple[str, str]


class Results(dict[str, Any]):
    """A dictionary, by the names of results.json, accuracies as fractions; printed, and in a notebook, a table."""

    def __init__(self, figures: Mapping[str, Any], title: str, rows: Sequence[Row]):
        super().__init__(figures)
        self._title, self._rows = title, tuple(rows)

    def __repr__(self) -> str:
        width = max((len(name) for name, _ in self._rows), default=0)
        return "\n".join([self._title, *(f"  {name:{width}}  {text}" for name, text in self._rows)])

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in self._rows
        )
        return f"<table><caption>{html.escape(self._title)}</caption>{cells}</table>"


def of_test(results: Mapping[str, Any]) -> Results:
    """The content of results.json."""
    return Results(results, f"{results['dataset']}, {results['split']}", rows_of(results))


def of_validation(row: Mapping[str, Any] | None) -> Results:
    """A row of metrics.jsonl, of a run that has no test split; None of one without any evaluation."""
    if row is None:
        return Results({}, "Neither validated nor tested", [])
    names = {"top1": "top-1", "top5": "top-5"}
    figures = [(name, percent(row[key])) for key, name in names.items()]
    return Results(row, f"{row['split']} after step {row['step']}", [*figures, ("loss", f"{row['loss']:.4f}")])


def rows_of(results: Mapping[str, Any]) -> list[Row]:
    """Names and texts of the figures of a test that matter most.

    Those that give each class the same weight are among them where balanced accuracy isn't top-1: where classes have
    different numbers of images.
    """
    rate = results["images_per_second"]
    balanced = results.get("balanced_accuracy", results["top1"])  # earlier versions wrote none
    unequal = not math.isclose(balanced, results["top1"], rel_tol=1e-9)
    return [
        ("top-1", percent(results["top1"])),
        ("top-5", percent(results["top5"])),
        *([("top-1, with flips", percent(results["top1_flips"]))] if "top1_flips" in results else []),
        *([("balanced accuracy", percent(balanced)), ("macro F1", percent(results["macro_f1"]))] if unequal else []),
        ("loss", "not finite" if results["loss"] is None else f"{results['loss']:.4f}"),
        ("images", f"{results['num_examples']:,}"),
        ("checkpoint", f"step {results['checkpoint']} of {results['steps']}, {results['selected']}"),
        ("parameters", f"{results['params']:,}{', averaged' if results.get('tested_params') == 'ema' else ''}"),
        ("training", f"{results['epochs']:.1f} epochs, {duration(results['wall_seconds'])} with all else"),
        ("speed", f"{rate:,.0f} images/s" if rate else "not measured"),
        *([("MFU", percent(results["mfu"]))] if results.get("mfu") else []),
    ]

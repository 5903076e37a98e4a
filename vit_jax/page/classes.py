"""Which classes are taken for which: the confusion matrix and a table of the classes. C classes."""

import numpy as np

from vit_jax.page.html import Html, Section, element, join, paragraph, scrolling, table
from vit_jax.page.results import wilson
from vit_jax.runs.scores import scores_of
from vit_jax.system.progress import percent

_MOST_CLASSES = 50  # of a matrix that can be read; of more, the most frequent mistakes
_PAIRS = 20


def sections(prefix: str, matrix: np.ndarray, classes: tuple[str, ...], images: str) -> list[Section]:
    """Two, from a matrix (C, C) int, rows true, columns predicted, of `images` ("10,000 images of test")."""
    readable = len(classes) <= _MOST_CLASSES
    body = _matrix(matrix, classes, images) if readable else _pairs(matrix, classes, images)
    return [
        Section(f"{prefix}-confusion", "Confusion matrix" if readable else "Most frequent mistakes", body),
        Section(f"{prefix}-classes", "Classes", _classes(matrix, classes, images)),
    ]


def most_confused(matrix: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, images) of the mistakes in a matrix (C, C), the most frequent first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [(int(i) // len(matrix), int(i) % len(matrix)) for i in order]
    return [(true, other, int(wrong[true, other])) for true, other in pairs if wrong[true, other]]


def _matrix(matrix: np.ndarray, classes: tuple[str, ...], images: str) -> Html:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # (C, C) of the row's class
    worst = max((shares - np.diag(np.diag(shares))).max(), 1e-9)

    def cell(row: int, column: int) -> Html:
        number, share = int(matrix[row, column]), shares[row, column]
        right = row == column
        told = f"{classes[row]}, taken for {classes[column]}: {number:,}, {percent(share)} of the class"
        style = f"--share: {share if right else share / worst:.3f}"
        text = f"{number:,}" if number else ""
        return element("td", text, class_="right" if right else "wrong", style=style, title=told)

    rows = [
        element("tr", element("th", name, scope="row"), *(cell(i, j) for j in range(len(classes))))
        for i, name in enumerate(classes)
    ]
    # Along the columns, unless all are short.
    names = classes if max(map(len, classes)) <= 3 else [element("span", name) for name in classes]
    heading = element("thead", element("tr", element("td"), *(element("th", name, scope="col") for name in names)))
    caption = (
        f"{images}: rows are the true classes, columns the predicted ones. Right answers are blue by their share of "
        f"the class, mistakes red by theirs, the strongest {percent(worst)}."
    )
    return scrolling(element("table", heading, element("tbody", *rows), class_="confusion"), caption)


def _name(name: str) -> Html:
    """A class as a row's heading: as wide as it is, up to some width."""
    return element("span", name, class_="class")


def _pairs(matrix: np.ndarray, classes: tuple[str, ...], images: str) -> Html:
    totals = np.maximum(matrix.sum(axis=1), 1)
    rows = [
        [_name(classes[true]), classes[other], f"{number:,}", percent(number / totals[true])]
        for true, other, number in most_confused(matrix, _PAIRS)
    ]
    return table(f"{images}.", ["true", "predicted", "images", "of the class"], rows, "figures")


def _classes(matrix: np.ndarray, classes: tuple[str, ...], images: str) -> Html:
    rows, scores = [], scores_of(matrix)
    for i, name in enumerate(classes):
        precision, f1 = (_share(values[i]) for values in (scores.precision, scores.f1))
        total, right = int(matrix[i].sum()), int(matrix[i, i])
        others = np.where(np.arange(len(classes)) == i, 0, matrix[i])
        mistake = int(np.argmax(others))
        if not total:
            rows.append([_name(name), "-", "-", precision, f1, "0", "-"])
            continue
        low, high = wilson(right / total, total)
        bar = element("span", class_="bar", style=f"--share: {right / total:.4f}")
        most = f"{classes[mistake]}, {percent(others[mistake] / total)}" if others[mistake] else "none"
        rows.append([
            _name(name),
            join([bar, percent(right / total)]),
            f"{100 * low:.1f} to {100 * high:.1f} %",
            precision,
            f1,
            f"{total:,}",
            most,
        ])  # fmt: skip
    head = ["class", "recall", "its 95 % interval", "precision", "F1", "images", "most frequent mistake"]
    body = table(f"{images}.", head, rows, "figures tall" if len(classes) > 20 else "figures")
    said = (
        "Recall is the share of a class' images that were taken for it, precision the share of the images taken for it "
        "that are of it, F1 their harmonic mean. Intervals are Wilson's, of each class alone."
    )
    return join([body, paragraph(said, kind="note")])


def _share(value: float) -> str:
    return "-" if np.isnan(value) else percent(float(value))

"""What a confusion matrix (C, C), rows true, columns predicted, says of its classes; as scikit-learn defines it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Each (C,) float64, NaN for a class of which it says nothing."""

    recall: np.ndarray  # share of the class' images that were taken for it; NaN: it has no images
    precision: np.ndarray  # share of the images taken for the class that are of it; NaN: there are none
    f1: np.ndarray  # harmonic mean of both, 0 where one of them is 0 or NaN; NaN: neither images nor predictions

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have images."""
        return float(np.nanmean(self.recall))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that have images or predictions: f1_score(average="macro", zero_division=0)."""
        return float(np.nanmean(self.f1))


def scores_of(matrix: np.ndarray) -> Scores:
    """The scores of the classes of a matrix (C, C) int that isn't all 0."""
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)  # (C,) each

    def share(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)

    return Scores(share(true, right), share(predicted, right), share(true + predicted, 2 * right))


def by_name(values: np.ndarray, classes: list[str]) -> dict[str, float | None]:
    """A score (C,) of each class; None for NaN, which JSON doesn't have."""
    return {name: None if np.isnan(x) else float(x) for name, x in zip(classes, values, strict=True)}

"""When a run has waited long enough for a better validation top-1 (config.train.patience)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """Part of every checkpoint's meta.json: a run that goes on ends at the step at which it would have ended."""

    best: float = -1.0  # validation top-1 so far, of the parameters that the config selects by
    validations: int = 0  # in a row since then, none of them better

    def after(self, top1: float) -> "Waiting":
        """After one more validation; of equals the first is the better, so that a constant model ends too."""
        return Waiting(top1, 0) if top1 > self.best else Waiting(self.best, self.validations + 1)

    def over(self, patience: int | None) -> bool:
        return patience is not None and self.validations >= patience

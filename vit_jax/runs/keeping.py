"""Which checkpoints stay: by their steps and scores alone."""

import math

from vit_jax.config import CheckpointConfig


def ranked(scores: dict[int, dict[str, float] | None]) -> list[int]:
    """Steps with finite scores, the best validation top-1 first; of equals, the later."""
    finite = {step: found for step, found in scores.items() if found and all(map(math.isfinite, found.values()))}
    return sorted(finite, key=lambda step: (finite[step]["top1"], step), reverse=True)


def kept(scores: dict[int, dict[str, float] | None], cfg: CheckpointConfig) -> set[int]:
    """Which of these steps stay: the latest and, apart from them, the best."""
    return set(sorted(scores)[-cfg.keep_latest :]) | set(ranked(scores)[: cfg.keep_best])

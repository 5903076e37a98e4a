"""The check that a model and its optimizer can learn at all (config.train.overfit_one_batch): what came of it."""

from collections.abc import Callable

from vit_jax.data.pipeline import indices_at
from vit_jax.evaluation.logits import score
from vit_jax.steps.state import TrainState
from vit_jax.system.progress import doing, percent, say
from vit_jax.training.prepare import Job


def say_learned(job: Job, state: TrainState, check: Callable[[], None]) -> None:
    """Says loss and top-1 of the batch that every step took and, where it isn't learned, what to look at.

    `check` is called before each batch of the evaluation and may raise.
    """
    config, (images, labels) = job.config, job.splits.train
    index = indices_at(config.seed, 0, len(labels), config.train.batch_size)  # (B,)
    with doing("Testing the first batch"):
        found = score(job.evaluator.logits(state.params, images[index], check), labels[index])
    say(f"The first batch of {len(index):,} images: loss {found['loss']:.4f}, top-1 {percent(found['top1'])}")
    if found["top1"] < 1:
        say(
            "Warning: the model hasn't learned this one batch. A rate too low or too high "
            f"(config.optim.learning_rate={config.optim.learning_rate:g}), too few steps "
            f"(config.train.length={config.train.length!r}), images that are the same but have different labels, "
            f"initial values (config.model.init={config.model.init!r}) or frozen parts (config.optim.rate_rules) can "
            "be why; look at the loss in metrics.jsonl: does it stay, fall slowly, or jump?"
        )

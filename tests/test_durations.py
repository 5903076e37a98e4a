import pytest

from vit_jax import durations
from vit_jax.errors import UserError

CIFAR = {"num_examples": 45_000, "batch_size": 256}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("10 epochs", 1758),  # as many as the article's 10 x 176 less what epochs share
        ("1epoch", 176),
        ("0.1 epochs", 18),
        ("45000 examples", 176),
        ("256 examples", 1),
        ("5 %", 50),
        ("5.5%", 55),
    ],
)
def test_lengths_in_any_unit(text, steps):
    assert durations.to_steps(text, "key", total_steps=1000, **CIFAR) == steps


@pytest.mark.parametrize("text", ["10", "ten epochs", "-5 steps", "10 epoch s", "", "5 minutes"])
def test_what_is_no_length_is_refused_with_an_example(text):
    with pytest.raises(UserError, match=r'config\.x=.*"10 epochs"'):
        durations.parse(text, "config.x")


@pytest.mark.parametrize("percent", range(1, 101))
def test_percentages_are_exact(percent):
    assert durations.to_steps(f"{percent} %", "key", total_steps=100, **CIFAR) == percent


def test_milestones_end_each_epoch_and_the_run():
    due = durations.milestones("1 epoch", "key", total_steps=1758, **CIFAR)
    assert len(due) == 10 and max(due) == 1758
    # Each is the first step at which k epochs of examples have been seen.
    assert all((step - 1) * 256 < k * 45_000 <= step * 256 for k, step in enumerate(sorted(due), start=1))


def test_no_milestones_but_the_end():
    assert durations.milestones("0 steps", "key", total_steps=7, **CIFAR) == {7}


def test_milestones_shorter_than_a_step_fall_on_every_step():
    assert durations.milestones("10 examples", "key", total_steps=3, **CIFAR) == {1, 2, 3}

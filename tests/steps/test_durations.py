import pytest

from vit_jax.errors import UserError
from vit_jax.steps import durations
from vit_jax.steps.plan import Plan, due_of

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


def steps_due(every, plan, **sizes):
    due = due_of(every, "key", plan=plan, **(CIFAR | sizes))
    return [step for step in range(plan.total + 1) if step in due]


def test_what_is_due_every_epoch_ends_each_epoch_and_the_run():
    due = steps_due("1 epoch", Plan(1758, None))
    assert len(due) == 10 and due[-1] == 1758
    # Each is the first step at which k epochs of examples have been seen.
    assert all((step - 1) * 256 < k * 45_000 <= step * 256 for k, step in enumerate(due, start=1))


@pytest.mark.parametrize(
    ("every", "due"),
    [("0 steps", [7]), ("10 examples", [1, 2, 3, 4, 5, 6, 7]), ("3 steps", [3, 6, 7]), ("50 %", [4, 7])],
)
def test_what_is_due_every_so_often(every, due):
    assert steps_due(every, Plan(7, None)) == due


def test_a_run_by_the_clock_has_no_last_step_beforehand():
    assert steps_due("400 steps", Plan(1000, seconds=60.0)) == [400, 800]
    assert steps_due("0 steps", Plan(1000, seconds=60.0)) == []

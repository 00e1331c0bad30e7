"""Schedules against tables written out by hand from the released code's behaviour."""

import math

import pytest

from harness.config import InnerAttackConfig, OptimizerConfig
from harness.training.schedules import InnerSchedule, inner_schedule, learning_rate, momentum

EPS = 8 / 255
LENGTHS = (1, 3, 29, 57, 113, 200, 201)


@pytest.mark.parametrize("epochs", LENGTHS)
@pytest.mark.parametrize("ramp", ["none", "linear"])
@pytest.mark.parametrize("rule", ["fixed", "five-halves", "two-full", "staged"])
def test_inner_schedule_table_of_every_rule_ramp_and_length(
    rule: str, ramp: str, epochs: int
) -> None:
    config = InnerAttackConfig(eps=EPS, ramp=ramp, step_rule=rule, steps=7, step_size=0.003)
    for epoch in range(1, epochs + 1):
        eps = EPS * epoch / epochs if ramp == "linear" else EPS
        # The last epoch of the first, second, third quarter still belongs to it.
        quarters_over = sum(4 * epoch > k * epochs for k in (1, 2, 3))
        steps, size = {
            "fixed": (7, 0.003),
            "five-halves": (5, eps / 2),
            "two-full": (2, eps),
            "staged": [(2, eps), (3, 2 * eps / 3), (4, eps / 2), (5, eps / 2)][quarters_over],
        }[rule]
        found = inner_schedule(config, epoch, epochs)
        assert found.steps == steps
        assert (found.eps, found.step_size) == pytest.approx((eps, size), rel=1e-12)


@pytest.mark.parametrize("epochs", LENGTHS)
@pytest.mark.parametrize("schedule", ["constant", "cosine", "cosine-inclusive", "steps"])
def test_learning_rate_table_of_every_schedule_and_length(schedule: str, epochs: int) -> None:
    """One-cycle rates are compared with torch's own in test_optimizer."""
    config = OptimizerConfig(lr=0.2, schedule=schedule, milestones=(2, 50, 150), gamma=0.2)
    expected = {
        "constant": lambda e: 0.2,
        "cosine": lambda e: 0.2 * math.cos(math.pi * (e - 1) / (2 * epochs)) ** 2,
        "cosine-inclusive": lambda e: 0.2 * math.cos(math.pi * e / (2 * (epochs + 1))) ** 2,
        "steps": lambda e: 0.2 * 0.2 ** ((e > 2) + (e > 50) + (e > 150)),
    }[schedule]
    for epoch in range(1, epochs + 1):
        assert learning_rate(config, epoch, epochs) == pytest.approx(expected(epoch), rel=1e-9)
        assert momentum(config, epoch, epochs) == 0.9


@pytest.mark.parametrize("epochs", [29, 200])
def test_released_ramp_takes_five_steps_of_half_the_radius_in_every_epoch(epochs: int) -> None:
    config = InnerAttackConfig(eps=EPS, ramp="linear", step_rule="five-halves")
    for epoch in range(1, epochs + 1):
        eps = EPS * epoch / epochs
        assert inner_schedule(config, epoch, epochs) == InnerSchedule(eps, eps / 2, 5)
    assert inner_schedule(config, epochs, epochs).eps == EPS


@pytest.mark.parametrize(
    ("epoch", "steps", "fraction"),
    [
        (1, 2, 1.0),
        (50, 2, 1.0),
        (51, 3, 2 / 3),
        (100, 3, 2 / 3),
        (101, 4, 0.5),
        (151, 5, 0.5),
        (200, 5, 0.5),
    ],
)
def test_staged_rule_over_200_epochs(epoch: int, steps: int, fraction: float) -> None:
    schedule = inner_schedule(InnerAttackConfig(eps=EPS, step_rule="staged"), epoch, 200)
    assert (schedule.steps, schedule.step_size) == (steps, fraction * EPS)


@pytest.mark.parametrize("epochs", [1, 2, 3, 29, 57, 113, 201])
def test_staged_rule_is_defined_in_every_epoch_of_any_length(epochs: int) -> None:
    config = InnerAttackConfig(eps=EPS, step_rule="staged")
    counts = [inner_schedule(config, epoch, epochs).steps for epoch in range(1, epochs + 1)]
    assert counts == sorted(counts)
    assert counts[-1] == 5


def test_fixed_and_two_step_rules() -> None:
    fixed = InnerAttackConfig(eps="8/255", step_size="2/255", steps=10)
    assert inner_schedule(fixed, 3, 9) == InnerSchedule(8 / 255, 2 / 255, 10)
    two = InnerAttackConfig(eps=0.2, ramp="linear", step_rule="two-full")
    assert inner_schedule(two, 1, 4) == InnerSchedule(0.05, 0.05, 2)


def test_cosine_schedules_against_their_formulas() -> None:
    released = OptimizerConfig(lr=0.2, schedule="cosine-inclusive")
    plain = OptimizerConfig(lr=0.2, schedule="cosine")
    for epoch in range(1, 201):
        assert learning_rate(released, epoch, 200) == pytest.approx(
            0.1 * (1 + math.cos(math.pi * epoch / 201)), rel=1e-12
        )
        assert learning_rate(plain, epoch, 200) == pytest.approx(
            0.1 * (1 + math.cos(math.pi * (epoch - 1) / 200)), rel=1e-12
        )


def test_step_schedule_decays_in_the_epoch_after_the_milestone() -> None:
    config = OptimizerConfig(lr=0.05, schedule="steps", milestones=(150, 180, 210))
    rates = [learning_rate(config, epoch, 240) for epoch in (1, 150, 151, 180, 181, 211, 240)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-5, 5e-5])


def test_warmup_scales_the_first_epochs() -> None:
    config = OptimizerConfig(lr=1.0, schedule="constant", warmup_epochs=4)
    rates = [learning_rate(config, epoch, 9) for epoch in range(1, 7)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])

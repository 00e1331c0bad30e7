"""Schedules against tables written by hand from the behaviour of the released code."""

import math

import pytest

from harness.config import InnerAttackConfig, OptimizerConfig
from harness.training.schedules import cycle_ends, inner_schedule, learning_rate, momentum

EPS = 8 / 255
LENGTHS = (1, 3, 29, 57, 113, 200, 201)


@pytest.mark.parametrize("epochs", LENGTHS)
@pytest.mark.parametrize("ramp", ["none", "linear"])
@pytest.mark.parametrize("rule", ["fixed", "five-halves", "two-full", "staged"])
def test_inner_schedule_table_of_every_rule_ramp_and_length(rule, ramp, epochs):
    config = InnerAttackConfig(eps=EPS, ramp=ramp, step_rule=rule, steps=7, step_size=0.003)
    for epoch in range(1, epochs + 1):
        eps = EPS * epoch / epochs if ramp == "linear" else EPS
        # The last epoch of each of the first three quarters still belongs to it.
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
def test_learning_rate_table_of_every_schedule_and_length(schedule, epochs):
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


def test_warmup_scales_the_first_epochs():
    config = OptimizerConfig(lr=1.0, schedule="constant", warmup_epochs=4)
    rates = [learning_rate(config, epoch, 9) for epoch in range(1, 7)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(
    ("epochs", "cycles", "ends"), [(240, 4, [60, 120, 180, 240]), (2, 4, [1, 2])]
)
def test_a_cosine_in_cycles_is_one_cosine_after_another(epochs, cycles, ends):
    """In a training run with fewer epochs than cycles, each epoch is a cycle."""
    assert cycle_ends(epochs, cycles) == ends
    config = OptimizerConfig(lr=0.2, cycles=cycles)
    rates = [learning_rate(config, epoch, epochs) for epoch in range(1, epochs + 1)]
    length = epochs // len(ends)
    plain = OptimizerConfig(lr=0.2)
    assert rates == [learning_rate(plain, epoch, length) for epoch in range(1, length + 1)] * len(
        ends
    )


def test_cycles_are_of_a_cosine_and_one_leaves_the_identity_as_it_was():
    with pytest.raises(ValueError, match="cycles need schedule cosine, not steps"):
        OptimizerConfig(schedule="steps", cycles=2)
    assert "cycles" not in OptimizerConfig().identity_payload()
    assert OptimizerConfig(cycles=2).identity_payload()["cycles"] == 2

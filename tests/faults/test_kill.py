"""kill -9 at random moments: the same command still gives the same result, nothing lost or doubled.

The moments are drawn from seeded generators over the phases of an undisturbed run.
"""

import pytest

from tests.faults.conftest import killed_until

PHASES = ["training", "evaluation", "storing"]


def told(kills: int, tally: object) -> None:
    print(f"\n{kills} kills: {tally}")


@pytest.mark.parametrize(
    "kills", [10, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_autoattack_killed_at_random_ends_with_the_same_verdicts(kills, nursery, whole, tmp_path):
    tally = killed_until(nursery, whole, tmp_path, kills, ["evaluation"], seed=3)
    told(kills, tally)
    assert tally.struck["evaluation"] >= kills // 2


@pytest.mark.parametrize(
    "kills", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_run_killed_at_random_ends_as_an_undisturbed_one(kills, nursery, whole, tmp_path):
    tally = killed_until(nursery, whole, tmp_path, kills, PHASES, seed=7)
    told(kills, tally)
    for phase in PHASES:
        assert tally.struck[phase] >= kills // 20, tally

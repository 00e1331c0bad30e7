"""A sanity check on digits: natural training is not robust, every adversarial method is.

Each method has its own digits recipe; all get full AutoAttack on the same test images.
"""

import pkgutil
from pathlib import Path

import pytest

import methods.adversarial
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.progress import Reporter
from harness.store.database import Database

ADVERSARIAL = sorted(
    module.name.replace("_", "-")
    for module in pkgutil.iter_modules(methods.adversarial.__path__)
    if not module.name.startswith("_")
)
IMAGES = 200

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder shared by the module, so that each method is trained once."""
    return tmp_path_factory.mktemp("ladder")


def robust(method: str, results: Path) -> tuple[float, float, float]:
    """AutoAttack accuracy at the default radius, with its 95% interval."""
    options = {
        "evaluation.limit": IMAGES,
        "training.monitor.every": 0,
        "device": "cpu",
        "results": results,
    }
    outcome = run(resolve(method, options=options), Reporter(quiet=True))
    rows = Database(results).query(
        "SELECT value, low, high FROM metrics "
        f"WHERE run_id = '{outcome.run_id}' AND name = 'robust'"
    )
    (row,) = rows.itertuples(index=False)
    return row.value, row.low, row.high


@pytest.mark.timeout(1800)
def test_natural_training_is_not_robust(results):
    assert robust("vanilla", results)[0] < 0.10


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ADVERSARIAL)
def test_adversarial_training_is_robust(method, results):
    assert robust(method, results)[0] >= 0.25


@pytest.mark.timeout(1800)
def test_dkl_and_kl_agree_within_their_intervals(results):
    (_, low, high), (_, other_low, other_high) = (robust(name, results) for name in ("kl", "dkl"))
    assert max(low, other_low) <= min(high, other_high)

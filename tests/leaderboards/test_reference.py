"""The reference runs in the repository can be imported, and are what their page says."""

import re
from pathlib import Path

import pytest

from harness.store.database import Database
from harness.store.exchange import import_

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PAGE = (REFERENCE / "README.md").read_text()
COLUMNS = ("clean", "apgd-ce", "apgd-t", "aa")


def test_the_page_tells_the_adversarial_runs_numbers(tmp_path: Path) -> None:
    merged = import_(tmp_path, REFERENCE / "cifar10-adversarial")
    assert len(merged.added) == 3
    rows = Database(tmp_path).query(
        "SELECT method, name, value, low, high, n FROM runs JOIN metrics USING (run_id)"
    )
    values = rows.set_index(["method", "name"])
    told = re.findall(r"^\| `(ikl|kl|trades)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert len(told) == 3
    for method, text in told:
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", text)]
        wanted = [round(100 * values.loc[(method, name), "value"], 2) for name in COLUMNS]
        robust = values.loc[(method, "aa")]
        wanted += [round(100 * robust[end], 1) for end in ("low", "high")]
        wanted.append(round(values.loc[(method, "sec_per_iter"), "value"], 3))
        assert numbers == pytest.approx(wanted, abs=1e-9)
        assert robust["n"] == 500

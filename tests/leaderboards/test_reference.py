"""The reference runs in the repository can be imported, and are what their page says."""

import re
import statistics
from pathlib import Path

import pytest

from harness.evaluation.statistics import welch
from harness.store.database import Database
from harness.store.exchange import import_

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PAGE = (REFERENCE / "README.md").read_text()


@pytest.mark.parametrize(
    ("folder", "title", "columns", "images"),
    [
        (
            "cifar10-adversarial",
            "## CIFAR-10, adversarial training\n",
            ("clean", "apgd-ce", "apgd-t", "aa"),
            500,
        ),
        (
            "cifar10-adversarial-cpu",
            "## CIFAR-10, adversarial training on a CPU\n",
            ("clean", "apgd-ce", "apgd-t"),
            2000,
        ),
    ],
)
def test_the_page_tells_the_adversarial_runs_numbers(
    folder: str, title: str, columns: tuple[str, ...], images: int, tmp_path: Path
) -> None:
    merged = import_(tmp_path, REFERENCE / folder)
    assert len(merged.added) == 3
    rows = Database(tmp_path).query(
        "SELECT method, name, value, low, high, n FROM runs JOIN metrics USING (run_id)"
    )
    values = rows.set_index(["method", "name"])
    section = PAGE.split(title)[1].split("\n## ")[0]
    told = re.findall(r"^\| `(ikl|kl|trades)` \| (.+) \|$", section, re.MULTILINE)
    assert len(told) == 3
    for method, text in told:
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", text)]
        wanted = [round(100 * values.loc[(method, name), "value"], 2) for name in columns]
        robust = values.loc[(method, columns[-1])]
        wanted += [round(100 * robust[end], 1) for end in ("low", "high")]
        wanted.append(round(values.loc[(method, "sec_per_iter"), "value"], 3))
        assert numbers == pytest.approx(wanted, abs=1e-9)
        assert robust["n"] == images


def test_the_page_tells_the_distillation_runs_numbers(tmp_path: Path) -> None:
    merged = import_(tmp_path, REFERENCE / "cifar100-distillation")
    assert len(merged.added) == 13
    rows = Database(tmp_path).query(
        "SELECT method, arch, seed, name, value, n FROM runs JOIN metrics USING (run_id)"
    )
    clean = rows[rows["name"] == "clean"].set_index(["method", "arch", "seed"])
    assert (clean["n"] == 10000).all()
    assert f"{100 * clean.loc[('vanilla', 'resnet20', 0), 'value']:.2f}%" in PAGE
    seconds = rows[rows["name"] == "sec_per_iter"].set_index(["method", "arch", "seed"])
    section = PAGE.split("## CIFAR-100, distillation")[1].split("\n## ")[0]
    told = re.findall(r"^\| `(ikl-kd|dkd|kd|vanilla)` \| (\d.+) \|$", section, re.M)
    assert len(told) == 4
    over_seeds = {}
    for method, text in told:
        keys = [(method, "resnet8", seed) for seed in range(3)]
        values = [100 * clean.loc[key, "value"] for key in keys]
        over_seeds[method] = values
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        wanted = [*(f"{value:.2f}" for value in values), f"{mean:.2f} ± {deviation:.2f}"]
        wanted.append(f"{seconds.loc[keys[0], 'value']:.3f}")
        assert text.split(" | ") == wanted
    pairs = re.findall(
        r"^\| `(.+)` \| `(.+)` \| (\S+) \[(\S+), (\S+)\] \| (\S+) \|$", section, re.M
    )
    assert len(pairs) == 4
    for a, b, *text in pairs:
        found = welch(over_seeds[a], over_seeds[b])
        points = [f"{value:+.2f}" for value in (found.difference, found.low, found.high)]
        assert text == [*points, f"{found.p_value:.2g}"]

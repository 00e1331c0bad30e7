"""The reference runs in the repository can be imported, and are what their page says."""

import re
import statistics
from pathlib import Path

import pytest

from harness.evaluation.analysis.statistics import welch
from harness.store.database import Database
from harness.store.exchange import import_

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
PAGE = (REFERENCE / "README.md").read_text()


# The columns of a table: the metric, its images, and whether its interval is printed.
ADVERSARIAL = {
    "cifar10-adversarial": (
        "## CIFAR-10, adversarial training\n",
        (
            ("clean", 500, False),
            ("apgd-ce", 500, False),
            ("apgd-t", 500, False),
            ("aa", 500, True),
        ),
    ),
    "cifar10-adversarial-cpu": (
        "## CIFAR-10, adversarial training on a CPU\n",
        (
            ("clean", 2000, False),
            ("apgd-ce", 2000, False),
            ("apgd-t", 2000, True),
            ("aa", 500, True),
        ),
    ),
}


@pytest.mark.parametrize("folder", ADVERSARIAL)
def test_the_page_has_the_numbers_of_the_adversarial_runs(folder: str, tmp_path: Path) -> None:
    title, columns = ADVERSARIAL[folder]
    merged = import_(tmp_path, REFERENCE / folder)
    assert len(merged.added) == 3
    rows = Database(tmp_path).query(
        "SELECT method, name, value, low, high, n FROM runs JOIN metrics USING (run_id)"
    )
    section = PAGE.split(title)[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(ikl|kl|trades)` \| (.+) \|$", section, re.MULTILINE)
    assert len(lines) == 3
    for method, text in lines:
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", text)]
        found = rows[rows["method"] == method]
        expected = []
        for name, images, interval in columns:
            (metric,) = found[(found["name"] == name) & (found["n"] == images)].itertuples()
            expected.append(round(100 * metric.value, 2))
            expected += [round(100 * end, 1) for end in (metric.low, metric.high) if interval]
        expected += found[found["name"] == "sec_per_iter"]["value"].round(3).tolist()
        assert numbers == pytest.approx(expected, abs=1e-9)


def test_the_page_has_the_numbers_of_the_distillation_runs(tmp_path: Path) -> None:
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
    lines = re.findall(r"^\| `(ikl-kd|dkd|kd|vanilla)` \| (\d.+) \|$", section, re.M)
    assert len(lines) == 4
    over_seeds = {}
    for method, text in lines:
        keys = [(method, "resnet8", seed) for seed in range(3)]
        values = [100 * clean.loc[key, "value"] for key in keys]
        over_seeds[method] = values
        mean, deviation = statistics.mean(values), statistics.stdev(values)
        expected = [*(f"{value:.2f}" for value in values), f"{mean:.2f} ± {deviation:.2f}"]
        expected.append(f"{seconds.loc[keys[0], 'value']:.3f}")
        assert text.split(" | ") == expected
    pairs = re.findall(
        r"^\| `(.+)` \| `(.+)` \| (\S+) \[(\S+), (\S+)\] \| (\S+) \|$", section, re.M
    )
    assert len(pairs) == 4
    for a, b, *text in pairs:
        found = welch(over_seeds[a], over_seeds[b])
        points = [f"{value:+.2f}" for value in (found.difference, found.low, found.high)]
        assert text == [*points, f"{found.p_value:.2g}"]

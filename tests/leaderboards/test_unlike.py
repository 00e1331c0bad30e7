"""Numbers that do not compare are neither ranked together nor subtracted from each other."""

from collections.abc import Callable
from pathlib import Path

import pytest

from leaderboards import build
from leaderboards.build import field
from leaderboards.headline import best_text
from leaderboards.paired import paired_difference
from leaderboards.render.plots import points_of
from leaderboards.render.report import text_of
from leaderboards.results import run_groups
from tests.leaderboards.entries import FULL, LEFT
from tests.leaderboards.test_tables import IKL, PAPER, cell_at

AddRun = Callable[..., str]


@pytest.mark.parametrize("unlike", [{"eps": 2 / 255}, {"eps": 8 / 255, "norm": "L2"}])
def test_autoattack_under_another_threat_model_is_not_in_the_field(
    add_run: AddRun, tmp_path: Path, unlike: dict[str, object]
) -> None:
    other = FULL | {"protocol": {**FULL["protocol"], **unlike}}
    add_run("IKL", (9000, 8500, 8400, 8400, 8400), params=IKL, **other)
    table = build.table(2, tmp_path)
    (ours,) = [row for row in table.rows if row.kind == "ours"]
    assert ours.cell("aa").ours is not None
    assert all(row.facts["source"] != "R" for row in field(2, tmp_path).rows)
    assert "not measured" in best_text(table)[2]
    assert all(point.y.badge != "R" for point in points_of(table, "clean", "aa"))
    add_run("IKL", LEFT, params={**IKL, "temperature": 2}, **FULL)
    assert sum(row.facts["source"] == "R" for row in field(2, tmp_path).rows) == 1


def test_the_last_and_the_best_epoch_do_not_compete(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", (6600, 3500, 3140, 3140, 3140), params=IKL, **PAPER)
    add_run("KL", (6700, 3300, 3011, 3011, 3011), selection="best-on-test", **PAPER)
    cells = (cell for row in build.table(1, tmp_path).rows for cell in row.cells.values())
    numbers = [cell.ours for cell in cells if cell.ours is not None]
    assert len(numbers) >= 4
    assert not any(number.bold for number in numbers)


def test_a_distillation_table_prefers_evaluations_without_attacks(
    add_run: AddRun, tmp_path: Path
) -> None:
    """A later AutoAttack evaluation of one method does not remove its gain over the other."""
    distilled = {
        "task": "distillation", "dataset": "cifar100", "arch": "resnet20", "teacher": "resnet56",
        "scale": "paper", "selection": "last", "n": 10000,
    }  # fmt: skip
    add_run("KD", (7100,), attacks=(), **distilled)
    add_run("IKL-KD", (7180,), attacks=(), **distilled)
    add_run("IKL-KD", (7180, 900, 800, 800, 800), evaluation_id="later", **distilled)
    half = {"protocol": {"precision": "bf16"}}
    add_run("IKL-KD", (7000,), attacks=(), evaluation_id="much-later", **distilled, **half)
    table = build.table(5, tmp_path)
    gain = cell_at(table, "\u0394", "resnet56/resnet20").ours
    assert gain is not None
    assert gain.value == pytest.approx(0.8)


def test_a_method_is_not_subtracted_from_itself(add_run: AddRun, tmp_path: Path) -> None:
    add_run("KL", (6600, 3500, 3140, 3140, 3140), **PAPER)
    add_run("KL", (6500, 3400, 3100, 3100, 3100), params={"kl_weight": 6.0}, **PAPER)
    cells = [row.cell("aa-difference") for row in build.table(1, tmp_path).rows]
    assert all(cell.ours is None for cell in cells)


def test_the_interval_of_a_difference_stays_within_100_points(
    add_run: AddRun, tmp_path: Path
) -> None:
    for seed, left in enumerate((6600, 100)):
        add_run("IKL", (left,) * 5, seed=seed, params=IKL, **PAPER)
        add_run("KL", (6500,) * 5, seed=seed, **PAPER)
    ikl, kl = sorted(run_groups(build.Database(tmp_path)), key=lambda g: g["method"])
    number = paired_difference(ikl, kl, "aa")
    assert number is not None
    assert (number.low, number.high) == (-100, 100)


def test_entries_of_runs_have_different_keys(add_run: AddRun, tmp_path: Path) -> None:
    for title, left in (("IKL", 270), ("KL", 262), ("TRADES", 250)):
        add_run(title, (340, 280, left, left, left))
    (differences,) = [table for table in build.named("small", tmp_path) if "Diff" in table.title]
    text = text_of(differences, "bibtex")
    keys = [line for line in text.splitlines() if line.startswith("@misc{run-")]
    assert len(keys) > 1
    assert len(set(keys)) == len(keys)

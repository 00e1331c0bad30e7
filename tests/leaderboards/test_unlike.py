"""Numbers that do not compare are neither ranked together nor subtracted from each other."""

import io
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import UserError
from leaderboards import build
from leaderboards.build import field
from leaderboards.headline import best_text
from leaderboards.paired import paired_difference
from leaderboards.render.plots import Point, plots_of, points_of, scatter
from leaderboards.render.report import print_report, text_of, write_site
from leaderboards.results import run_groups
from leaderboards.summary import run_summary
from leaderboards.table import Number
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


def test_the_command_report_writes_several_tables_as_one_document(
    add_run: AddRun, tmp_path: Path
) -> None:
    for title, left in (("IKL", 270), ("KL", 262)):
        add_run(title, (340, 280, left, left, left))
    pages = {}
    for name in ("bibtex", "html"):
        file = io.StringIO()
        print_report("small", name, tmp_path, Console(file=file))
        pages[name] = file.getvalue()
    keys = [line for line in pages["bibtex"].splitlines() if line.startswith("@")]
    assert {line.partition("{")[0] for line in keys} > {"@misc"}
    assert len(set(keys)) == len(keys)
    assert pages["html"].count("<!DOCTYPE html>") == 1
    assert all(table.title in pages["html"] for table in build.small(tmp_path))


def test_a_report_of_printed_numbers_has_no_measured_ones(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(UserError, match=r"no number of the table small .*--printed-only"):
        print_report("small", "markdown", None, console)
    written = {path.name for path in write_site(tmp_path, None)}
    assert "table-1.md" in written
    assert not any("small" in name or "differences" in name for name in written)
    latex = text_of(field(2, None), "latex", printed_only=True)
    assert latex.count("Wang2023Better") == sum(
        "Wang2023Better" in row.labels[1] for row in field(2, None).rows
    )
    assert "Wang2023Better" in latex


def test_the_best_of_rows_that_are_not_printed_is_one_of_its_machine_and_network(
    add_run: AddRun, tmp_path: Path
) -> None:
    """Neither are seconds of two machines compared, nor accuracies of two networks."""
    distilled = {"task": "distillation", "attacks": (), "scale": "paper", "n": 10000}
    pair = {"arch": "resnet20", "teacher": "resnet56", "dataset": "cifar100"}
    large = {"arch": "imagenet-resnet18", "teacher": "imagenet-resnet34", "dataset": "imagenet"}
    small = {"arch": "resnet8", "dataset": "cifar100"}
    for name, right, seconds, teacher in (
        ("DIST", 7100, 0.1, "resnet20"),
        ("GKL-KD", 7000, 0.2, "resnet32"),
    ):
        add_run(name, (right,), **distilled, **pair)
        add_run(name, (right,), params={"n": 1}, sec_per_iter=seconds, **distilled, **large)
        add_run(name, (right,), params={"n": 2}, teacher=teacher, **distilled, **small)
    bold: dict[str, int] = defaultdict(int)
    for number in (3, 5):
        for row in build.table(number, tmp_path).rows:
            for key, cell in row.cells.items():
                if row.kind == "ours" and cell.ours is not None:
                    bold[f"{number} {key}"] += cell.ours.bold
    ours = {"3 resnet34/resnet18": 1, "3 resnet34/resnet18/time": 0}
    assert bold == {**ours, "5 resnet56/resnet20": 1, "5 other": 0}


def test_a_row_that_is_not_printed_is_compared_with_a_baseline_that_is(
    add_run: AddRun, tmp_path: Path
) -> None:
    add_run("KL", (6600, 3500, 3011, 3011, 3011), **PAPER)
    add_run("GKL", (6600, 3500, 3111, 3111, 3111), **PAPER)
    (ours,) = [row for row in build.table(1, tmp_path).rows if row.kind == "ours"]
    difference = ours.cell("aa-difference").ours
    assert difference is not None
    assert difference.value == pytest.approx(1)


def test_a_run_is_not_ranked_with_printed_rows_of_another_selection(
    add_run: AddRun, tmp_path: Path
) -> None:
    pair = {"arch": "resnet20", "teacher": "resnet56", "task": "distillation", "attacks": ()}
    shared = {"n": 10000, "dataset": "cifar100", "scale": "paper", **pair}

    console = Console(file=io.StringIO(), width=100)
    assert isinstance(console.file, io.StringIO)

    def sections(selection: str) -> list[tuple[str, set[str]]]:
        run_id = add_run("A", (7066,), selection=selection, **shared)
        found: dict[str, set[str]] = defaultdict(set)
        summary = run_summary(tmp_path, run_id)
        for row in summary.table.rows:
            found[row.group].add(row.labels[1])
        summary.render(console)
        return list(found.items())

    last, best = {"FitNet", "RKD", "CRD", "KD"}, {"DKD", "IKL-KD"}
    (_, like), (title, unlike) = sections("last")
    assert like == {"A", *last}
    assert title == "Epoch: best-on-test"
    assert unlike >= best
    text = " ".join(console.file.getvalue().split())
    assert re.search(r"ranked on their own, with epoch best-on-test: (\w+, )*IKL-KD", text)
    (_, like), (title, unlike) = sections("best-on-test")
    assert like >= best
    assert (title, unlike) == ("Epoch: last", last)


@pytest.mark.parametrize("newest", [0, 1])
def test_the_newest_group_is_that_of_the_newest_run(
    add_run: AddRun, tmp_path: Path, newest: int
) -> None:
    for seed in (0, 1):
        name = "finished-later" if seed == newest else "e1"
        add_run("KL", (340, 280, 270, 270, 270), seed=seed, evaluation_id=name)
    (group,) = run_groups(build.Database(tmp_path))
    seeds, when = group.preference
    assert (seeds, when[:16]) == (2, "2026-01-01 00:14")


def test_a_plot_has_a_front_for_each_kind_of_training_data(tmp_path: Path) -> None:
    (plot,) = plots_of(build.table(4))
    assert "Pareto front: IKL-AT (85.31, 57.13) P; AWP [25] (85.36, 56.17) P; " in plot.caption
    assert "Pareto front (generated data): IKL-AT (92.16, 67.75) P; " in plot.caption
    (board,) = plots_of(field(4))
    assert re.findall(r"Pareto front \((.*?)(?: \(|\):)", board.caption) == [
        "No extra real images",
        "Extra real images",
    ]


def test_a_flagged_point_is_on_no_front() -> None:
    doubted = Number(3.0, "P", flags=("randomised",))
    points = [Point("sure", Number(1.0, "P"), Number(1.0, "P")), Point("odd", doubted, doubted)]
    assert "Pareto front: sure (1, 1) P. " in scatter(points, "x", "y").caption

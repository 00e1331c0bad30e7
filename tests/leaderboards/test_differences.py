"""The forests of small scale: what is paired with what, in which order, over which stores."""

import io
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harness.evaluation.analysis.statistics import newcombe_paired, seeds_summary
from harness.store.database import Database
from harness.store.exchange import import_
from leaderboards.build import small
from leaderboards.differences import AGAINST, DIFFERENCE, OTHERS, REFERENCE, difference_table
from leaderboards.paired import with_intervals
from leaderboards.reference import REFERENCE as SHIPPED
from leaderboards.render.html import TableView, fragment
from leaderboards.render.latex import to_latex
from leaderboards.render.markdown import to_markdown
from leaderboards.render.terminal import print_table
from leaderboards.results import run_groups
from leaderboards.table import Number, Row
from tests.leaderboards.conftest import adding_to
from tests.leaderboards.studies import IMAGES, Study, adversarial_study, distillation_study

AddRun = Callable[..., str]


def differences(results: Path, against: str | None = None) -> list[Row]:
    """The rows of a store's own runs."""
    ids = set(Database(results).query("SELECT run_id FROM runs")["run_id"])
    rows = [row for row in small(results)[1].rows if ids & set(row.run_ids)]
    return [row for row in rows if against in (None, row.facts[AGAINST])]


def names(rows: list[Row]) -> list[str]:
    return [row.labels[0] for row in rows]


def number(row: Row) -> Number:
    found = row.cells[DIFFERENCE].ours
    assert found is not None
    return found


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, Study]:
    """A store with two studies of all methods, and what each is right on."""
    results = tmp_path_factory.mktemp("studies")
    return results, distillation_study(results), adversarial_study(results)


def test_methods_are_paired_with_the_reference_and_the_papers_losses_with_the_others(
    add_run: AddRun, tmp_path: Path
) -> None:
    left = {"IKL": 262, "KL": 255, "TRADES": 259}
    for title, survived in left.items():
        add_run(title, (340, 280, 270, 268, survived))
    add_run("MART", (340, 280, 270, 268, 250), config={"training": {"epochs": 3}})
    add_run("AT", (340, 280, 270, 268, 250), selection="best-on-test")
    add_run("GAIRAT", (340, 280, 270, 268, 250), arch="resnet18")
    assert names(differences(tmp_path, REFERENCE)) == ["IKL \u2212 KL", "TRADES \u2212 KL"]
    assert names(differences(tmp_path, OTHERS)) == ["IKL \u2212 TRADES"]
    for row in differences(tmp_path):
        of, _, base = row.labels[0].partition(" \u2212 ")
        assert number(row).value == pytest.approx(100 * (left[of] - left[base]) / 360)
        ends = newcombe_paired(left[base], left[of] - left[base], 0, 360 - left[of])
        assert number(row).interval == pytest.approx(tuple(100 * end for end in ends))


def test_a_method_that_holds_images_out_is_paired_and_says_so(
    add_run: AddRun, tmp_path: Path
) -> None:
    add_run("KL", (340, 280, 270, 268, 255))
    config = {"data": {"val_size": 1000}, "training": {"epochs": 200}}
    add_run("AT", (340, 280, 270, 268, 250), config=config, selection="best-on-val")
    (row,) = differences(tmp_path)
    assert row.labels[:2] == ("AT \u2212 KL", "resnet8, 1,000 vs 0 images held out")
    assert number(row).value == pytest.approx(100 * (250 - 255) / 360)


def test_nothing_is_paired_without_a_shared_seed(add_run: AddRun, tmp_path: Path) -> None:
    for seed, title in enumerate(("IKL", "KL", "TRADES")):
        add_run(title, (340, 280, 270, 268, 262), seed=seed)
    assert differences(tmp_path) == []


def test_the_reference_of_the_same_teacher_is_taken(add_run: AddRun, tmp_path: Path) -> None:
    for teacher, right in (("resnet20", 200), ("resnet56", 210)):
        for title, more in (("KD", 0), ("DKD", 5)):
            facts = {"task": "distillation", "teacher": teacher, "attacks": ()}
            add_run(title, (right + more,), params={"t": right}, **facts)
    rows = differences(tmp_path)
    assert [number(row).value for row in rows] == pytest.approx([100 * 5 / 360] * 2)
    assert {row.group.partition(":")[0] for row in rows} == {
        "digits, resnet8 from resnet20",
        "digits, resnet8 from resnet56",
    }


@pytest.mark.parametrize("newer_first", [False, True])
def test_the_reference_of_most_shared_seeds_and_among_equals_the_newest_is_taken(
    newer_first: bool, add_run: AddRun, tmp_path: Path
) -> None:
    """Whichever of the two the database gives first."""
    older, newer = ({"t": int(newer_first == which)} for which in (False, True))

    def store(title: str, left: int, seed: int, params: dict[str, int], name: str) -> None:
        correct = (340, 280, 270, 268, left)
        add_run(title, correct, seed=seed, params=params, evaluation_id=name)

    for seed in (0, 1):
        store("IKL", 262, seed, {}, "e1")
        store("KL", 250, seed, older, "e1")
    # Its second seed is not shared.
    store("KL", 240, 0, newer, "later")
    store("KL", 240, 2, newer, "later")
    (row,) = differences(tmp_path, REFERENCE)
    assert (number(row).value, number(row).seeds) == (pytest.approx(100 * 12 / 360), 2)
    store("KL", 240, 1, newer, "later")
    (row,) = differences(tmp_path, REFERENCE)
    assert (number(row).value, number(row).seeds) == (pytest.approx(100 * 22 / 360), 2)


def test_a_study_of_all_distillation_methods_is_sorted_against_kd(
    studies: tuple[Path, Study, Study],
) -> None:
    results, right, _ = studies
    rows = [row for row in differences(results, REFERENCE) if row.facts["dataset"] == "cifar100"]
    assert len(rows) == len(right) - 1 >= 28
    assert {row.facts["method"] for row in rows} == set(right) - {"kd"}
    assert len({row.group for row in rows}) == 1
    assert "minus KD" in rows[0].group
    values = [number(row).value for row in rows]
    assert values == sorted(values, reverse=True)
    for row in rows:
        pairs = list(zip(right[row.facts["method"]], right["kd"], strict=True))
        gains = [100 * (a - b) / IMAGES for a, b in pairs]
        summary = seeds_summary(gains)
        images = [
            newcombe_paired(min(a, b), max(a - b, 0), max(b - a, 0), IMAGES - max(a, b))
            for a, b in pairs
        ]
        low = min(summary.low, 100 * statistics.fmean(end[0] for end in images))
        high = max(summary.high, 100 * statistics.fmean(end[1] for end in images))
        assert number(row).value == pytest.approx(statistics.fmean(gains))
        assert number(row).interval == pytest.approx((low, high))
        assert row.labels[2] == "3"
    own_stage = {row.facts["method"] for row in rows if "9 epochs vs 8" in row.labels[1]}
    assert own_stage == {"ab", "fsp", "ft"}
    # Natural training has no teacher, which its row shows.
    (natural,) = [row for row in rows if row.facts["method"] == "vanilla"]
    assert natural.labels[1] == "resnet8"


def test_a_study_of_all_adversarial_methods_is_sorted_against_kl(
    studies: tuple[Path, Study, Study],
) -> None:
    results, _, left = studies
    rows = [row for row in differences(results, REFERENCE) if row.facts["dataset"] == "cifar10"]
    rows = [row for row in rows if number(row).n == IMAGES]
    assert {row.facts["method"] for row in rows} == set(left) - {"kl"}
    for row in rows:
        gain = 100 * (left[row.facts["method"]][0] - left["kl"][0]) / IMAGES
        assert number(row).value == pytest.approx(gain)
    values = [number(row).value for row in rows]
    assert values == sorted(values, reverse=True)
    others = [row for row in differences(results, OTHERS) if row.facts["dataset"] == "cifar10"]
    assert {row.facts["method"] for row in others if number(row).n == IMAGES} == set(left) - {
        "kl",
        "ikl",
    }


def test_every_format_holds_forests_of_thirty_rows(studies: tuple[Path, Study, Study]) -> None:
    table = small(studies[0])[1]
    file = io.StringIO()
    print_table(table, Console(file=file, width=80))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("\u2212 KD" in line and " S [" in line for line in lines) >= 25
    html = fragment(TableView(table, table.rows))
    assert html.count('<circle cx="') == len(table.rows)
    # Filled if the interval leaves out 0, hollow if not.
    clear = sum(not (low <= 0 <= high) for low, high in (number(row).span for row in table.rows))
    assert html.count('class="clear"') == clear
    assert 0 < clear < len(table.rows)
    assert to_latex(table).count(r"\begin{table}") > 1


def test_seeds_are_said_in_their_own_column_alone(studies: tuple[Path, Study, Study]) -> None:
    for table in small(studies[0]):
        (place,) = [n for n, label in enumerate(table.labels) if label == "Seeds"]
        assert any(row.labels[place] == "3" for row in table.rows)
        assert "3 seeds" not in to_markdown(table) + to_latex(table)


def test_reference_runs_that_were_imported_are_there_once(tmp_path: Path) -> None:
    before = [table.rows for table in small(tmp_path)]
    import_(tmp_path, SHIPPED / "cifar10-adversarial")
    after = [table.rows for table in small(tmp_path)]
    for old, new in zip(before, after, strict=True):
        assert sorted(map(repr, names(list(old)))) == sorted(map(repr, names(list(new))))
        assert sorted(row.run_ids for row in old) == sorted(row.run_ids for row in new)


def test_runs_of_two_stores_are_paired_as_those_of_one(tmp_path: Path) -> None:
    left = {"IKL": 262, "KL": 255}
    stores = []
    for title, survived in left.items():
        (tmp_path / title).mkdir()
        adding_to(tmp_path / title)(title, (340, 280, 270, 268, survived))
        stores.append(Database(tmp_path / title))
    table = difference_table(run_groups(*stores))
    (row,) = with_intervals(table.rows, {DIFFERENCE: "robust"}, *stores)
    ends = newcombe_paired(255, 7, 0, 360 - 262)
    assert number(row).interval == pytest.approx(tuple(100 * end for end in ends))


def test_the_reference_runs_are_in_the_forest_without_a_store(tmp_path: Path) -> None:
    table = small(tmp_path)[1]
    (row,) = [
        row
        for row in table.rows
        if row.labels[:2] == ("IKL-AT \u2212 KL", "wrn-16-2") and row.facts[AGAINST] == REFERENCE
    ]
    # As the repository's page of reference runs has them: 22.80 and 17.00 of 500 images.
    assert number(row).value == pytest.approx(22.80 - 17.00)
    assert number(row).interval == pytest.approx((2.97, 8.69), abs=0.005)
    assert (number(row).n, number(row).seeds) == (500, 1)
    assert not any(tmp_path.iterdir())


def test_evaluations_that_stopped_early_have_no_interval_of_a_fixed_number_of_images(
    add_run: AddRun, tmp_path: Path
) -> None:
    drawn = {"attack_version": "standard pyautoattack-0.2.0 sequential", "partial": True}
    for title, left in (("TRADES", 259), ("KL", 255)):
        add_run(title, (340, 280, 270, 268, left), protocol=drawn)
    (row,) = differences(tmp_path)
    assert number(row).value == pytest.approx(100 * 4 / 360)
    assert number(row).interval is None
    assert "\u2212 KL" in fragment(TableView(small(tmp_path)[1], [row]))

"""Measured results beside the printed rows, by the functions that the app calls."""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.evaluation.analysis.statistics import wilson_interval
from harness.experiment.resolve import resolve
from harness.registry import METHODS
from harness.store.connection import write_connection, writing
from harness.store.database import Database
from leaderboards import build
from leaderboards.build import small
from leaderboards.paper import TABLES
from leaderboards.printed import REPORTED_CSV
from leaderboards.table import Cell, Row, Table

AddRun = Callable[..., str]
ALPHA, BETA, DELTA = "\u03b1", "\u03b2", "\u0394"
IKL = {"wmse_weight": 20, "ce_weight": 3, "temperature": 4}
PAPER = {
    "n": 10000,
    "dataset": "cifar100",
    "arch": "wrn-34-10",
    "scale": "paper",
    "protocol": {"eps": 8 / 255},
}
LEFT = (6600, 3500, 3140, 3140, 3140)


def cell_at(table: Table, label: str, column: str, group: str = "") -> Cell:
    rows = [r for r in table.rows if label in r.labels and group in ("", r.group)]
    assert len(rows) == 1, [row.labels for row in table.rows]
    return rows[0].cells[column]


def test_a_run_is_beside_its_row_with_interval_and_difference(
    add_run: AddRun, tmp_path: Path
) -> None:
    run_id = add_run("IKL", LEFT, params=IKL, **PAPER)
    table = build.table(2, tmp_path)
    ours = cell_at(table, f"IKL-AT ({ALPHA}=20, {BETA}=3)", "aa").ours
    assert ours is not None
    low, high = wilson_interval(3140, 10000)
    assert (ours.value, ours.low, ours.high) == pytest.approx((31.40, 100 * low, 100 * high))
    assert (ours.badge, ours.n, ours.seeds, ours.run_ids) == ("R", 10000, 1, (run_id,))
    assert ours.from_print == pytest.approx(-0.05)
    assert ours.apart is False
    assert sum(bool(cell.ours) for row in table.rows for cell in row.cells.values()) == 2
    assert table.has_ours
    # The same training is a row of Tables 1, 6 (in both panels) and 8, but not of 9.
    assert cell_at(build.table(1, tmp_path), "(e)", "aa").ours == ours
    six = build.table(6, tmp_path)
    assert cell_at(six, f"{ALPHA} = 20", "apgd-ce").ours is not None
    assert cell_at(six, f"{BETA} = 3", "apgd-t").ours is not None
    nine = build.table(9, tmp_path)
    assert not any(
        cell.ours for row in nine.rows if row.kind == "printed" for cell in row.cells.values()
    )


def test_seeds_give_mean_and_sample_deviation(add_run: AddRun, tmp_path: Path) -> None:
    left = (3140, 3170, 3110)
    for seed, aa in enumerate(left):
        add_run("IKL", (6600, 3500, aa, aa, aa), seed=seed, params=IKL, **PAPER)
    ours = cell_at(build.table(2, tmp_path), f"IKL-AT ({ALPHA}=20, {BETA}=3)", "aa").ours
    assert ours is not None
    percent = [aa / 100 for aa in left]
    assert ours.value == pytest.approx(statistics.fmean(percent))
    assert ours.std == pytest.approx(statistics.stdev(percent)) == pytest.approx(0.3)
    assert (ours.seeds, ours.interval) == (3, None)
    assert ours.low is not None
    assert ours.low < min(percent)


def test_our_gain_is_over_our_own_baseline(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", LEFT, params=IKL, **PAPER)
    assert cell_at(build.table(1, tmp_path), "(e)", "aa-difference").ours is None
    add_run("KL", (6200, 3300, 3011, 3011, 3011), **PAPER)
    for number, label in ((1, "(e)"), (2, f"IKL-AT ({ALPHA}=20, {BETA}=3)")):
        ours = cell_at(build.table(number, tmp_path), label, "aa-difference").ours
        assert ours is not None
        assert ours.value == pytest.approx(1.29)


def test_the_best_of_ours_is_bold_where_several_compete(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", LEFT, params=IKL, **PAPER)
    first = cell_at(build.table(1, tmp_path), "(e)", "aa").ours
    assert first is not None
    assert not first.bold
    add_run("KL", (6700, 3300, 3011, 3011, 3011), **PAPER)
    table = build.table(1, tmp_path)
    bold = {
        (row.labels[0], key)
        for row in table.rows
        for key, cell in row.cells.items()
        if cell.ours and cell.ours.bold
    }
    assert bold == {("(e)", "aa"), ("(a)", "clean")}


UNLIKE = {
    "small scale": {"scale": "small"},
    "part of the test set": {"protocol": {"eps": 8 / 255, "partial": True}},
    "part of the training set": {"partial": True},
    "radius": {"protocol": {"eps": 4 / 255}},
    "norm": {"protocol": {"eps": 8 / 255, "norm": "L2"}},
    "precision": {"protocol": {"eps": 8 / 255, "precision": "bf16"}},
    "architecture": {"arch": "wrn-28-10"},
    "dataset": {"dataset": "cifar10"},
    "parameters": {"params": {**IKL, "temperature": 1}},
    "unfinished": {"status": "error"},
    "attack's budget": {"protocol": {"eps": 8 / 255, "attack_version": "standard p-1, 5 steps"}},
}


def test_what_is_not_like_print_is_not_beside_it(add_run: AddRun, tmp_path: Path) -> None:
    whats = {
        add_run("IKL", LEFT, seed=seed, **{"params": IKL, **PAPER, **changes}): what
        for seed, (what, changes) in enumerate(UNLIKE.items())
    }
    assert len(whats) == len(UNLIKE)
    printed = [row for row in build.table(2, tmp_path).rows if row.kind == "printed"]
    numbers = [cell.ours for row in printed for cell in row.cells.values() if cell.ours]
    assert [whats[run_id] for number in numbers for run_id in number.run_ids] == []


def test_another_rule_of_choosing_the_epoch_is_not_compared(
    add_run: AddRun, tmp_path: Path
) -> None:
    add_run("IKL", LEFT, params=IKL, selection="best-on-test", **PAPER)
    ours = cell_at(build.table(2, tmp_path), f"IKL-AT ({ALPHA}=20, {BETA}=3)", "aa").ours
    assert ours is not None
    assert ours.from_print is None
    assert "best-on-test" in ours.note


def own_small(results: Path) -> list[Row]:
    """The rows at small scale but those of the reference runs."""
    ids = set(Database(results).query("SELECT run_id FROM runs")["run_id"])
    return [row for row in small(results)[0].rows if ids & set(row.run_ids)]


def test_small_runs_are_in_a_table_of_their_own(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", (340, 280, 270, 268, 262))
    add_run("KL", (345, 280, 265, 258, 255))
    add_run("KL", (300, 200, 180, 170, 160), n=320, seed=1)
    for number in range(1, 10):
        table = build.table(number, tmp_path)
        assert not table.has_ours
        assert [row for row in table.rows if row.kind == "ours"] == []
    rows = own_small(tmp_path)
    assert [row.group for row in rows] == [
        "digits, Linf 0.15, AutoAttack (pyautoattack-0.2.0), n = 320",
        *["digits, Linf 0.15, AutoAttack (pyautoattack-0.2.0), n = 360"] * 2,
    ]
    assert [row.labels for row in rows[1:]] == [("IKL", "resnet8", "1"), ("KL", "resnet8", "1")]
    best = rows[1].cells["aa"].ours
    assert best is not None
    assert (best.badge, best.bold, best.from_print) == ("S", True, None)


def test_a_part_of_the_data_has_no_best(add_run: AddRun, tmp_path: Path) -> None:
    parts = ({"partial": True}, {"n": 40, "protocol": {"partial": True}})
    for seed, part in enumerate(parts):
        add_run("IKL", (35, 30, 25, 24, 23), seed=seed, **part)
        add_run("KL", (34, 29, 24, 23, 22), seed=seed, **part)
    rows = own_small(tmp_path)
    assert len(rows) == 4
    assert all("partial" in row.group for row in rows)
    assert not any(cell.ours.bold for row in rows for cell in row.cells.values() if cell.ours)


@pytest.mark.parametrize("scale", ["paper", "small"])
def test_what_another_last_attack_leaves_ranks_and_is_not_called_aa(
    add_run: AddRun, tmp_path: Path, scale: str
) -> None:
    short = {"attacks": ("apgd-ce", "apgd-t"), "dataset": "cifar100", "scale": scale}
    # The better on clean images holds less under attack.
    add_run("IKL", (300, 250, 240), **short)
    add_run("IKL", (350, 200, 190), params={"ce_weight": 1}, **short)
    add_run("IKL", (355, 230), params={"ce_weight": 2}, **short | {"attacks": ("apgd-ce",)})
    add_run("IKL", (340,), params={"ce_weight": 3}, **short | {"attacks": ()})
    if scale == "paper":
        table = build.table(2, tmp_path)
        rows = [row for row in table.rows if row.kind == "ours"]
        keys = ("after-apgd-ce", "after-apgd-t")
        assert [column.title for column in table.columns][2:4] == ["after APGD-CE", "after APGD-T"]
    else:
        table = small(tmp_path)[0]
        rows = [row for row in own_small(tmp_path) if "clean only" not in row.group]
        keys = ("apgd-ce", "apgd-t")
        assert {"after APGD-CE", "after APGD-T"} <= {column.title for column in table.columns}
    first, *both = rows
    assert "APGD-CE (" in first.group
    assert first.cells[keys[0]].ours is not None
    assert keys[1] not in first.cells
    left = [row.cells[keys[1]].ours for row in both]
    assert [number and (number.value, number.bold) for number in left] == [
        (pytest.approx(100 * 240 / 360), True),
        (pytest.approx(100 * 190 / 360), False),
    ]
    assert not any("aa" in row.cells for row in rows)


def test_runs_without_attack_stay_out_of_adversarial_tables(
    add_run: AddRun, tmp_path: Path
) -> None:
    add_run("IKL", (340,), attacks=())
    for number in (1, 2, 4, 6, 8, 9):
        rows = build.table(number, tmp_path).rows
        assert [row for row in rows if row.kind == "ours"] == []


def test_a_distilled_student_is_in_the_column_of_its_pair(add_run: AddRun, tmp_path: Path) -> None:
    distilled = {
        "task": "distillation",
        "attacks": (),
        "dataset": "cifar100",
        "arch": "resnet20",
        "teacher": "resnet56",
        "scale": "paper",
        "selection": "last",
        "n": 10000,
    }
    add_run("KD", (7100,), **distilled)
    add_run("IKL-KD", (7180,), **distilled)
    add_run("KD", (7000,), params={"temperature": 2}, **distilled | {"arch": "resnet14"})
    table = build.table(5, tmp_path)
    key = "resnet56/resnet20"
    ours = cell_at(table, "KD [28]", key).ours
    assert ours is not None
    assert (ours.value, ours.from_print) == pytest.approx((71.0, 0.34))
    gain = cell_at(table, DELTA, key).ours
    assert gain is not None
    assert gain.value == pytest.approx(0.8)
    # Print's IKL-KD is the best epoch on the test images, ours the last: no comparison.
    ikl = cell_at(table, "IKL-KD", key).ours
    assert ikl is not None
    assert ikl.from_print is None
    (other,) = [row for row in table.rows if row.kind == "ours"]
    assert other.cells["other"].ours is not None
    assert other.labels == ("KD, resnet14 from resnet56",)
    assert [column.key for column in table.columns][-1] == "other"


def test_each_recipe_leads_to_its_own_row(add_run: AddRun, tmp_path: Path) -> None:
    rows = [
        (spec, row)
        for spec in TABLES.values()
        for row in spec.rows
        if spec.attacked and row.method in METHODS
    ]
    assert len(rows) == 56
    ids = {}
    for _, row in rows:
        config = resolve(row.method, recipe=row.recipe)
        if config.run_id not in ids:
            ids[config.run_id] = add_run(
                METHODS.get(row.method).card.title,
                LEFT,
                seed=len(ids),
                method=row.method,
                arch=config.model.arch,
                dataset=config.data.name,
                config=config.model_dump(mode="json"),
                selection=config.training.selection.rule,
                record=False,
                **{name: PAPER[name] for name in ("n", "scale", "protocol")},
            )
    Database(tmp_path).rebuild()
    tables = {number: build.table(number, tmp_path) for number in {spec.number for spec, _ in rows}}
    for spec, row in rows:
        config = resolve(row.method, recipe=row.recipe)
        found = tables[spec.number].rows[spec.rows.index(row)]
        ours = found.cells["aa"].ours
        assert ours is not None, row.recipe
        assert ids[config.run_id] in ours.run_ids, row.recipe
        command = f"python -m harness run --recipe {row.recipe} --results {tmp_path}"
        assert found.command == command


def test_each_row_of_a_method_of_ours_names_a_registered_one() -> None:
    named = {row.method for spec in TABLES.values() for row in spec.rows if row.method}
    assert len(named) > 20
    assert named <= set(METHODS.names())


def test_the_first_run_of_each_table_is_a_recipe() -> None:
    for spec in TABLES.values():
        recipe = spec.first_run.rpartition(" ")[2]
        owners = [name for name in METHODS.names() if recipe in METHODS.get(name).recipes]
        if spec.attacked:
            assert len(owners) == 1, recipe
        elif "ikl-kd" in METHODS:
            assert "ikl-kd" in owners, recipe
            assert "--method ikl-kd" in spec.first_run


def test_without_a_database_there_are_only_printed_numbers(tmp_path: Path) -> None:
    nowhere = tmp_path / "no where"
    table = build.table(2, nowhere)
    assert "no results database" in table.message
    assert not table.has_ours
    recipe = "python -m harness run --recipe table2/ikl-a20-b3"
    assert table.first_run == f"{recipe} --results '{nowhere}'"
    with pytest.raises(UserError, match="is a file: give the results folder"):
        build.table(2, Path(__file__))
    assert without_commands(table) == without_commands(build.table(2))
    assert not nowhere.exists()


def without_commands(table: Table) -> list[Row]:
    return [dataclasses.replace(row, command="") for row in table.rows]


@pytest.mark.parametrize("number", range(1, 10))
def test_commands_store_where_the_table_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.chdir(tmp_path)
    spaced = Path("a folder")
    named, default, printed = (
        [shown.first_run, *(row.command for row in shown.rows)]
        for shown in (
            build.table(number, spaced),
            build.table(number, tmp_path / "results"),
            build.table(number),
        )
    )
    assert default == printed
    assert not any("--results" in command for command in default)
    assert named == [command and f"{command} --results 'a folder'" for command in default]
    assert sum(map(bool, named)) > 5


def test_a_database_without_runs_is_as_good(tmp_path: Path) -> None:
    Database(tmp_path).load_reported(REPORTED_CSV)
    found = build.table(2, tmp_path)
    assert without_commands(found) == without_commands(build.table(2))
    assert found.message == "no run in the results folder belongs in this table yet"


def test_a_newer_or_damaged_database_is_a_sentence(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", (340, 280, 270, 268, 262))
    path = Database(tmp_path).path
    with writing(path, 5), write_connection(path, 5) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(UserError, match="schema 99"):
        build.table(2, tmp_path)
    path.write_bytes(b"this is no database")
    with pytest.raises(UserError, match="cannot be opened"):
        build.table(2, tmp_path)
    with pytest.raises(UserError, match="no Table 10"):
        build.table(10)


def test_flags_of_a_run_are_shown(add_run: AddRun, tmp_path: Path) -> None:
    flags = [{"name": "zero-gradients", "detail": "12 of 360 images"}]
    add_run("IKL", (340, 280, 270, 268, 262), flags=flags)
    (row,) = own_small(tmp_path)
    assert row.cells["aa"].ours is not None
    assert row.cells["aa"].ours.flags == ("zero-gradients: 12 of 360 images",)

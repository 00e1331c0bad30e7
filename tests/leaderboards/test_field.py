"""The field: published entries with the paper's rows and ours among them."""

import csv
from collections.abc import Callable
from pathlib import Path

from harness.evaluation.analysis.statistics import wilson_interval
from leaderboards.build import field
from leaderboards.field import ALONE, UNRELIABLE
from leaderboards.published import ENTRIES_CSV
from leaderboards.render.plots import plots_of
from leaderboards.render.report import text_of
from leaderboards.robustbench import Imported, import_folder
from tests.leaderboards.entries import ATTACKED, FULL, LEFT, board_files, entries, folder_of

AddRun = Callable[..., str]


def test_entries_are_beside_the_tables_of_their_threat_model(tmp_path: Path) -> None:
    assert import_folder(board_files(tmp_path / "model_info"), tmp_path) == Imported(5, ())
    published = entries(2, tmp_path)
    found = {row.labels[1]: row for row in published}
    # Boards list a radius of 0.031 with that of 8/255.
    assert set(found) == {"Wang2023Better", "Other_031"}
    assert {row.labels[2:] for row in published} == {("WRN-70-16", "no extra images")}
    number = found["Wang2023Better"].cells["aa"].printed
    assert number is not None
    assert (number.value, number.badge) == (42.67, "RB")
    notes = found["Wang2023Better"].notes
    assert "It uses additional 50M synthetic images & no more." in notes
    assert "https://arxiv.org/abs/2302.04638" in notes
    assert "Attacked at a radius of 0.031." in found["Other_031"].notes
    ten = entries(4, tmp_path)
    assert [row.labels for row in ten] == [("1", "Ten", "WRN-70-16", "extra real images")]


def test_the_published_entries_ship_with_the_project() -> None:
    lines = list(csv.DictReader(ENTRIES_CSV.open(encoding="utf-8")))
    assert len(lines) == 236
    for number, dataset, radii in ((2, "cifar100", ["8/255"]), (4, "cifar10", ["8/255", "0.031"])):
        own = [
            line
            for line in lines
            if (line["dataset"], line["threat_model"]) == (dataset, "Linf") and line["eps"] in radii
        ]
        rows = entries(number, None)
        assert len(rows) == len(own) == {2: 38, 4: 99}[number]
        shown = {row.labels[1]: row for row in rows}
        for line in own:
            row = shown[line["key"]]
            aa = row.cells["aa"].printed
            assert aa is not None
            assert (aa.value, aa.badge) == (float(line["autoattack"]), "RB")
            lowest = min(float(line[name]) for name in ("autoattack", "external") if line[name])
            assert row.cells["best-known"].printed.value == lowest  # type: ignore[union-attr]
            assert (UNRELIABLE in aa.flags) == (line["unreliable"] == "True")
            assert line["link"] in row.notes


def test_ours_and_the_papers_rows_have_their_places_in_the_field(
    add_run: AddRun, tmp_path: Path
) -> None:
    params = {"wmse_weight": 20, "ce_weight": 3, "temperature": 4}
    add_run("IKL", LEFT, params=params, **FULL)
    shown = field(2, tmp_path)
    alone = [row for row in shown.rows if row.group == ALONE]
    values = [row.number("best-known").value for row in alone]  # type: ignore[union-attr]
    assert values == sorted(values, reverse=True)
    assert {row.facts["source"] for row in alone} == {"RB", "P", "R"}
    (ours,) = [row for row in alone if row.facts["source"] == "R"]
    first, last = map(int, ours.rank.split("-"))
    low, high = wilson_interval(3145, 10000)
    spans = [row.number("best-known").span for row in alone]  # type: ignore[union-attr]
    assert first == 1 + sum(span[0] > 100 * high for span in spans)
    assert last == len(alone) - sum(span[1] < 100 * low for span in spans)
    assert shown.is_subject(ours)
    assert sum(shown.is_subject(row) for row in alone if row.kind == "published") == 3


def test_doubtful_entries_are_marked_and_rank_by_the_lowest_known(tmp_path: Path) -> None:
    doubtful = {"autoattack_acc": "50.00", "unreliable": True}
    folder = folder_of(
        tmp_path / "model_info",
        cifar100__Linf__Doubt=ATTACKED | doubtful | {"external": "40.00"},
        cifar100__Linf__Sound=ATTACKED,
        cifar100__Linf__Broken=ATTACKED | {"autoattack_acc": "60.00", "external": "41.00"},
        cifar100__Linf__Unsure=ATTACKED | doubtful | {"autoattack_acc": "41.50"},
        cifar100__Linf__Higher=ATTACKED | {"autoattack_acc": "39.00", "external": "39.50"},
    )
    import_folder(folder, tmp_path)
    table = field(2, tmp_path)
    rows = {row.labels[1]: row for row in table.rows if row.kind == "published"}
    assert list(rows) == ["Sound", "Unsure", "Broken", "Doubt", "Higher"]
    flags = {}
    for name, row in rows.items():
        number = row.cells["aa"].printed
        assert number is not None
        flags[name] = number.flags
        assert row.cells["clean"].printed is not None
        assert row.cells["clean"].printed.flags == ()
    assert flags["Doubt"] == (
        UNRELIABLE,
        "an external attack leaves 40.00, which sets its rank",
    )
    assert flags["Broken"] == ("an external attack leaves 41.00, which sets its rank",)
    assert flags["Unsure"] == (UNRELIABLE,)
    assert flags["Sound"] == flags["Higher"] == ()
    assert "The best external attack leaves 40.00." in rows["Doubt"].notes
    assert "The best external attack leaves 39.50." in rows["Higher"].notes
    text = text_of(table, "markdown")
    assert "50.00 RB?" in text
    assert "- ?  a measured number with reason to doubt it" in text
    assert f"- ?  Doubt: {UNRELIABLE}" in text
    (plot,) = plots_of(table)
    assert "Wang et al. [38] (72.58, 38.83)" in plot.svg
    assert "?: a measured number with reason to doubt it" in plot.caption

"""A run's place among the runs that may be ranked with it, and how the ranking is printed."""

import csv
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import UserError
from harness.evaluation.analysis.statistics import seeds_summary, wilson_interval
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from leaderboards.ranking import rank_rows
from leaderboards.render.cells import number_text
from leaderboards.render.data import to_csv
from leaderboards.summary import RunSummary, run_summary
from leaderboards.table import OF_MEANS, Cell, Number, Row

AddRun = Callable[..., str]
PAPER = {
    "n": 10000,
    "dataset": "cifar100",
    "arch": "wrn-34-10",
    "scale": "paper",
    "protocol": {"eps": 8 / 255},
}


def printed(summary: RunSummary, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    summary.render(Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


def texts(summary: RunSummary) -> list[dict[str, str]]:
    """The labels and the numbers of each row, as text by title."""
    table = summary.table
    return [
        dict(zip(table.labels, row.labels, strict=True))
        | {
            column.title: number_text(number, column, interval=True)
            for column in table.columns
            if (number := row.number(column.key))
        }
        for row in table.rows
    ]


def names(summary: RunSummary) -> list[str]:
    return [row["Method"] for row in texts(summary)]


def row_of(summary: RunSummary, method: str) -> dict[str, str]:
    (row,) = [row for row in texts(summary) if row["Method"] == method]
    return row


def best(summary: RunSummary) -> Number:
    number = summary.table.rows[0].number(summary.table.ranked_by)
    assert number is not None
    return number


def test_one_run_has_its_wilson_interval(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (340, 280, 270, 268, 262))
    summary = run_summary(tmp_path, run_id)
    low, high = wilson_interval(262, 360)
    labels = {"#": "1", "Method": "A", "Architecture": "resnet8", "Seeds": "1", "n": "360"}
    numbers = {"APGD-CE": "77.78", "APGD-T": "75.00", "FAB-T": "74.44", "s/iter": "0.0321"}
    numbers |= {"Clean": "94.44", "AA [95%]": f"72.78 [{100 * low:.1f}, {100 * high:.1f}]"}
    row = {title: text.partition(" ")[0] for title, text in row_of(summary, "A").items()}
    assert row == labels | numbers | {"Src": "S", "AA [95%]": "72.78"}
    assert row_of(summary, "A")["AA [95%]"] == numbers["AA [95%]"]
    assert summary.title == "digits | Linf 0.15 | AutoAttack (pyautoattack-0.2.0) | n = 360"


def test_seeds_share_a_row_with_mean_and_sample_deviation(add_run: AddRun, tmp_path: Path) -> None:
    left = (262, 265, 259)
    ids = [add_run("A", (340, 280, 270, 268, aa), seed=seed) for seed, aa in enumerate(left)]
    summary = run_summary(tmp_path, ids[1])
    fractions = [aa / 360 for aa in left]
    cell = f"{100 * statistics.fmean(fractions):.2f} ± {100 * statistics.stdev(fractions):.2f}"
    row = row_of(summary, "A")
    # A deviation is no 95% interval, so the head does not promise one.
    assert (row["Seeds"], row["AA"]) == ("3", cell)
    (entry,) = summary.to_json()["rows"]
    assert entry["scores"]["aa"]["std"] == pytest.approx(3 / 360)
    assert sorted(entry["run_ids"]) == sorted(ids)


def test_seeds_that_agree_know_no_more_than_their_images(add_run: AddRun, tmp_path: Path) -> None:
    for title, left in (("A", 35), ("B", 34)):
        run_id = add_run(title, (39, 38, 37, 36, left), n=40)
    assert [row.rank for row in run_summary(tmp_path, run_id).table.rows] == ["1-2", "1-2"]
    for title, left in (("A", 35), ("B", 34)):
        add_run(title, (39, 38, 37, 36, left), n=40, seed=1)
    summary = run_summary(tmp_path, run_id)
    assert [(row["Seeds"], row["#"]) for row in texts(summary)] == [("2", "1-2"), ("2", "1-2")]
    number = best(summary)
    assert (number.std, number.interval) == (0, None)
    ends = [100 * end for end in wilson_interval(35, 40)]
    assert [number.low, number.high] == pytest.approx(ends)
    assert f"1-3  {OF_MEANS}"[:40] in printed(summary)


def test_intervals_of_means_end_where_accuracies_do(add_run: AddRun, tmp_path: Path) -> None:
    for seed, (clean, aa) in enumerate([(360, 0), (300, 40)]):
        run_id = add_run("A", (clean, 200, 100, 50, aa), seed=seed)
    interval = seeds_summary([360 / 360, 300 / 360])
    assert interval.low < 0 < 1 < interval.high
    summary = run_summary(tmp_path, run_id)
    (row,) = summary.to_json()["rows"]
    clean, aa = row["scores"]["clean"], row["scores"]["aa"]
    assert (clean["mean_low"], clean["mean_high"]) == (0, 1)
    assert aa["mean_low"] == 0 < aa["value"] < aa["mean_high"] <= 1
    lines = csv.DictReader(io.StringIO(to_csv(summary.table)))
    ends = {line["metric"]: (line["low"], line["high"]) for line in lines}
    assert (ends["clean"][1], ends["aa"][0]) == ("100.0", "0.0")


def test_seeds_that_differ_have_the_t_interval_of_their_mean(
    add_run: AddRun, tmp_path: Path
) -> None:
    left = (6651, 5651, 6151)
    for seed, aa in enumerate(left):
        run_id = add_run("A", (9000, 8000, 7000, 7000, aa), n=10000, seed=seed)
    number = best(run_summary(tmp_path, run_id))
    expected = seeds_summary([aa / 100 for aa in left])
    assert (number.low, number.high) == pytest.approx((expected.low, expected.high))


def test_deviations_beside_intervals_are_distinguished(add_run: AddRun, tmp_path: Path) -> None:
    for seed in (0, 1):
        add_run("A", (340, 280, 270, 268, 262 + seed), seed=seed)
    run_id = add_run("B", (340, 280, 270, 268, 261))
    summary = run_summary(tmp_path, run_id)
    titles = [column.title for column in summary.table.columns]
    assert "AA" in titles
    assert "AA [95%]" not in titles
    text = printed(summary, 200)
    assert "a \u00b1 b  mean and standard deviation over seeds" in text
    assert "[a, b]  95% interval (Wilson) from n test images, computed here for printed" in text
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    summary.render(console)
    assert isinstance(console.file, io.StringIO)
    leader = next(line for line in console.file.getvalue().splitlines() if "72.92" in line)
    assert "\x1b[1m" in leader.partition("72.92")[0][-12:]


def test_no_width_leaves_out_the_number_that_ranks(add_run: AddRun, tmp_path: Path) -> None:
    for seed in (0, 1):
        short = {"attacks": ("apgd-ce", "apgd-t"), "arch": "a-network-of-a-long-name"}
        add_run("B", (340, 280, 271), seed=seed, params={"w": 1}, **short)
        run_id = add_run("A", (340, 280, 270 + seed), seed=seed, **short)
    summary = run_summary(tmp_path, run_id)
    assert all("75.14 \u00b1 0.20" in printed(summary, width) for width in (30, 40, 80))


def ranked_row(name: str, value: float, half: float | None = None, *, partial: bool = False) -> Row:
    low, high = (None, None) if half is None else (value - half, value + half)
    cells = {"aa": Cell(ours=Number(value, "R", low, high))}
    return Row("ours", (name, "a"), cells=cells, partial=partial)


def test_order_is_by_the_number_though_a_wide_interval_reaches_the_leader() -> None:
    rows = [ranked_row("wide", 60, 30), ranked_row("narrow", 70, 1), ranked_row("best", 80, 2)]
    order = [(row.labels[0], row.rank) for row in rank_rows(rows, "aa")]
    assert order == [("best", "1-2"), ("narrow", "2-3"), ("wide", "1-3")]


def test_other_parameters_are_another_row(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (340, 280, 270, 268, 262))
    add_run("A", (340, 280, 270, 268, 200), params={"w": 2}, recipe_changes={"params.w": 2})
    assert names(run_summary(tmp_path, run_id)) == ["A", "A, w=2"]


def test_a_name_has_only_the_settings_in_which_the_rows_differ(
    add_run: AddRun, tmp_path: Path
) -> None:
    shared = {"training.epochs": 8, "data.train_limit": 96}
    for teacher, correct in (("vanilla-1", 262), ("ban-2", 200)):
        changes = {**shared, "teacher.weights": teacher}
        run_id = add_run(
            "A", (340, 280, 270, 268, correct), params={"w": correct}, recipe_changes=changes
        )
    assert names(run_summary(tmp_path, run_id)) == ["A, teacher=vanilla-1", "A, teacher=ban-2"]


@pytest.mark.parametrize("held_out", [0, 16])
def test_images_and_selection_are_named(held_out: int, add_run: AddRun, tmp_path: Path) -> None:
    data, left = {"train_limit": 96, "val_size": held_out}, (340, 280, 270, 268, 262)
    run_id = add_run("A", left, selection="best-on-test", config={"data": data})
    named = f"A, {96 - held_out} training images, best on test"
    assert names(run_summary(tmp_path, run_id)) == [named]


def test_the_best_is_first_and_ranks_are_those_that_intervals_allow(
    add_run: AddRun, tmp_path: Path
) -> None:
    add_run("Low", (340, 200, 150, 110, 100))
    add_run("High", (340, 290, 280, 272, 270))
    run_id = add_run("Near", (340, 290, 280, 265, 262))
    summary = run_summary(tmp_path, run_id)
    ranks = [(row["#"], row["Method"]) for row in texts(summary)]
    assert ranks == [("1-2", "High"), ("1-2", "Near"), ("3", "Low")]
    assert [row["own"] for row in summary.to_json()["rows"]] == [False, True, False]


UNLIKE = {
    "eps": {"protocol": {"eps": 8 / 255}},
    "norm": {"protocol": {"norm": "L2"}},
    "attack version": {"protocol": {"attack_version": "standard pyautoattack-9"}},
    "images": {"protocol": {"index_sha256": "f" * 64}},
    "data": {"protocol": {"data_sha256": "f" * 64}},
    "precision": {"protocol": {"precision": "bf16"}},
    "attacks": {"attacks": ("apgd-ce", "apgd-t", "fab-t"), "correct": (340, 290, 280, 270)},
    "number": {"n": 361},
    "dataset": {"dataset": "fashion-mnist"},
    "scale": {"scale": "paper"},
    "unfinished run": {"status": "error"},
    "part of the training set": {"partial": True},
    "part of the test set": {"protocol": {"partial": True}},
}


def test_only_like_runs_rank_together(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (340, 280, 270, 268, 262))
    for what, changes in UNLIKE.items():
        add_run(what, **{"correct": (340, 290, 280, 272, 270), **changes})
    assert names(run_summary(tmp_path, run_id)) == ["A"]


def test_without_attack_the_threat_model_divides_nothing(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (340,), attacks=())
    add_run("B", (341,), attacks=(), protocol={"eps": 0.5, "norm": "L2"})
    summary = run_summary(tmp_path, run_id)
    assert summary.title == "digits | clean only | n = 360"
    assert names(summary) == ["B", "A"]
    assert [column.title for column in summary.table.columns] == ["Clean [95%]", "s/iter"]


def test_other_attacks_name_the_last_one(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (340, 280, 270), attacks=("apgd-ce", "apgd-t"))
    summary = run_summary(tmp_path, run_id)
    assert "APGD-CE + APGD-T (pyautoattack-0.2.0)" in summary.title
    assert row_of(summary, "A")["APGD-T [95%]"].startswith("75.00 [")


def test_a_partial_run_sees_all_and_ranks_with_none(add_run: AddRun, tmp_path: Path) -> None:
    add_run("Full", (340, 280, 270, 268, 250))
    run_id = add_run("Part", (340, 290, 280, 272, 270), partial=True)
    summary = run_summary(tmp_path, run_id)
    ranks = [(row["#"], row["Method"]) for row in texts(summary)]
    assert ranks == [("1", "Full"), ("partial", "Part")]
    assert [row["partial"] for row in summary.to_json()["rows"]] == [False, True]


def test_a_run_counts_once_by_its_newest_evaluation(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (340, 280, 270, 268, 262))
    add_run("A", (341, 281, 271, 269, 263), evaluation_id="later")
    (row,) = run_summary(tmp_path, run_id).to_json()["rows"]
    assert row["seeds"] == 1
    assert row["scores"]["clean"]["value"] == pytest.approx(341 / 360)
    (row,) = run_summary(tmp_path, run_id, "e1").to_json()["rows"]
    assert row["scores"]["clean"]["value"] == pytest.approx(340 / 360)


def test_a_run_without_evaluation_is_a_sentence(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (340, 280, 270, 268, 262))
    with pytest.raises(UserError, match="no finished evaluation of run nothing"):
        run_summary(tmp_path, "nothing")
    with pytest.raises(UserError, match="no finished evaluation e9 of run"):
        run_summary(tmp_path, run_id, "e9")
    unfinished = RunDirectory.create(tmp_path, "b")
    unfinished.update()
    Database(tmp_path).record(unfinished)
    with pytest.raises(UserError, match="finish the run"):
        run_summary(tmp_path, "b")


def test_printed_rows_are_beside_the_papers_protocol(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (6651, 3600, 3200, 3150, 3145), **PAPER)
    summary = run_summary(tmp_path, run_id)
    rows = summary.to_json()["rows"]
    assert {row["badge"] for row in rows} == {"P", "R"}
    assert rows[0]["scores"]["aa"]["value"] == pytest.approx(0.3167)
    assert row_of(summary, "A")["#"] == "1-8"
    assert row_of(summary, "AWP")["Src"] == "P T2"


def test_printed_rows_are_beside_nothing_else(add_run: AddRun, tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [
        {"scale": "small"},
        {"arch": "resnet8"},
        {"protocol": {"eps": 0.031}},
        {"protocol": {"eps": 8 / 255, "precision": "bf16"}},
        {"protocol": {"eps": 8 / 255, "attack_version": "standard x-1 budget(1,1,1)"}},
        {"protocol": {"eps": 8 / 255, "partial": True}},
    ]
    for seed, change in enumerate(changes):
        run_id = add_run("A", (6651, 3600, 3200, 3150, 3145), seed=seed, **PAPER | change)
        rows = run_summary(tmp_path, run_id).table.rows
        assert {row.kind for row in rows} == {"ours"}, change


def test_a_disputed_cell_is_marked(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (8531, 6600, 5800, 5750, 5713), **PAPER | {"dataset": "cifar10"})
    summary = run_summary(tmp_path, run_id)
    assert row_of(summary, "IKL-AT")["Clean"].startswith("85.31! [")
    assert "!  printed in the paper, which contradicts itself here" in printed(summary)


def test_a_distilled_run_is_beside_its_pair(add_run: AddRun, tmp_path: Path) -> None:
    pair = {"arch": "resnet20", "teacher": "resnet56", "task": "distillation", "attacks": ()}
    run_id = add_run("A", (7066,), **PAPER | pair)
    summary = run_summary(tmp_path, run_id)
    assert set(names(summary)) > {"A", "KD", "DKD"}
    assert row_of(summary, "A")["Architecture"] == "resnet20 from resnet56"


def test_a_flagged_number_is_marked_and_the_reason_is_below(
    add_run: AddRun, tmp_path: Path
) -> None:
    noisy = [{"name": "randomised", "detail": "two passes differ"}]
    blind = [{"name": "zero-gradients", "detail": "at 3 of 64 images"}]
    add_run("Other", (340, 280, 270, 268, 200), flags=blind)
    run_id = add_run("A", (340, 280, 270, 268, 262), flags=noisy)
    add_run("Sound", (340, 280, 270, 268, 250))
    summary = run_summary(tmp_path, run_id)
    cells = {name: row_of(summary, name)["AA [95%]"] for name in ("A", "Other", "Sound")}
    assert {name for name, cell in cells.items() if "? [" in cell} == {"A", "Other"}
    text = printed(summary)
    assert "?  randomised: two passes differ" in text
    assert "?  a measured number with reason to doubt it" in text
    assert "?  Other: zero-gradients" in text
    assert summary.to_json()["rows"][0]["flags"] == ["randomised: two passes differ"]


def test_the_json_form_is_json(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("A", (6651, 3600, 3200, 3150, 3145), **PAPER)
    found = json.loads(json.dumps(run_summary(tmp_path, run_id).to_json(), allow_nan=False))
    assert found["protocol"]["attacks"] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found["ranked_by"] == "aa"


def test_what_is_printed_fits_and_is_complete(add_run: AddRun, tmp_path: Path) -> None:
    add_run("A method of a rather long name", (6300, 3500, 3100, 3000, 2990), **PAPER)
    run_id = add_run("A", (6651, 3600, 3200, 3150, 3145), **PAPER)
    summary = run_summary(tmp_path, run_id)
    for width in (60, 80, 120, 200):
        text = printed(summary, width)
        lines = text.splitlines()
        assert max(map(len, lines)) <= width
        assert "…" not in text
        assert any("> A " in line and "31.45 [30.5, 32.4]" in line for line in lines)
        assert ("left out at this width" in text) == (width < 120)
        if width >= 80:
            assert "APGD-T" in lines[1]
            assert "WRN-34-10" in text.upper()
            assert lines[0].endswith("n = 10,000")


def test_80_columns_hold_seeds_of_a_small_run(add_run: AddRun, tmp_path: Path) -> None:
    ids = [add_run("A", (340, 280, 270, 268, 262 + s), seed=s) for s in range(2)]
    add_run("Natural training", (350, 20, 0, 0, 0))
    lines = printed(run_summary(tmp_path, ids[0])).splitlines()
    assert lines[0] == "digits | resnet8 | Linf 0.15 | AutoAttack (pyautoattack-0.2.0) | n = 360"
    assert "72.92 ± 0.20" in lines[3]
    assert max(map(len, lines)) <= 80


def test_an_ascii_terminal_gets_ascii(add_run: AddRun, tmp_path: Path) -> None:
    ids = [add_run("A", (340, 280, 270, 268, 262 + s), seed=s) for s in range(2)]
    assert "72.92 +- 0.20" in printed(run_summary(tmp_path, ids[0]), encoding="ascii")


def test_bold_is_for_the_first_alone(add_run: AddRun, tmp_path: Path) -> None:
    add_run("High", (340, 290, 280, 272, 270))
    run_id = add_run("Near", (340, 290, 280, 265, 262))
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    run_summary(tmp_path, run_id).render(console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    high = next(line for line in lines if "High" in line)
    near = next(line for line in lines if "Near" in line)
    assert "\x1b[1m" in high
    assert "\x1b[1m" not in near


def test_ranks_without_intervals_are_positions() -> None:
    rows = [ranked_row("c", 10), ranked_row("a", 30), ranked_row("p", 90, partial=True)]
    rows += [ranked_row("b", 20), Row("printed", ("u", "a"))]
    order = [(row.labels[0], row.rank) for row in rank_rows(rows, "aa")]
    assert order == [("a", "1"), ("b", "2"), ("c", "3"), ("p", "partial"), ("u", "")]

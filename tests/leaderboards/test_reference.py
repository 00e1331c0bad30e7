"""The reference runs in the repository are complete, and their pages say what they hold."""

import csv
import io
import json
import re
from pathlib import Path

import duckdb
import pytest

from divergence_bench.cli.main import command
from harness.experiment.sweep import SweepSpec, read_spec, rows
from harness.registry import METHODS
from harness.store.exchange import import_
from leaderboards.build import small
from leaderboards.reference import REFERENCE, reference_runs
from leaderboards.render.data import to_csv

PAGE = (REFERENCE / "README.md").read_text()
TEXT = " ".join(PAGE.split())
FOLDERS = sorted(path.parent.name for path in REFERENCE.glob("*/manifest.json"))
# The evaluations of every run of a study's sweep file: the attacks and the number of test images.
STUDIES = {
    "cifar100-distillation": {("", 10_000)},
    "cifar10-adversarial-cpu": {
        ("apgd-ce,apgd-t", 2000),
        ("apgd-ce,apgd-t,fab-t,square", 500),
    },
}

LAST_EPOCHS = """
    SELECT method, loss, parts FROM read_parquet(? || '/epochs.parquet') AS epochs
    JOIN read_parquet(? || '/runs.parquet') AS runs USING (run_id)
    WHERE seed = 0 AND arch = 'resnet8' QUALIFY epoch = max(epoch) OVER (PARTITION BY run_id)
"""


def test_the_table_is_the_report_of_the_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--table", "small", "--format", "markdown", "--results", str(tmp_path)]
    command("report").main(arguments, standalone_mode=False)
    assert capsys.readouterr().out == (REFERENCE / "small-scale.md").read_text()


def test_several_tables_are_one_json_value_and_one_csv_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--table", "small", "--results", str(tmp_path)]
    command("report").main([*arguments, "--json"], standalone_mode=False)
    tables = small(tmp_path)
    shown = json.loads(capsys.readouterr().out)
    assert [each["title"] for each in shown] == [table.title for table in tables]
    command("report").main([*arguments, "--format", "csv"], standalone_mode=False)
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["column"] for line in lines] == [
        line["column"] for table in tables for line in csv.DictReader(io.StringIO(to_csv(table)))
    ]


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_the_runs_of_its_file(study: str) -> None:
    spec = read_spec(REFERENCE / f"{study}.yaml", SweepSpec)
    planned = {row.config.run_id for row in rows(spec)}
    stored = reference_runs().query(
        """SELECT run_id, attacks, any_value(evaluations.n) AS n, count(*) AS verdicts
        FROM runs JOIN evaluations USING (run_id) JOIN verdicts USING (run_id, evaluation_id)
        WHERE runs.status = 'success' AND evaluations.status = 'success' GROUP BY ALL"""
    )
    assert (stored["n"] == stored["verdicts"]).all()
    found = set(zip(stored["run_id"], stored["attacks"], stored["n"], strict=True))
    assert {(run_id, *each) for run_id in planned for each in STUDIES[study]} <= found


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_page_says_how_to_import_each_folder(folder: str, tmp_path: Path) -> None:
    assert f"python -m harness db import results/reference/{folder}\n" in PAGE
    merged = import_(tmp_path, REFERENCE / folder)
    assert merged.added
    assert not merged.conflicts
    assert not merged.left_out


def test_the_losses_that_explain_low_rows_are_those_of_the_records() -> None:
    last = {}
    folder = REFERENCE / "cifar100-distillation"
    for method, loss, parts in duckdb.execute(LAST_EPOCHS, [str(folder)] * 2).fetchall():
        last[method] = {"loss": loss, **json.loads(parts)}
    shares = (
        0.02 * last["cc"]["correlation"] / last["cc"]["loss"],
        (last["kdsvd"]["correlation"] / last["kdsvd"]["loss"]),
    )
    assert "end as {:.1%} and {:.1%} of the loss".format(*shares) in PAGE
    ft, vid, natural, crd = (last[name]["ce"] for name in ("ft", "vid", "vanilla", "crd"))
    assert f"{ft:.2f} and {vid:.2f}, is nearly that of natural training, {natural:.2f}" in PAGE
    assert f"to {last['crd']['contrast']:.1f} and is still falling" in PAGE
    assert f"the cross-entropy, {crd:.2f}, is near" in PAGE


def test_the_losses_that_explain_low_robust_rows_are_those_of_the_records() -> None:
    folder = REFERENCE / "cifar10-adversarial-cpu"
    last = {
        method: json.loads(parts)
        for method, _, parts in duckdb.execute(LAST_EPOCHS, [str(folder)] * 2).fetchall()
    }
    guide, teacher = last["lbgat"]["natural_ce"], last["vanilla"]["ce"]
    assert f"is still {guide:.2f} in the last epoch, that of `hat`'s teacher {teacher:.2f}" in TEXT
    assert f"0.90 for uniform ones, is still {last['score']['label']:.2f} in the last" in TEXT


def test_the_last_two_attacks_of_the_adversarial_study_broke_no_image() -> None:
    assert "FAB-T and Square broke no image that had survived APGD-T." in PAGE
    verdicts = str(REFERENCE / "cifar10-adversarial-cpu" / "verdicts.parquet")
    broken_by = duckdb.execute("SELECT broken_by FROM read_parquet(?)", [verdicts]).df()
    assert set(broken_by["broken_by"].dropna()) == {"clean", "apgd-ce", "apgd-t"}


def test_the_adversarial_study_has_the_accuracies_and_times_that_the_page_names() -> None:
    folder = str(REFERENCE / "cifar10-adversarial-cpu")
    accuracies = duckdb.execute(
        """SELECT name, map_from_entries(list((method, 100 * value)))
        FROM read_parquet(? || '/metrics.parquet')
        JOIN read_parquet(? || '/evaluations.parquet') AS e USING (run_id, evaluation_id)
        JOIN read_parquet(? || '/runs.parquet') AS r USING (run_id)
        WHERE name IN ('clean', 'robust') AND e.n = 2000 GROUP BY name""",
        [folder] * 3,
    ).fetchall()
    clean, robust = (dict(accuracies)[name] for name in ("clean", "robust"))
    no_clean_ce = ("pgd-at", "at-awp", "las-at", "las-awp", "mart", "proxy", "lbgat")
    low = [clean[method] for method in no_clean_ce]
    others = [value for method, value in clean.items() if method not in no_clean_ce]
    gaps = min(others) - max(low), max(others) - min(low)
    assert "{:.0f} to {:.0f} points below that of the other methods".format(*gaps) in TEXT
    assert f"which costs {clean['pgd-at'] - clean['at-awp']:.2f} points of clean" in TEXT
    assert "`hat` is made for clean accuracy, which is the highest" in TEXT
    assert "`las-awp`, with the lowest clean accuracy, also" in TEXT
    assert min(clean, key=clean.__getitem__) == "las-awp"
    gap = robust["kl"] - robust["acat"]
    assert f"is the third highest, its robust accuracy {gap:.2f} points below that of `kl`" in TEXT
    weights = (METHODS.get(name).params().kl_weight for name in ("hat", "trades"))
    assert "its divergence has weight {:g}, that of `trades` {:g}.".format(*weights) in TEXT
    assert sorted(clean, key=clean.__getitem__)[-3:] == ["acat", "dajat", "hat"]
    assert sorted(robust, key=robust.__getitem__)[:3] == ["dajat", "wang-dm", "gowal"]
    assert "`dajat`, the lowest row," in TEXT
    assert "`gowal` and `wang-dm`, among the three lowest rows," in TEXT
    rates = dict(
        duckdb.execute(
            """SELECT method, avg(lr) FROM read_parquet(? || '/epochs.parquet') AS epochs
            JOIN read_parquet(? || '/runs.parquet') AS runs USING (run_id) GROUP BY method""",
            [folder] * 2,
        ).fetchall()
    )
    lowest, second = rates.pop("gowal"), rates.pop("wang-dm")
    assert f"its mean over the epochs, {lowest:.3f}, is less than half that of any other" in TEXT
    assert lowest == second < min(rates.values()) / 2
    minutes = duckdb.execute(
        """SELECT method, sum(seconds) / 60 FROM read_parquet(? || '/epochs.parquet') AS epochs
        JOIN read_parquet(? || '/runs.parquet') AS runs USING (run_id)
        WHERE method NOT IN ('gkl', 'trades-awp', 'vanilla') GROUP BY method""",
        [folder] * 2,
    ).fetchall()
    *usual, third, second, first = sorted(minutes, key=lambda line: line[1])
    times = f"took {usual[0][1]:.0f} to {usual[-1][1]:.0f} minutes of training "
    long = ", ".join(f"`{method}` {total:.0f}" for method, total in (third, second, first))
    assert f"{times}({long})" in TEXT
    (attacked,) = duckdb.execute(
        """SELECT min(wall_s) / 60, max(wall_s) / 60
        FROM read_parquet(? || '/evaluations.parquet') WHERE attacks <> ''""",
        [folder],
    ).fetchall()
    assert "and {:.0f} to {:.0f} minutes for each".format(*attacked) in TEXT


def test_the_epochs_of_las_methods_are_those_that_the_page_names() -> None:
    folder = str(REFERENCE / "cifar10-adversarial-cpu")
    selected = duckdb.execute(
        "SELECT method, selected_epoch FROM read_parquet(? || '/runs.parquet')", [folder]
    ).fetchall()
    assert f"and it keeps epoch {dict(selected)['las-awp']}." in TEXT
    chosen = dict(selected)["las-trades"]
    epochs = duckdb.execute(
        """SELECT epoch, 100 * pgd_val, 100 * clean_val FROM read_parquet(? || '/epochs.parquet')
        JOIN read_parquet(? || '/runs.parquet') USING (run_id) WHERE method = 'las-trades'
        ORDER BY epoch""",
        [folder] * 2,
    ).fetchall()
    (_, pgd, clean), (_, last_pgd, last_clean) = epochs[chosen - 1], epochs[-1]
    assert pgd == max(each[1] for each in epochs)
    assert f"keeps epoch {chosen}, whose" in TEXT
    assert f"is the highest, {pgd:.1f}%. In the last epoch it is {last_pgd:.1f}%, and" in TEXT
    assert f"clean accuracy on them {last_clean:.1f}% instead of {clean:.1f}%" in TEXT


def test_a_method_without_a_row_would_train_as_another() -> None:
    assert "`rebuffi` has no row: without generated images it trains as `gowal` does." in TEXT
    study = read_spec(REFERENCE / "cifar10-adversarial-cpu.yaml", SweepSpec)
    (run,) = (run for run in study.runs if run.method == "gowal")
    pair = (run, run.model_copy(update={"method": "rebuffi"}))
    gowal, rebuffi = (row.config for row in rows(study.model_copy(update={"runs": pair})))
    assert gowal.model_copy(update={"method": "rebuffi"}) == rebuffi
    assert METHODS.get("gowal").task is METHODS.get("rebuffi").task
    missing = set(METHODS.names()) - {each.method for each in study.runs}
    adversarial = {n for n in METHODS.names() if METHODS.get(n).card.family == "adversarial"}
    assert missing & adversarial == {"rebuffi"}


def test_the_page_compares_runs_that_are_there() -> None:
    (named,) = re.findall(r"^python -m harness compare (.+)$", PAGE, re.MULTILINE)
    assert set(named.split()) <= set(reference_runs().query("SELECT run_id FROM runs")["run_id"])

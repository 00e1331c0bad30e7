import math
import re
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import UserError
from harness.evaluation.analysis.statistics import wilson_interval
from harness.store.database import Database
from leaderboards.printed import (
    REPORTED_CSV,
    evidence_of,
    printed_lines,
    printed_number,
    printed_rows,
)
from leaderboards.table import Row

FRAME = pd.read_csv(REPORTED_CSV, keep_default_na=False, na_values={"std": ""})


def test_every_printed_number_is_there_and_typed() -> None:
    assert {line["table"] for line in printed_lines()} == set("123456789")
    numbers = [printed_number(line) for line in printed_lines()]
    assert len(numbers) == 273
    assert all(map(math.isfinite, (number.value for number in numbers)))
    assert sum(number.std is not None for number in numbers) == 5
    assert sum(number.bold for number in numbers) == 20
    assert sum(number.underlined for number in numbers) == 17


def test_the_database_holds_the_same_numbers(tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.load_reported(REPORTED_CSV)
    stored = database.query("SELECT * FROM reported ORDER BY row_number")
    frame = FRAME.rename(columns={"table": "table_number"})
    shared = stored[frame.columns]
    pd.testing.assert_frame_equal(shared, frame, check_dtype=False)


def test_whatever_a_note_calls_contradictory_is_disputed() -> None:
    pattern = re.compile("text says|copy error|^inconsistent|^WRONG in paper")
    contradicted = [line for line in printed_lines() if pattern.search(line["note"])]
    assert len(contradicted) == 12
    assert all(map(evidence_of, contradicted))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "reported.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="not a file of printed numbers"):
        printed_lines(path)


def test_rows_of_one_network_trained_on_the_data_set_alone() -> None:
    rows = printed_rows("cifar100", "wrn-34-10", "", metric="aa")
    found = {(row.labels[0], row.facts["table"], value(row, "aa")) for row in rows}
    assert found >= {("AWP", "2", 28.86), ("IKL-AT", "2", 31.45), ("DKL", "1", 30.2)}
    # Table 1's last row is Table 2's IKL-AT; the generated-data rows and Tables 6, 8, 9 stay out.
    assert len(rows) == 10
    low, high = wilson_interval(3145, 10000)
    number = next(row.number("aa") for row in rows if value(row, "aa") == 31.45)
    assert number is not None
    assert number.interval == pytest.approx((100 * low, 100 * high))


def value(row: Row, metric: str) -> float | None:
    number = row.number(metric)
    return number.value if number else None


def test_a_student_is_matched_with_its_teacher_and_shows_no_interval() -> None:
    rows = printed_rows("cifar100", "resnet20", "resnet56", metric="clean")
    numbers = {row.labels[0]: row.number("clean") for row in rows}
    assert set(numbers) >= {"KD", "DKD", "IKL-KD", "ReviewKD"}
    assert not any(name.startswith("Delta") for name in numbers)
    kd = numbers["KD"]
    assert kd is not None
    assert (kd.value, kd.seeds, kd.interval) == (70.66, 3, None)
    # What ranks it is no narrower than what its images leave open.
    ends = [100 * end for end in wilson_interval(7066, 10000)]
    assert [kd.low, kd.high] == pytest.approx(ends)
    assert printed_rows("cifar100", "resnet20", "resnet110", metric="clean") == []
    with_std = printed_rows("cifar100", "shufflenet-v1", "wrn-40-2", metric="clean")
    (ikl,) = [row.number("clean") for row in with_std if row.labels[0] == "IKL-KD"]
    assert ikl is not None
    assert ikl.std == 0.01


def test_rows_of_equal_value_in_a_table_of_comparisons_all_stay() -> None:
    columns = ["dataset", "student_or_arch", "teacher"]
    for printed, group in FRAME.query("task == 'kd'").groupby(columns):
        dataset, student, teacher = map(str, printed)
        names = {"CIFAR-100": "cifar100", "ImageNet": "imagenet"}
        lines = group[(group["metric"] == "top1") & ~group["method"].str.startswith("Delta")]
        arch = {"MobileNetV1": "mobilenet-v1"}.get(student, student.lower())
        rows = printed_rows(names[dataset], arch, teacher.lower(), metric="clean")
        assert sorted(row.labels[0] for row in rows) == sorted(lines["method"]), printed

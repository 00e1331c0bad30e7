"""RobustBench's entries come in: read, refused, kept with their source."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.store.database import Database
from leaderboards.printed import REPORTED_CSV
from leaderboards.robustbench import Imported, import_folder, read_entry
from tests.leaderboards.entries import ATTACKED, CORRUPTED, board_files, entries, folder_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return board_files(tmp_path / "model_info")


@pytest.mark.parametrize("entry", [ATTACKED, CORRUPTED, ATTACKED | {"later_field": [1]}])
def test_an_entry_round_trips(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(entry))
    written = read_entry(path).to_json()
    assert written == entry


def test_they_are_in_reported_with_badge_and_source(folder: Path, tmp_path: Path) -> None:
    database = Database(tmp_path)
    database.load_reported(REPORTED_CSV)
    import_folder(folder, tmp_path)
    counts = "SELECT badge, count(*) AS n FROM reported GROUP BY badge ORDER BY badge"
    expected = [["P", 273], ["RB", 3 + 3 + 3 + 4 + 3]]
    assert database.query(counts).values.tolist() == expected
    sources = database.query("SELECT DISTINCT source FROM reported WHERE badge = 'RB'")
    assert sources["source"].tolist() == ["https://arxiv.org/abs/2302.04638"]
    # Loading again replaces; a rebuilt database has both.
    import_folder(folder, tmp_path)
    database.load_reported(REPORTED_CSV)
    assert database.query(counts).values.tolist() == expected
    (tmp_path / "runs").mkdir()
    assert database.rebuild(reported=REPORTED_CSV).counts["reported"] == 273 + 16
    assert database.query(counts).values.tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a model_info file"),
        ("[]", "not a model_info file"),
        (json.dumps({**ATTACKED, "clean_acc": 75.2}), "clean_acc: input should be a valid string"),
        (json.dumps({**ATTACKED, "clean_acc": "much"}), "'much', which is not a number"),
        (json.dumps({k: v for k, v in ATTACKED.items() if k != "venue"}), "venue: field required"),
    ],
)
def test_another_file_is_refused_and_nothing_loaded(
    folder: Path, tmp_path: Path, text: str, message: str
) -> None:
    wrong = folder / "cifar10" / "Linf" / "Wrong.json"
    wrong.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        import_folder(folder, tmp_path)
    assert str(wrong) in str(caught.value)
    assert not Database(tmp_path).path.exists()


def test_an_entry_belongs_to_its_folder_whatever_its_file_says(tmp_path: Path) -> None:
    """Five published files below ``cifar100`` name the dataset ``cifar10``."""
    ten = ATTACKED | {"dataset": "cifar10"}
    folder = folder_of(
        tmp_path / "model_info",
        cifar10__Linf__Pretrained=ten | {"clean_acc": "87.11", "autoattack_acc": "54.92"},
        cifar100__Linf__Pretrained=ten | {"clean_acc": "59.23", "autoattack_acc": "28.42"},
    )
    found = import_folder(folder, tmp_path)
    remark = "the file names the dataset cifar10; the dataset of its folder is used"
    assert found == Imported(2, (f"cifar100/Linf/Pretrained: {remark}",))
    for table, expected, noted in ((4, [87.11, 54.92], False), (2, [59.23, 28.42], True)):
        (row,) = entries(table, tmp_path)
        printed = [row.cells[metric].printed for metric in ("clean", "aa")]
        assert [number.value for number in printed if number] == expected
        assert (remark in " ".join(row.notes)) == noted


def test_two_files_of_one_entry_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkouts"
    for checkout in ("new", "old"):
        folder_of(folder / checkout / "model_info", cifar100__Linf__Same=ATTACKED)
    with pytest.raises(UserError, match=r"new/.*old/.* are both the entry cifar100/Linf/Same"):
        import_folder(folder, tmp_path)
    assert not Database(tmp_path).path.exists()


@pytest.mark.parametrize("place", ["Loose", "cifar100__Loose", "mnist__Linf__Loose"])
def test_an_entry_outside_the_known_folders_is_refused(tmp_path: Path, place: str) -> None:
    folder = folder_of(tmp_path / "model_info", **{place: ATTACKED})
    with pytest.raises(UserError, match=r"Loose\.json is not in a folder such as cifar10/Linf"):
        import_folder(folder, tmp_path)


def test_a_folder_without_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no JSON file"):
        import_folder(tmp_path, tmp_path)

"""RobustBench's entries in and out; the shape is that of its 236 public files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.evaluation.analysis.statistics import wilson_interval
from harness.store.database import Database
from leaderboards.build import field
from leaderboards.field import ALONE, UNRELIABLE
from leaderboards.printed import REPORTED_CSV
from leaderboards.published import ENTRIES_CSV
from leaderboards.render.plots import plots_of
from leaderboards.render.report import text_of
from leaderboards.robustbench import (
    Imported,
    architecture,
    export_run,
    import_folder,
    read_entry,
)
from leaderboards.table import Row

AddRun = Callable[..., str]

# Key to (type, in how many of the 236 files): 235 where one file has null.
SHAPE = {
    "link": (str, 236),
    "name": (str, 236),
    "authors": (str, 236),
    "additional_data": (bool, 236),
    "number_forward_passes": (int, 236),
    "dataset": (str, 236),
    "venue": (str, 236),
    "architecture": (str, 236),
    "eps": (str, 197),
    "clean_acc": (str, 236),
    "reported": (str, 235),
    "autoattack_acc": (str, 188),
    "unreliable": (bool, 147),
    "footnote": (str, 124),
    "external": (str, 25),
    "corruptions_acc": (str, 48),
    "corruptions_mce": (str, 12),
    "corruptions_acc_3d": (str, 12),
    "corruptions_mce_3d": (str, 12),
}
ATTACKED: dict[str, Any] = {
    "link": "https://arxiv.org/abs/2302.04638",
    "name": "Better Diffusion Models Further Improve Adversarial Training",
    "authors": "Zekai Wang, Tianyu Pang",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar100",
    "venue": "ICML 2023",
    "architecture": "WideResNet-70-16",
    "eps": "8/255",
    "clean_acc": "75.22",
    "reported": "42.67",
    "autoattack_acc": "42.67",
    "footnote": 'It uses <a href="x">additional</a> 50M synthetic images &amp; no more.',
    "unreliable": False,
}
CORRUPTED = {
    name: value for name, value in ATTACKED.items() if name not in ("autoattack_acc", "unreliable")
} | {
    "eps": None,
    "corruptions_acc": "80.10",
    "corruptions_mce": "33.00",
    "footnote": None,
    "reported": "null",
}
PAPER = {"name": "Mine", "authors": "A B, C D", "link": "https://example.org", "venue": "N/A"}


def folder_of(root: Path, **entries: dict[str, Any]) -> Path:
    for place, entry in entries.items():
        path = root / (place.replace("__", "/") + ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(
        tmp_path / "model_info",
        cifar100__Linf__Wang2023Better=ATTACKED,
        cifar100__Linf__Other_031=ATTACKED | {"eps": "0.031"},
        cifar100__L2__Other_L2=ATTACKED,
        cifar10__Linf__Ten=ATTACKED
        | {"dataset": "cifar10", "external": "60.00", "additional_data": True},
        cifar100__corruptions__Blur=CORRUPTED,
    )


@pytest.mark.parametrize("entry", [ATTACKED, CORRUPTED, ATTACKED | {"later_field": [1]}])
def test_an_entry_round_trips(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(entry))
    written = read_entry(path).to_json()
    assert written == entry


def test_entries_are_beside_the_tables_of_their_threat_model(folder: Path, tmp_path: Path) -> None:
    assert import_folder(folder, tmp_path) == Imported(5, ())
    published = entries(2, tmp_path)
    found = {row.labels[1]: row for row in published}
    # Boards list a radius of 0.031 with that of 8/255.
    assert set(found) == {"Wang2023Better", "Other_031"}
    assert {row.labels[2:] for row in published} == {("WRN-70-16", "no extra real images")}
    number = found["Wang2023Better"].cells["aa"].printed
    assert number is not None
    assert (number.value, number.badge) == (42.67, "RB")
    notes = found["Wang2023Better"].notes
    assert "It uses additional 50M synthetic images & no more." in notes
    assert "https://arxiv.org/abs/2302.04638" in notes
    assert "Attacked at a radius of 0.031." in found["Other_031"].notes
    ten = entries(4, tmp_path)
    assert [row.labels for row in ten] == [("1", "Ten", "WRN-70-16", "extra real images")]


def entries(number: int, results: Path | None) -> list[Row]:
    return [row for row in field(number, results).rows if row.kind == "published"]


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
        "an attack from elsewhere leaves 40.00, by which it ranks",
    )
    assert flags["Broken"] == ("an attack from elsewhere leaves 41.00, by which it ranks",)
    assert flags["Unsure"] == (UNRELIABLE,)
    assert flags["Sound"] == flags["Higher"] == ()
    assert "The best attack from elsewhere leaves 40.00." in rows["Doubt"].notes
    assert "The best attack from elsewhere leaves 39.50." in rows["Higher"].notes
    text = text_of(table, "markdown")
    assert "50.00 RB?" in text
    assert "- ?  a measured number with reason to doubt it" in text
    assert f"- ?  Doubt: {UNRELIABLE}" in text
    (plot,) = plots_of(table)
    assert "Wang et al. [38] (72.58, 38.83)" in plot.svg
    assert "?: a measured number with reason to doubt it" in plot.caption


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
        ("{", "no model_info file"),
        ("[]", "no model_info file"),
        (json.dumps({**ATTACKED, "clean_acc": 75.2}), "clean_acc: input should be a valid string"),
        (json.dumps({**ATTACKED, "clean_acc": "much"}), "'much', which is no number"),
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
    remark = "the file names the dataset cifar10; its folder is taken"
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


def test_imagenets_board_is_of_its_own_5000_images(add_run: AddRun, tmp_path: Path) -> None:
    run = {"n": 5000, "arch": "wrn-50-2", "scale": "paper", "protocol": {"eps": 4 / 255}}
    run_id = add_run("IKL", (3500, 2000, 1900, 1900, 1900), **run, dataset="imagenet-robustbench")
    export_run(tmp_path, run_id, tmp_path / "x.json", metadata=PAPER)
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["dataset"], found["eps"]) == ("imagenet", "4/255")
    assert (found["clean_acc"], found["autoattack_acc"]) == ("70.00", "38.00")
    other = add_run("IKL", (3500, 2000, 1900, 1900, 1900), **run, dataset="imagenet")
    with pytest.raises(UserError, match=r"imagenet-robustbench Linf 4/255 \(n = 5000\)"):
        export_run(tmp_path, other, tmp_path / "y.json", metadata=PAPER)


def test_a_folder_without_entries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no JSON file"):
        import_folder(tmp_path, tmp_path)


FULL = {
    "n": 10000,
    "dataset": "cifar100",
    "arch": "wrn-34-10",
    "scale": "paper",
    "protocol": {"eps": 8 / 255},
}
LEFT = (6651, 3546, 3145, 3145, 3145)
BIBTEX = """@inproceedings{x,
  title = {Decoupled {KL}},
  author = {Cui, Jiequan and Zhong, Zhisheng},
  booktitle = {NeurIPS},
  year = {2024}
}"""


def test_a_run_becomes_a_complete_entry(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("IKL", LEFT, **FULL)
    out = tmp_path / "Mine2026.json"
    export_run(tmp_path, run_id, out, metadata={"link": "https://example.org"}, bibtex=BIBTEX)
    found = json.loads(out.read_text())
    assert found == {
        "link": "https://example.org",
        "name": "Decoupled KL",
        "authors": "Jiequan Cui, Zhisheng Zhong",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar100",
        "venue": "NeurIPS 2024",
        "architecture": "WideResNet-34-10",
        "eps": "8/255",
        "clean_acc": "66.51",
        "reported": "31.45",
        "autoattack_acc": "31.45",
        "unreliable": False,
    }
    assert list(found) == [name for name in SHAPE if name in found][: len(found)]
    assert all(isinstance(value, SHAPE[name][0]) for name, value in found.items())
    always = {name for name, (_, count) in SHAPE.items() if count >= 235}
    assert always <= set(found)
    # What was exported can be imported.
    place = tmp_path / "model_info" / "cifar100" / "Linf"
    place.mkdir(parents=True)
    out.rename(place / out.name)
    assert import_folder(tmp_path / "model_info", tmp_path).entries == 1
    (row,) = entries(2, tmp_path)
    assert row.labels[1:3] == ("Mine2026", "WRN-34-10")


def test_options_come_before_what_is_known(add_run: AddRun, tmp_path: Path) -> None:
    flags = [{"name": "zero-gradients", "detail": "12 images"}]
    config = {"data": {"generated_name": "edm-50m"}}
    run_id = add_run("IKL", LEFT, flags=flags, config=config, **FULL)
    out = tmp_path / "x.json"
    export_run(tmp_path, run_id, out, metadata=PAPER | {"reported": "31.40"}, bibtex=BIBTEX)
    found = json.loads(out.read_text())
    assert (found["name"], found["venue"], found["reported"]) == ("Mine", "N/A", "31.40")
    assert found["unreliable"] is True
    assert found["footnote"] == "It uses additional 50M synthetic images in training."


def test_what_the_paper_lacks_must_be_given(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("IKL", LEFT, **FULL)
    out = tmp_path / "x.json"
    with pytest.raises(UserError, match="give --authors, --venue"):
        export_run(tmp_path, run_id, out, metadata={"link": "l", "name": "n"})
    assert not out.exists()


@pytest.mark.parametrize(
    "other",
    [
        {"protocol": {"eps": 4 / 255}},
        {"protocol": {"eps": 8 / 255, "partial": True}},
        {"protocol": {"eps": 8 / 255, "precision": "bf16"}},
        {"protocol": {"eps": 8 / 255, "attack_version": "standard p-1, 5 steps"}},
        {"n": 9999},
        {"dataset": "digits"},
    ],
)
def test_what_robustbench_would_not_take_is_not_written(
    add_run: AddRun, tmp_path: Path, other: dict[str, Any]
) -> None:
    run_id = add_run("IKL", LEFT, **{**FULL, **other})
    with pytest.raises(UserError, match="no finished evaluation that RobustBench takes"):
        export_run(tmp_path, run_id, tmp_path / "x.json", metadata=PAPER)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("wrn-28-10-silu", "WideResNet-28-10"),
        ("preact-resnet18", "PreActResNet-18"),
        ("resnet18-cifar", "ResNet-18"),
        ("imagenet-resnet50", "ResNet-50"),
        ("vgg8", "vgg8"),
    ],
)
def test_architectures_have_robustbenchs_names(arch: str, name: str) -> None:
    assert architecture(arch) == name

"""Runs as RobustBench's entries; the shape is that of its 236 public files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from leaderboards.robustbench import architecture, export_run, import_folder
from tests.leaderboards.entries import FULL, LEFT, entries

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
PAPER = {"name": "Mine", "authors": "A B, C D", "link": "https://example.org", "venue": "N/A"}
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
    for reported in ("abc", "nan", "156.3"):
        with pytest.raises(UserError, match=f"'{reported}' is no accuracy in percent"):
            export_run(tmp_path, run_id, out, metadata=PAPER | {"reported": reported})
    loaded = add_run("KL", LEFT, kind="loaded", **FULL)
    with pytest.raises(UserError, match=r"give --additional-data$"):
        export_run(tmp_path, loaded, out, metadata=PAPER)
    assert not out.exists()
    export_run(tmp_path, loaded, out, metadata=PAPER | {"additional_data": True})
    assert json.loads(out.read_text())["additional_data"] is True


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
    with pytest.raises(UserError, match="no finished evaluation that RobustBench accepts"):
        export_run(tmp_path, run_id, tmp_path / "x.json", metadata=PAPER)
    assert not (tmp_path / "x.json").exists()


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


def test_imagenets_board_is_of_its_own_5000_images(add_run: AddRun, tmp_path: Path) -> None:
    run = {"n": 5000, "arch": "wrn-50-2", "scale": "paper", "protocol": {"eps": 4 / 255}}
    run_id = add_run("IKL", (3500, 2000, 1900, 1900, 1900), **run, dataset="imagenet-robustbench")
    export_run(tmp_path, run_id, tmp_path / "x.json", metadata=PAPER)
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["dataset"], found["eps"]) == ("imagenet", "4/255")
    assert (found["clean_acc"], found["autoattack_acc"]) == ("70.00", "38.00")
    other = add_run("IKL", (3500, 2000, 1900, 1900, 1900), **run, dataset="imagenet")
    with pytest.raises(UserError, match=r"imagenet-robustbench Linf 4/255 \(n = 5,000\)"):
        export_run(tmp_path, other, tmp_path / "y.json", metadata=PAPER)

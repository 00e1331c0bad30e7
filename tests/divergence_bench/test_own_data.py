"""Datasets and networks of the user's own: trained, distilled, evaluated elsewhere, in tables."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import divergence_bench as bench
from app.embedding import embedded
from harness.data import DATASETS, digits, load_dataset
from harness.data.base import DatasetSource
from harness.errors import UserError
from harness.models import ARCHITECTURES
from leaderboards.build import small

ROOT = Path(bench.__file__).parents[1]
SHORT: dict[str, Any] = {"epochs": 1, "attacks": "none", "quiet": True}
# What another distribution registers by its entry points.
PACKAGE = """
from dataclasses import replace

from harness.data import digits
from harness.data.base import DatasetSource, ImageSet
from harness.models.resnet import resnet8

INFO = replace(digits.INFO, name="my-digits", max_train_size=100, max_test_size=60)


def load(root, split):
    found = digits.load(root, split).subset(INFO.official_size(split))
    return ImageSet(found.images, found.labels, INFO, split)


DATASET = DatasetSource(INFO, load)
network = resnet8
"""
ENTRY_POINTS = """
[harness.datasets]
my-digits = my_images:DATASET

[harness.models]
my-network = my_images:network
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages that has one with a dataset and a network."""
    folder = tmp_path / "site"
    facts = folder / "my_images-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "my_images.py").write_text(PACKAGE)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-images\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, on the path of this process."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(site)
        forget()
        yield site
    sys.modules.pop("my_images", None)
    forget()


def forget() -> None:
    """The registries look for entry points again."""
    for registry in (DATASETS, ARCHITECTURES):
        registry.__dict__.pop("_targets", None)


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Digits 0 to 3 as PNG files in class folders."""
    data = load_dataset("digits")
    for split, source in (("train", data.train), ("val", data.test)):
        images = (source.images_float()[:, 0] * 255).round().byte().numpy()
        for number, (image, label) in enumerate(zip(images, source.labels, strict=True)):
            if label < 4 and number < 200:
                folder = tmp_path / "flowers" / split / f"kind{label}"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.asarray(image)).save(folder / f"{number}.png")
    return tmp_path / "flowers"


def test_an_installed_dataset_and_network_work_in_another_process_and_are_missed_without(
    installed: Path, tmp_path: Path, call, refused
) -> None:
    results = tmp_path / "results"
    found = bench.train("vanilla", "my-digits", arch="my-network", results=results, **SHORT)
    assert found.clean.n == 60
    command = [sys.executable, "-m", "harness", "evaluate", found.run_id, "--results", str(results)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(ROOT)])}
    ended = subprocess.run(
        [*command, "--attacks", "", "--eval-limit", "20"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "my-digits | clean only | n = 20" in ended.stdout
    place = (str(results), found.run_id, 0)
    mapped = embedded(*place, eps=0.1, classes=3, per_class=5, seed=0, root=None)
    assert mapped.points["label"].nunique() == 3

    sys.path.remove(str(installed))
    forget()
    line = refused("evaluate", found.run_id, "--results", str(results))
    assert line == (
        f"error: run {found.run_id} has the dataset my-digits, which is not registered here: "
        "install the package whose entry point harness.datasets registers it, or call "
        "divergence_bench.register_dataset first"
    )
    with pytest.raises(UserError, match="dataset my-digits, which is not registered here"):
        bench.load_model(found.run_id, results=results)
    with pytest.raises(UserError, match="dataset my-digits, which is not registered here"):
        embedded(*place, eps=0.1, classes=3, per_class=6, seed=0, root=None)
    with DATASETS.temporarily("my-digits", DATASETS.get("digits")):
        with pytest.raises(UserError, match="architecture my-network, which is not registered"):
            bench.load_model(found.run_id, results=results)
    sys.path.insert(0, str(installed))


def test_what_a_program_registers_can_be_named() -> None:
    own = DatasetSource(replace(DATASETS.get("digits").info, name="mine"), digits.load)
    bench.register_dataset("mine", own)
    bench.register_model("my-network", ARCHITECTURES.get("resnet8"))
    assert ("mine" in bench.datasets(), "my-network" in bench.models()) == (True, True)
    assert load_dataset("mine", splits=("test",)).test.info.name == "digits"
    with pytest.raises(UserError, match="the description names the dataset 'mine', not 'other'"):
        bench.register_dataset("other", own)
    with pytest.raises(UserError, match="'my-network' exists already: choose another name"):
        bench.register_model("my-network", ARCHITECTURES.get("resnet8"))


def test_a_folder_is_trained_on_evaluated_again_and_mapped(
    flowers: Path, tmp_path: Path, call
) -> None:
    results = tmp_path / "results"
    found = bench.train("vanilla", f"folder:{flowers}", results=results, **SHORT)
    ended = call(
        *f"run --method vanilla --dataset folder:{flowers} --epochs 1 --attacks".split(), "",
        "--dry-run", "--json", "--results", str(results),
    )  # fmt: skip
    assert found.run_id in ended.out
    evaluate = f"evaluate {found.run_id} --results {results} --eval-limit 20 --json --attacks"
    ended = call(*evaluate.split(), "")
    assert ended.status == 0, ended.err
    again = bench.evaluate(
        found.run_id, f"folder:{flowers}", results=results, attacks="none", n=20, quiet=True
    )
    assert again.run_id == found.run_id
    model = bench.load_model(found.run_id, results=results)
    mine = bench.evaluate(
        model, f"folder:{flowers}", results=results, attacks="none", name="mine", quiet=True
    )
    assert mine.metrics["clean"] == found.metrics["clean"]
    assert bench.results(results)["dataset"].nunique() == 1
    assert bench.compare(mine, found).metrics["clean"].difference == 0
    place = (str(results), found.run_id, 0)
    mapped = embedded(*place, eps=0.1, classes=2, per_class=5, seed=0, root=str(flowers))
    assert mapped.points["kind"].value_counts().to_dict() == {"clean": 10, "adversarial": 10}


@pytest.mark.parametrize("dataset", ["digits", "my-digits", "folder"])
def test_distillation_trains_its_teacher_and_a_table_shows_it(
    dataset: str, flowers: Path, installed: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    data = f"folder:{flowers}" if dataset == "folder" else dataset
    short = {"training.epochs": 1, "data.train_limit": 80}
    teacher: dict[str, Any] = {"teacher.config": short, "teacher.minimum": 0.0}
    found = bench.train("kd", data, results=results, train_limit=80, **teacher, **SHORT)
    runs = bench.results(results).set_index("run_id")
    assert set(runs["method"]) == {"kd", "vanilla"}
    assert runs["dataset"].nunique() == 1
    (row,) = [row for row in small(results)[0].rows if found.run_id in row.run_ids]
    assert row.labels == ("KD", "resnet8 from resnet20", "1")
    assert row.cells["clean"].ours.value == pytest.approx(100 * found.clean.value)
    assert runs.loc[found.run_id, "dataset"] in row.group

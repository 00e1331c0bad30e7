"""ImageNet from a folder of JPEGs to a stored result, with small images of four classes."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from harness.data import dataset_info, imagenet
from harness.data.base import DatasetSource
from harness.experiment import runner
from harness.experiment.resolve import resolve
from harness.progress import Reporter
from harness.store.rundir import RunDirectory

CLASSES, PER_CLASS = 4, 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """JPEGs of different shapes, one colour per class, where the dataset looks for them."""
    info = replace(imagenet.INFO, num_classes=CLASSES, image_size=32)
    monkeypatch.setattr(imagenet, "INFO", info)
    monkeypatch.setattr(imagenet, "IMAGENET", DatasetSource(info, imagenet.load))
    assert dataset_info("imagenet") is info
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(CLASSES):
            home = tmp_path / "data" / "imagenet" / part / f"n{label:08}"
            home.mkdir(parents=True)
            for number in range(PER_CLASS):
                height, width = rng.integers(70, 120, 2)
                pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
                pixels[..., label % 3] += np.uint8(60 * (1 + label))
                Image.fromarray(pixels).save(home / f"{number}.JPEG", quality=90)
    return tmp_path / "data"


def test_a_pair_of_table_3_runs_from_jpegs_to_a_result(folder, tmp_path):
    brief = {"training": {"epochs": 1, "batch_size": 4, "optimizer": {"lr": 0.001}}}
    options = {
        "training.epochs": 1,
        "training.batch_size": 4,
        "training.optimizer.lr": 0.001,
        "training.precision": "bf16",
        "teacher.source": "auto",
        "teacher.config": brief,
        "teacher.minimum": 0.0,
        "data.root": folder,
        "device": "cpu",
        "results": tmp_path / "results",
    }
    config = resolve("ikl-kd", recipe="table3/resnet34-resnet18", options=options)

    outcome = runner.run(config, Reporter(quiet=True))

    record = RunDirectory(config.results, outcome.run_id).record
    assert record["status"] == "success"
    assert record["arch"] == config.model.arch
    assert record["teacher"] == config.teacher.arch
    assert record["teacher_facts"]["accuracy"]["n"] == CLASSES * PER_CLASS
    assert record["partial"]
    assert outcome.evaluation.metrics["clean"]["n"] == CLASSES * PER_CLASS
    assert len(outcome.evaluation.verdicts) == CLASSES * PER_CLASS
    assert record["metrics"]["clean_last"]["value"] == outcome.evaluation.metrics["clean"]["value"]

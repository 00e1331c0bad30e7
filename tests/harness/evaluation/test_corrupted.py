"""Accuracy on CIFAR-10-C: the reader of the published arrays, the counts, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from divergence_bench.cli.main import app
from harness.compat import import_robustbench
from harness.data.cifar import CORRUPTIONS, SEVERITIES, open_corrupted
from harness.errors import UserError
from harness.evaluation import corrupted
from harness.evaluation.corrupted import evaluate_corrupted
from harness.store.database import Database
from harness.store.rundir import RunDirectory
from tests.harness.evaluation.conftest import save_resnet8

CPU = torch.device("cpu")
COUNT = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with CIFAR-10-C in its published layout, of seven images instead of 10,000.

    The grey level is 10 times the number of the corruption, plus the severity.
    """
    root = tmp_path_factory.mktemp("data")
    folder = root / "CIFAR-10-C"
    folder.mkdir()
    labels = np.arange(COUNT, dtype=np.uint8)
    np.save(folder / "labels.npy", np.tile(labels, len(SEVERITIES)))
    for number, name in enumerate(CORRUPTIONS):
        levels = np.repeat(10 * number + np.array(SEVERITIES), COUNT).astype(np.uint8)
        images = np.zeros((len(levels), 32, 32, 3), np.uint8)
        images[:, :, :, 0] = levels[:, None, None]
        images[:, 0, 0, 1] = np.arange(len(levels))
        np.save(folder / f"{name}.npy", images)
    return root


def test_the_published_layout_is_read(root):
    images = open_corrupted("cifar10", root)
    assert list(images.arrays) == list(CORRUPTIONS)
    assert len(images) == COUNT
    assert not images.complete
    assert images.labels.tolist() == list(range(COUNT))
    assert isinstance(images.arrays["fog"], np.memmap)
    batch = images.batch("fog", 3, slice(2, 4))
    assert batch.shape == (2, 3, 32, 32)
    assert (255 * batch[:, 0, 5, 5]).tolist() == pytest.approx([93, 93])
    assert (255 * batch[:, 1, 0, 0]).tolist() == pytest.approx([2 * COUNT + 2, 2 * COUNT + 3])


def test_images_and_labels_are_those_that_robustbench_reads(tmp_path):
    """Of a file of the published size; the rows that are not read are holes in it."""
    pytest.importorskip("gdown", reason="RobustBench is not installed")
    import_robustbench()
    from robustbench.data import BenchmarkDataset, load_corruptions_cifar

    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    generator = np.random.default_rng(0)
    np.save(folder / "labels.npy", np.tile(generator.integers(0, 10, 10_000, np.uint8), 5))
    path = folder / "snow.npy"
    snow = np.lib.format.open_memmap(path, "w+", np.uint8, (50_000, 32, 32, 3))
    for severity in SEVERITIES:
        start = 10_000 * (severity - 1)
        snow[start : start + 5] = generator.integers(0, 256, (5, 32, 32, 3), np.uint8)
    snow.flush()
    theirs, labels = load_corruptions_cifar(
        BenchmarkDataset.cifar_10, 5, 3, str(tmp_path), corruptions=["snow"]
    )
    images = open_corrupted("cifar10", tmp_path, ("snow",))
    assert images.complete
    assert torch.equal(images.batch("snow", 3, slice(0, 5)), theirs)
    assert torch.equal(images.labels[:5], labels.long())


def test_what_is_missing_or_damaged_is_named(root, tmp_path):
    with pytest.raises(UserError, match=r"labels.npy does not exist: .*zenodo.org/records/3555552"):
        open_corrupted("cifar100", root)
    with pytest.raises(UserError, match="published for cifar10 and cifar100, not for digits"):
        open_corrupted("digits", root)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.zeros(2, np.uint8))
    (folder / "fog.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"fog.npy is damaged .*zenodo.org/records/2535967"):
        open_corrupted("cifar10", tmp_path, ("fog",))
    np.save(folder / "fog.npy", np.zeros((10, 3, 32, 32), np.uint8))
    with pytest.raises(UserError, match=r"fog.npy is uint8 of shape \[10, 3, 32, 32\], not uint8"):
        open_corrupted("cifar10", tmp_path, ("fog",))
    np.save(folder / "fog.npy", np.zeros((15, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"labels .* give int64 of shape \[3\]"):
        open_corrupted("cifar10", tmp_path, ("fog",))


class Level(nn.Module):
    """Predicts the class that is the severity."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = (255 * x[:, 0, 5, 5]).round().long() % 10
        return nn.functional.one_hot(levels, 10).float()


def test_accuracies_are_counts_and_finished_parts_are_kept(root, tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path, "some-run")
    run.update(metrics={"sec_per_iter": {"value": 1.0}})
    images = open_corrupted("cifar10", root, ("snow", "fog"))
    result = evaluate_corrupted(Level(), images, run, severities=(2, 5), device=CPU)
    assert result.correct == {"snow": [1, 1], "fog": [1, 1]}
    metrics = run.record["metrics"]
    assert metrics["corruptions-partial/fog/2"]["value"] == pytest.approx(1 / COUNT)
    assert metrics["corruptions-partial/fog/2"]["low"] > 0
    assert metrics["corruptions-partial/fog"] == {"value": pytest.approx(1 / COUNT), "n": COUNT}
    assert metrics["corruptions-partial"]["value"] == pytest.approx(1 / COUNT)
    assert metrics["sec_per_iter"] == {"value": 1.0}
    counted: list[object] = []
    count = corrupted.count_correct
    monkeypatch.setattr(
        corrupted, "count_correct", lambda *args: counted.append(args[2:4]) or count(*args)
    )
    assert evaluate_corrupted(Level(), images, run, severities=(2, 5), device=CPU) == result
    assert counted == []
    first = evaluate_corrupted(Level(), images, run, severities=(2, 5), limit=2, device=CPU)
    assert first.correct == {"snow": [0, 0], "fog": [0, 0]}
    assert first.protocol["n"] == 2
    assert len(counted) == 4
    with pytest.raises(UserError, match="--eval-limit is 8, but CIFAR-10-C has 7 images"):
        evaluate_corrupted(Level(), images, run, limit=8, device=CPU)


@pytest.mark.parametrize("before", [{"partial": False}, {"partial": True}])
def test_a_partial_result_replaces_an_earlier_one_but_no_full_one(before, root, tmp_path):
    """An earlier release kept the protocol of either under the same name."""
    run = RunDirectory.create(tmp_path, "some-run")
    full = {"corruptions": {"value": 0.5, "n": 9}, "corruptions/fog": {"value": 0.4, "n": 9}}
    run.update(metrics=full, corruptions=before)
    for name in ("fog", "snow"):
        images = open_corrupted("cifar10", root, (name,))
        result = evaluate_corrupted(Level(), images, run, severities=(2,), device=CPU)
    assert result.protocol["partial"]
    assert list(result.metrics())[1] == "corruptions-partial/snow"
    assert run.record["metrics"] == full | result.metrics()
    assert run.record["corruptions"] == (None if before["partial"] else before)
    assert run.record["corruptions-partial"] == result.protocol


def test_only_all_of_the_published_images_give_the_published_mean(root):
    images = open_corrupted("cifar10", root)
    protocol = {"n": COUNT, "severities": list(SEVERITIES), "partial": False}
    correct = {name: [7, 6, 5, 4, number % 4] for number, name in enumerate(images.arrays)}
    metrics = corrupted.CorruptionResult(protocol, correct).metrics()
    values = [
        metrics[f"corruptions/{name}/{severity}"]["value"]
        for name in CORRUPTIONS
        for severity in SEVERITIES
    ]
    assert metrics["corruptions"]["value"] == pytest.approx(np.mean(values))
    assert len(metrics) == 15 * 5 + 15 + 1


def test_the_command_stores_every_accuracy(root, tmp_path):
    run = RunDirectory.create(tmp_path, "some-run")
    described = {"kind": "trained", "dataset": "cifar10", "arch": "resnet8", "provenance": {}}
    run.update(status="success", **described)
    # As a release stored it that computed corruptions itself: it still opens.
    run.update(metrics={"corruption/mean": {"value": 0.5, "n": 3}})
    save_resnet8(run.model_path, 3, 32, "cifar10")
    command = ["corrupt", "some-run", "--results", str(tmp_path), "--device", "cpu"]
    command += ["--data-root", str(root)]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("some-run: CIFAR-10-C, n = 7 of each severity, partial")
    answer = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert answer["protocol"]["corruptions"] == list(CORRUPTIONS)
    rows = Database(tmp_path).query("SELECT name, value FROM metrics WHERE run_id = 'some-run'")
    stored = dict(zip(rows["name"], rows["value"], strict=True))
    assert stored.pop("corruption/mean") == 0.5
    assert stored == {name: metric["value"] for name, metric in answer["metrics"].items()}
    Database(tmp_path).rebuild()
    assert len(Database(tmp_path).query("SELECT * FROM metrics")) == len(stored) + 1
    for option, message in (
        ("--severities=6", "--severities 6 is not valid"),
        ("--corruptions=frogs", "unknown corruption 'frogs'"),
    ):
        ended = CliRunner().invoke(app, [*command, option])
        assert isinstance(ended.exception, UserError)
        assert message in str(ended.exception)
    run.update(kind="loaded")
    ended = CliRunner().invoke(app, command)
    assert "a model whose weights are not stored" in str(ended.exception)

"""A results folder of release 0.1 opens, ranks, compares and resumes; see its README."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from divergence_bench.cli.main import main
from harness import provenance
from harness.models import ARCHITECTURES
from harness.models.resnet import ResNet
from harness.store.rundir import RunDirectory

STORED = Path(__file__).parent / "old_results"
EXPECTED = json.loads((STORED / "expected.json").read_text())
# The smallest registered network would make the folder ten times as large.
tiny = partial(ResNet, blocks=(1, 1, 1), channels=(4, 4, 4, 8))
small = partial(ResNet, blocks=(1, 1, 1), channels=(4, 4, 8, 8))

Call = Callable[[str], Any]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """A function that runs a command next to a copy of the folder and returns its JSON."""
    shutil.copytree(STORED / "runs", tmp_path / "results" / "runs")
    shutil.copy(STORED / "outside.pt", tmp_path)
    monkeypatch.chdir(tmp_path)

    def called(command: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["harness", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, errors = capsys.readouterr()
        assert not ended.value.code, errors
        return json.loads(out)

    with (
        ARCHITECTURES.temporarily("tiny", f"{__name__}:tiny"),
        ARCHITECTURES.temporarily("small", f"{__name__}:small"),
    ):
        yield called


def rounded(value: Any) -> Any:
    """Wrap floats for comparison up to their last digits."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-9, abs=1e-12)
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def picked(value: Any, like: Any) -> Any:
    """The nested values that have a counterpart in ``like``."""
    if isinstance(like, dict):
        return {name: picked(value[name], each) for name, each in like.items()}
    if isinstance(like, list) and like and isinstance(like[0], dict):
        return [picked(*pair) for pair in zip(value, like, strict=True)]
    return value


def test_it_opens_ranks_and_compares(call):
    rebuilt = call("db rebuild --json --results results")
    assert EXPECTED["rows"].items() <= rebuilt["rows"].items()
    assert not rebuilt["unreadable"]
    listed = call("list runs --json --results results")
    for row, before in zip(listed, EXPECTED["list runs"], strict=True):
        assert before.items() <= row.items()
        assert row["robust"] is None or 0 <= row["robust"] <= row["clean"] <= 1
    assert all(row["robust"] for row in listed[:3])
    for command, expected in EXPECTED["compare"].items():
        assert call(command) == rounded(expected)
    models = {path: path.stat().st_mtime_ns for path in Path("results").rglob("model.pt")}
    for command, expected in EXPECTED["ranking"].items():
        found = call(command)
        for now, before in zip(found["rows"], expected["rows"], strict=True):
            # Release 0.1 gave a rank such as ``1=``; now it is the ranks that the intervals allow.
            low, _, high = now["rank"].partition("-")
            place = before.pop("rank").rstrip("=")
            if place.isdecimal():
                assert int(low) <= int(place) <= int(high or low)
            else:  # partial, or no rank
                assert now["rank"] == place
        assert picked(found, expected) == rounded(expected)
    # These commands had no work to do.
    assert models == {path: path.stat().st_mtime_ns for path in Path("results").rglob("model.pt")}
    assert len(list(Path("results/runs").iterdir())) == len(EXPECTED["list runs"])


def same_machine(directory: RunDirectory) -> bool:
    """Whether the processor and torch are the ones that the run began with."""
    here, there = provenance.collect(torch.device("cpu")), directory.record["provenance"]
    torches = here["packages"]["torch"], there["packages"]["torch"]
    return here["cpu"] == there["cpu"] and torches[0] == torches[1]


def test_its_interrupted_training_resumes(call):
    expected = EXPECTED["resume"]["training interrupted"]
    directory = RunDirectory(Path("results"), expected["run_id"])
    same, epochs = same_machine(directory), directory.epochs()
    # Its training is resumed; a shorter evaluation will do.
    call(expected["command"].replace("apgd-ce,apgd-t", "apgd-ce"))
    record = directory.record
    assert (record["status"], record["selected_epoch"]) == ("success", expected["selected_epoch"])
    assert directory.epochs()[:1] == epochs
    losses = [epoch["loss"] for epoch in directory.epochs()]
    assert losses == pytest.approx(expected["losses"], rel=1e-6)
    if same:
        assert record["model_sha256"] == expected["model_sha256"]


def test_its_interrupted_evaluation_resumes(call):
    expected = EXPECTED["resume"]["evaluation interrupted"]
    directory = RunDirectory(Path("results"), expected["run_id"])
    same = same_machine(directory)
    chunks = {path: path.read_bytes() for path in Path("results").rglob("chunks/*.parquet")}
    assert len(chunks) == 2
    call(expected["command"])
    (evaluation,) = directory.evaluations()
    record = evaluation.record
    assert (evaluation.evaluation_id, record["status"]) == (expected["evaluation_id"], "success")
    assert directory.record["model_sha256"] == expected["model_sha256"]
    assert record["protocol"]["attack_version"] == expected["attack_version"]
    assert record["flags"] == expected["flags"]
    assert {path: path.read_bytes() for path in chunks} == chunks
    # Attacks run in float32, so another processor may change the verdict of an image.
    for name, metric in expected["metrics"].items():
        tolerance = 1e-12 if same or name == "clean" else 1.01 / metric["n"]
        assert record["metrics"][name]["value"] == pytest.approx(metric["value"], abs=tolerance)
    if same:
        assert record["verdicts_digest"] == expected["verdicts_digest"]

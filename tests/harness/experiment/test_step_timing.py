"""Timing the steps of methods, and distillation, from the command line."""

import json
import re
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from divergence_bench.cli.main import app
from divergence_bench.cli.time import rows_for_reading, split_pair
from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.step_timing import Plan, Subject, quartiles, training_images


def harness(*arguments: str) -> str:
    """Call the command line and return its output, with wrapped lines joined."""
    ended = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return " ".join(ended.output.split())


def test_time_measures_methods_in_turns():
    tiny = ["--dataset", "digits", "--batch-size", "16", "--repeats", "3", "--warmup", "1"]
    methods = ["--methods", "vanilla,kd,reviewkd", "--pair", "resnet14-resnet8"]
    result = json.loads(harness("time", *methods, *tiny, "--device", "cpu", "--json"))
    ways = [(row["method"], row["teacher_logits"]) for row in result["rows"]]
    assert ways == [("vanilla", None), ("kd", "forward"), ("kd", "table"), ("reviewkd", None)]
    assert (result["teacher"], result["student"]) == ("resnet14", "resnet8")
    assert result["images"] == "real"
    assert "freshly initialised" in result["weights"]
    for row in result["rows"]:
        assert len(row["steps_s"]) == 3
        step, whole = row["step_s"], row["step_with_data_s"]
        assert 0 < step["low"] <= step["median"] <= step["high"]
        assert step["median"] < whole["median"]
        assert row["peak_memory_mb"] is None, "memory is counted on GPUs only"
    extra = {row["method"]: row["extra_parameters"] for row in result["rows"]}
    assert extra["vanilla"] == extra["kd"] == 0 < extra["reviewkd"]
    (first, *_) = rows_for_reading(result)
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", first["step_with_data"])


def test_an_empty_list_of_methods_is_refused():
    with pytest.raises(UserError, match="no method to time: give at least one with --methods"):
        harness("time", "--methods", ",", "--pair", "resnet14-resnet8", "--dataset", "digits")


def test_a_pair_is_split_into_two_architectures():
    assert split_pair("resnet56-resnet20") == ("resnet56", "resnet20")
    assert split_pair("wrn-40-2-wrn-16-2") == ("wrn-40-2", "wrn-16-2")
    assert split_pair("resnet32x4-shufflenet-v1") == ("resnet32x4", "shufflenet-v1")
    with pytest.raises(UserError, match="'resnet56-resnet21' is not TEACHER-STUDENT"):
        split_pair("resnet56-resnet21")


def test_missing_images_are_replaced_by_noise_unless_a_folder_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    plan = Plan("resnet50", "resnet18", "imagenet", 8, 2, 1, "cpu")
    data, labels, source = training_images(plan)
    assert source == "random"
    assert len(data.train) == 24
    assert len(labels) == 1_281_167
    assert torch.equal(data.train.labels, labels[:24])
    with pytest.raises(UserError, match="imagenet"):
        training_images(replace(plan, data_root=tmp_path))


def test_steps_have_full_batches():
    plan = Plan("resnet14", "resnet8", "digits", batch_size=1000, repeats=2, warmup=1)
    data, labels, _ = training_images(plan)
    assert len(data.train) == 1000 < len(labels) < 2000
    with pytest.raises(UserError, match="1437 training images, too few for a batch of 1438"):
        training_images(replace(plan, batch_size=1438))


def test_quartiles_and_the_median():
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


@pytest.mark.usefixtures("_registered")
def test_a_filled_table_needs_no_teacher(tmp_path):
    config = resolve("distil", options={"training.batch_size": 8})
    data, labels, _ = training_images(Plan("resnet8", "resnet8", "digits", 8, 2, 1))
    passes = {}
    for way in ("forward", "table"):
        subject = Subject(config, data, labels, tmp_path, way)
        assert subject.teacher is not None
        seen: list[int] = []
        subject.teacher.model.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        for _ in range(4):
            subject.step(timed=True)
        passes[way] = len(seen)
    assert passes == {"forward": 4, "table": 0}


def test_one_command_distils_on_digits(tmp_path):
    small = [
        "--epochs",
        "1",
        "--train-limit",
        "64",
        "--eval-limit",
        "12",
        "--attacks",
        "",
        "--batch-size",
        "32",
    ]
    teacher = ["training.epochs=1", "data.train_limit=64"]
    settings = [f"teacher.config.{setting}" for setting in teacher] + ["teacher.minimum=0"]
    command = ["run", "--method", "kd", "--teacher-arch", "resnet8", *small, "--device", "cpu"]
    command += [part for setting in settings for part in ("--set", setting)]
    output = harness(*command, "--results", str(tmp_path))
    assert "is trained first: run vanilla-" in output
    assert "has accuracy" in output
    assert "teacher logits are kept in" in output
    runs = sorted(path.name.partition("-")[0] for path in (tmp_path / "runs").iterdir())
    assert runs == ["kd", "vanilla"]

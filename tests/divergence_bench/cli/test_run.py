"""The verb ``run``: its plan, and a results folder that cannot be written."""

import json
import os
from pathlib import Path

import pytest

from harness.store.rundir import RunDirectory


def test_a_dry_run_writes_nothing(call, tmp_path: Path) -> None:
    ended = call(
        "run", "--method", "trades", "--dry-run", "--json", "--results", str(tmp_path / "r")
    )
    plan = json.loads(ended.out)
    assert plan["training"] == "missing"
    assert plan["config"]["data"]["name"] == "digits"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--method trades --device tpu9", "device"),
        ("--method trades --dataset cifar10 --data-root /no/such", "/no/such"),
        ("--method trades --eval-limit 361", "digits test has 360 images"),
        ("--method trades --train-limit 2000", "has 1437 images"),
        ("--method trades --set training.selection.rule=best-on-val", "set data.val_size"),
        ("--method acat --epochs 3 --set training.averaging.start_epoch=9", "begins with epoch 9"),
        ("--method kd --train-limit 64 --set teacher.logits=table --set data.rotation=5", "table"),
        ("--method kd --teacher no-such-run", "no-such-run"),
        ('--method kd --set teacher.config={"training.epochs":0}', "training.epochs"),
        ('--method kd --train-limit 64 --set teacher.config={"data.train_limit":9999}', "1437"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    call, options: str, message: str, tmp_path: Path
) -> None:
    command = ["run", *options.split(), "--quiet", "--results", str(tmp_path / "r")]
    dry, run = call(*command, "--dry-run"), call(*command)
    assert (dry.status, run.status) == (2, 2)
    assert dry.err == run.err
    assert message in dry.err
    assert not any((tmp_path / "r").rglob("model.pt")), "not even a teacher is trained"


def test_a_dry_run_of_a_run_in_progress_is_refused(call, refused, tmp_path: Path) -> None:
    command = ["run", "--method", "kl", "--dry-run", "--results", str(tmp_path)]
    plan = json.loads(call(*command, "--json").out)
    directory = RunDirectory.create(tmp_path, plan["run_id"])
    directory.update()
    with directory.lock():
        assert "another process is working" in call(*command).err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file in the folder's place only as root")
def test_an_unwritable_results_folder_is_named(call, tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("a file")
    command = ["run", "--method", "trades", "--results", str(path)]
    for options in ([], ["--dry-run"]):
        ended = call(*command, *options)
        assert ended.status == 2
        assert f"cannot write {path}" in ended.err

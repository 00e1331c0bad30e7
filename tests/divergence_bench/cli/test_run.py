"""The verb ``run``: its plan, and a results folder that cannot be written."""

import json
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


CONFIGURED = [
    "--method trades",
    "--method kd --epochs 3",
    "--method ikl --dataset cifar100 --lr 1e-05 --set params.wmse_weight=7",
    "--recipe table6/ikl-a24-b3 --eps 0,2/255,8/255 --attacks apgd-ce --seed 3",
    "--method kd --recipe table5/resnet110-resnet32 --set teacher.seed=2",
    "--method lbgat --norm L2 --eps 0.5 --set training.attack=null",
]


@pytest.mark.parametrize("options", CONFIGURED)
def test_what_a_dry_run_prints_is_the_configuration_of_the_same_run(
    call, options: str, tmp_path: Path
) -> None:
    place = ["--results", str(tmp_path / "r")]
    typed = ["run", *options.split(), *place, "--device", "cpu", "--dry-run"]
    file = tmp_path / "run.yaml"
    file.write_text(call(*typed).out)
    expected = json.loads(call(*typed, "--json").out)
    found = ["run", "--config", str(file), "--dry-run"]
    assert json.loads(call(*found, "--json").out) == expected
    assert call(*found).out == file.read_text()


def test_options_override_a_configuration(call, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: kl\ntraining: {epochs: 3, optimizer: {lr: 0.5}}\nresults: here\n")
    config = ["run", "--config", str(file), "--dry-run", "--json"]
    read = json.loads(call(*config).out)["config"]
    assert (read["recipe"], read["results"], read["training"]["epochs"]) == ("digits", "here", 3)
    changes = json.loads(call(*config).out)["recipe_changes"]
    assert changes == {"training.epochs": 3, "training.optimizer.lr": 0.5}
    options = ["--epochs", "4", "--seed", "1", "--results", str(tmp_path), "--set"]
    plan = json.loads(call(*config, *options, "training.optimizer.lr=0.25").out)
    typed = ["run", "--method", "kl", "--epochs", "4", "--seed", "1", "--lr", "0.25", "--dry-run"]
    assert plan["run_id"] == json.loads(call(*typed, "--json").out)["run_id"]
    assert plan["config"]["results"] == str(tmp_path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("method: kl", "--method ikl", "method 'kl', but method 'ikl' is given"),
        ("{method: kl, recipe: digits}", "--recipe cifar10", "recipe 'digits', but recipe"),
        ("method: kl\nmethod: ikl", "", "method is given twice, in lines 1 and 2"),
        ("- kl", "", "is not a mapping"),
        ("method: IKL", "", "did you mean ikl?"),
        ("method: 3", "", "method = 3 is refused"),
        ("{method: kl, 1: 2}", "", "1 = 1 is refused: keys should be strings"),
        ("{method: kl, data: digits}", "", "data = 'digits' is refused: a section of settings"),
        ("{method: kl, data: digits}", "--train-limit 5", "'digits' is refused together with data"),
        ("{method: kl, data: digits}", "--dataset cifar10", "data = 'digits' is refused"),
        ("{method: kd, teacher: a}", "--dataset cifar10", "teacher = 'a' is refused"),
        ("{method: kl, training: {optimizer: sgd}}", "--lr 1", "training.optimizer = 'sgd' is"),
        ("{method: kl, training: {epoch: 3}}", "", "did you mean training.epochs"),
        ("{method: kl, evaluation: {norm: L2}}", "", "give eps as well"),
        ("{method: kd, teacher: {weights: a}}", "", "teacher.weights follows from"),
        ("epochs: 3", "", "there is no method to train"),
    ],
)
def test_a_configuration_that_is_none_is_refused(
    refused, text: str, options: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert message in refused("run", "--config", str(file), *options.split(), "--dry-run")
    assert "cannot read" in refused("run", "--config", str(tmp_path / "none.yaml"))


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
        ("--method kd --set teacher.normalize=dataset", "normalize=dataset is for external"),
        ("--method kl --set data.generated_name=ddpm-1m", "=ddpm-1m is given but not used"),
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


def test_an_unwritable_results_folder_is_named(call, tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("a file")
    command = ["run", "--method", "trades", "--results", str(path)]
    for options in ([], ["--dry-run"]):
        ended = call(*command, *options)
        assert ended.status == 2
        assert f"cannot write {path}" in ended.err

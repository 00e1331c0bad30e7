"""A run's record always matches its model, whatever is evaluated, resumed or loaded."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distilling import TINY, Lines, assert_same_weights, trained

import divergence_bench as bench
from divergence_bench.cli.list import run_row
from harness.config import EvalConfig, merge
from harness.data import Dataset, ImageSet, load_dataset
from harness.errors import UserError
from harness.experiment import record as recording
from harness.experiment import runner
from harness.experiment.external import evaluate_external
from harness.experiment.resolve import recipe_changes, resolve
from harness.experiment.runner import Outcome, run
from harness.progress import Reporter
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory

QUIET = Reporter(quiet=True)


def test_a_further_evaluation_keeps_the_record_of_the_training(tmp_path, monkeypatch):
    options: dict[str, Any] = {**TINY, "evaluation.limit": 10, "results": tmp_path}
    first = run(resolve("vanilla", options=options), QUIET)
    directory = RunDirectory(tmp_path, first.run_id)
    before = directory.record
    collect = recording.provenance.collect
    monkeypatch.setattr(
        recording.provenance, "collect", lambda device: {**collect(device), "device": "another"}
    )
    further = resolve("vanilla", options={**options, "evaluation.limit": 20})
    assert run(further, QUIET).run_id == first.run_id
    after = directory.record
    assert {"provenance", "train_sha256", "partial", "scale"} <= set(before)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"config", "metrics"}
    evaluations = {each.record["protocol"]["n"]: each.record for each in directory.evaluations()}
    assert evaluations[20]["provenance"]["device"] == "another"
    assert evaluations[10]["provenance"]["device"] != "another"


@pytest.mark.parametrize("limit", [None, 100])
def test_a_runs_scale_does_not_depend_on_how_it_is_evaluated(limit):
    options = {"evaluation.limit": limit}
    scales = [
        recording.header(config, runner.METHODS.get("trades"), None)["scale"]
        for config in (
            resolve("trades", dataset="cifar100", options=options),
            resolve("trades", dataset="cifar100", options={**options, "training.epochs": 3}),
            resolve("trades", options=options),
        )
    ]
    assert scales == ["paper", "small", "small"]


def test_a_run_has_one_scale_and_recipe_however_it_is_named():
    """A recipe with changes may be another recipe, which is then recorded."""
    changes = ["params.ce_weight=4", "params.temperature=2"]
    named = resolve("ikl", recipe="table2/ikl-a20-b4")
    changed = resolve("ikl", recipe="cifar100", assignments=changes)
    assert named.run_id == changed.run_id
    for config in (named, changed):
        header = recording.header(config, METHODS.get("ikl"), None)
        assert (header["scale"], header["recipe_changes"]) == ("paper", {})
        assert header["recipe"].startswith("table")
    other = resolve("ikl", recipe="cifar100", assignments=[*changes, "params.ce_weight=3.5"])
    header = recording.header(other, METHODS.get("ikl"), None)
    assert (header["scale"], header["recipe"]) == ("small", "cifar100")
    assert header["recipe_changes"] == {"params.ce_weight": 3.5, "params.temperature": 2}


def test_turning_off_what_a_recipe_turns_on_is_a_change(monkeypatch):
    method = METHODS.get("trades")
    augmented = merge(method.recipes["cifar10"](), {"data": {"cutmix": 0.5, "autoaugment": True}})
    monkeypatch.setitem(method.recipes, "cifar10", lambda: augmented)
    off = ["data.cutmix=0", "data.autoaugment=false"]
    config = resolve("trades", recipe="cifar10", assignments=off)
    assert recipe_changes(config) == {"data.cutmix": 0, "data.autoaugment": False}
    assert not recipe_changes(resolve("trades", recipe="cifar10"))


def test_a_run_imported_without_weights_can_be_trained_again(tmp_path):
    """Its record has the checksum of other weights, as from another processor."""
    directory = RunDirectory.create(tmp_path, resolve("vanilla", options=TINY).run_id)
    directory.update(status="cancelled", model_sha256="0" * 64)
    assert trained(tmp_path, "vanilla").record["model_sha256"] != "0" * 64


def test_a_further_evaluation_does_not_finish_a_cancelled_run(tmp_path):
    class Stop(Lines):
        def stage(self, title: str, *arguments: Any, **named: Any) -> Any:
            if title == "evaluate":
                raise KeyboardInterrupt
            return super().stage(title, *arguments, **named)

    own = {"evaluation.limit": 10}
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, "vanilla", Stop(), **own)
    config = resolve("vanilla", options={**TINY, **own})
    directory = RunDirectory(tmp_path, config.run_id)
    began = directory.record["started_at"]
    other = config.evaluation.model_copy(update={"limit": 5})
    runner.evaluate_run(directory, other, None, "cpu", QUIET)
    assert (directory.record["status"], directory.record["started_at"]) == ("cancelled", began)
    runner.evaluate_run(directory, config.evaluation, None, "cpu", QUIET)
    assert (directory.record["status"], directory.record["started_at"]) == ("success", began)


def test_a_run_that_a_further_evaluation_finishes_has_no_error(tmp_path, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(runner, "evaluate", fails)
    with pytest.raises(RuntimeError):
        trained(tmp_path, "vanilla")
    config = resolve("vanilla", options=TINY)
    directory = RunDirectory(tmp_path, config.run_id)
    assert directory.record["error"] == "RuntimeError: the disk is gone"
    monkeypatch.undo()
    runner.evaluate_run(directory, config.evaluation, None, "cpu", QUIET)
    assert (directory.record["status"], directory.record["error"]) == ("success", None)
    (stored,) = Database(tmp_path).query("SELECT status, error FROM runs").itertuples(index=False)
    assert tuple(stored) == ("success", None)


def test_a_run_without_attacks_has_no_robust_accuracy_in_the_list(tmp_path):
    row = run_row(trained(tmp_path, "vanilla", **{"evaluation.attacks": ()}))
    assert row["clean"] is not None
    assert row["robust"] is None


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_padding_larger_than_the_image_is_refused(mode, tmp_path):
    with pytest.raises(UserError, match=r"data\.crop_padding=8 is not less than the 8 pixels"):
        trained(tmp_path, "vanilla", **{"data.crop_mode": mode, "data.crop_padding": 8})


def test_a_training_goes_on_with_the_images_it_began_with_only(tmp_path, monkeypatch):
    config = resolve("vanilla", options={**TINY, "results": tmp_path})
    with pytest.raises(KeyboardInterrupt):
        run(config, Lines("epoch 1/"))

    def other(*arguments: Any, **options: Any) -> Dataset:
        data = load_dataset(*arguments, **options)
        assert isinstance(data.train, ImageSet)
        inverted = ImageSet(255 - data.train.images, data.train.labels, data.info, "train")
        return Dataset(data.info, inverted, data.test)

    directory = RunDirectory(tmp_path, config.run_id)
    before = directory.record
    with monkeypatch.context() as patch:
        patch.setattr(runner, "load_dataset", other)
        with pytest.raises(UserError, match="began with other training images of digits"):
            run(config, QUIET)
    assert directory.record == before
    run(config, QUIET)
    assert len(directory.epochs()) == 2


METHOD = """
from harness.method import Method, MethodCard, Params, StepOutput, Task
from {package}.losses import weighted
from torch.nn.functional import cross_entropy


class Weighted(Task):
    def loss(self, model, batch):
        return StepOutput(weighted(cross_entropy(model(batch.x), batch.y)), {{}})


METHOD = Method(
    card=MethodCard(
        title="Weighted", family="natural", summary="s", formula="f", paper="p",
        url="https://example.org", bibtex="@misc{{a}}",
    ),
    params=Params,
    task=Weighted,
    recipes={{"digits": lambda: {{}}}},
)
"""


@pytest.mark.parametrize("edited", ["method.py", "losses.py"])
def test_a_run_that_other_code_trained_is_reported(edited, tmp_path, monkeypatch):
    package = f"package_of_a_test_{edited[0]}"
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "method.py").write_text(METHOD.format(package=package))
    (folder / "losses.py").write_text("def weighted(loss):\n    return 2 * loss\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with METHODS.temporarily("weighted-of-a-test", f"{package}.method:METHOD"):
        config = resolve("weighted-of-a-test", options={**TINY, "results": tmp_path / "r"})

        def output() -> str:
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                del sys.modules[name]
            importlib.invalidate_caches()
            reporter = Lines()
            run(config, reporter)
            return "\n".join(reporter.lines)

        assert "already trained" not in output()
        again = output()
        assert "is already trained" in again
        assert "code" not in again
        path = folder / edited
        path.write_text(path.read_text() + "\n# another text\n")
        assert "the code of Weighted has changed" in output()


def test_a_run_that_was_resumed_with_other_code_stays_reported(tmp_path):
    config = resolve("vanilla", options={**TINY, "results": tmp_path})
    with pytest.raises(KeyboardInterrupt):
        run(config, Lines("epoch 1/"))
    RunDirectory(tmp_path, config.run_id).update(method_sha256="that of other code")
    run(config, QUIET)
    again = Lines()
    run(config, again)
    assert any("has changed since" in line for line in again.lines)


def test_an_evaluation_finds_the_images_where_the_run_had_them(tmp_path, monkeypatch):
    outcome = run(resolve("vanilla", options={**TINY, "results": tmp_path}), QUIET)
    directory = RunDirectory(tmp_path, outcome.run_id)
    record = directory.record
    roots: list[object] = []

    def watched(name: str, root: Path | None = None, **options: Any) -> Dataset:
        roots.append(root)
        return load_dataset(name, root, **options)

    monkeypatch.setattr(runner, "load_dataset", watched)
    gone, there = tmp_path / "gone", tmp_path / "there"
    there.mkdir()
    for stored, given in ((str(there), None), (str(gone), None), (str(there), gone)):
        config = record["config"] | {"data": record["config"]["data"] | {"root": stored}}
        directory.update(config=config)
        protocol = EvalConfig(attacks=(), limit=10)
        runner.evaluate_run(directory, protocol, given, "cpu", QUIET)
    assert roots == [there, None, gone]


def test_workers_beyond_the_cores_are_not_started_and_this_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    lines = Lines()
    trained(tmp_path, "vanilla", lines, **{"training.epochs": 1, "evaluation.workers": 64})
    assert lines.about("workers") == ["64 workers requested, 1 used: one per core"]


FUNCTION = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1)).roll({shift}, dims=1)

def plain():
    return Net()

def same():
    return Net()
"""


def test_functions_with_the_same_weights_are_told_apart_by_what_they_compute(tmp_path, monkeypatch):
    """Networks with equal weights may differ in their code, and so in their outputs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = tmp_path / "networks_of_a_test.py"
    protocol = EvalConfig(attacks=(), limit=100)

    def measured(function: str) -> Outcome:
        importlib.invalidate_caches()
        sys.modules.pop(source.stem, None)
        return evaluate_external(
            f"{source.stem}:{function}",
            load_dataset("digits", splits=("test",)),
            protocol,
            results=tmp_path,
            reporter=QUIET,
        )

    source.write_text(FUNCTION.format(shift=0))
    first, again = measured("plain"), measured("same")
    assert first.run_id == again.run_id
    assert again.evaluation.stored_at is not None
    source.write_text(FUNCTION.format(shift=1))
    edited = measured("plain")
    assert edited.run_id != first.run_id
    assert edited.evaluation.stored_at is None
    before, after = (each.evaluation.verdicts["clean_pred"] for each in (first, edited))
    assert (after == (before + 1) % 10).all()
    sys.modules.pop(source.stem, None)


def test_no_setting_of_the_evaluation_changes_the_training_or_its_name(tmp_path):
    """Epochs are selected, and training is monitored, with the radius of the training attack."""
    training = {
        "training.selection.rule": "best-on-val",
        "training.selection.pgd_steps": 3,
        "training.epochs": 3,
        "data.val_size": 40,
    }
    settings = (
        {"evaluation.eps": 0.05},
        {"evaluation.eps": (0.02, 0.9)},
        {"evaluation.norm": "L2", "evaluation.eps": 2.0, "evaluation.limit": 5},
        {"evaluation.seed": 7, "evaluation.chunk_size": 6, "evaluation.budget": {"n_iter": 3}},
    )
    first, *others = (
        trained(tmp_path / str(n), "pgd-at", **training, **setting)
        for n, setting in enumerate(settings)
    )
    watched = [(epoch["clean_val"], epoch["pgd_val"]) for epoch in first.epochs()]
    assert any(clean != pgd for clean, pgd in watched)
    for other in others:
        assert other.run_id == first.run_id
        assert other.record["selected_epoch"] == first.record["selected_epoch"]
        assert [(epoch["clean_val"], epoch["pgd_val"]) for epoch in other.epochs()] == watched
        assert_same_weights(first, other)


def test_epochs_are_selected_at_the_selections_own_radius(tmp_path):
    """A radius so small that PGD changes no prediction; the training attack's changes some."""
    training = {
        "training.selection.rule": "best-on-val",
        "training.epochs": 3,
        "data.val_size": 40,
    }
    own = trained(tmp_path, "pgd-at", **training, **{"training.selection.eps": 1e-7})
    usual = trained(tmp_path, "pgd-at", **training)
    for directory, alike in ((own, True), (usual, False)):
        accuracies = [(epoch["clean_val"], epoch["pgd_val"]) for epoch in directory.epochs()]
        assert all(clean == pgd for clean, pgd in accuracies) is alike
    clean = [epoch["clean_val"] for epoch in own.epochs()]
    assert own.record["selected_epoch"] == clean.index(max(clean)) + 1


def test_weights_that_were_replaced_are_not_measured_under_the_runs_name(tmp_path):
    directory = trained(tmp_path, "vanilla")
    content = torch.load(directory.model_path, weights_only=True)
    content["state_dict"]["fc.bias"] += 1
    torch.save(content, directory.model_path)
    config = resolve("vanilla", options={**TINY, "results": tmp_path, "evaluation.limit": 10})
    for use in (
        lambda: run(config, QUIET),
        lambda: runner.evaluate_run(directory, config.evaluation, None, "cpu", QUIET),
        lambda: bench.load_model(directory.run_id, results=tmp_path),
    ):
        with pytest.raises(UserError, match=r"model\.pt holds other weights than those that vanil"):
            use()


def test_work_on_a_trained_run_asks_for_the_test_split_alone(tmp_path, monkeypatch):
    options: dict[str, Any] = {**TINY, "results": tmp_path}
    directory = trained(tmp_path, "vanilla")
    asked: list[object] = []

    def watched(*arguments: Any, **named: Any) -> Dataset:
        asked.append(named["splits"])
        return load_dataset(*arguments, **named)

    monkeypatch.setattr(runner, "load_dataset", watched)
    config = resolve("vanilla", options={**options, "evaluation.limit": 10})
    runner.evaluate_run(directory, config.evaluation, None, "cpu", QUIET)
    run(config, QUIET)
    assert asked == [("test",), ("test",)]

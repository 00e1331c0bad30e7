"""Epochs in other programs: TensorBoard's files are read back, wandb is used as documented."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import divergence_bench as bench
from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.store.rundir import RunDirectory
from harness.store.tracking import tracking

SHORT: dict[str, Any] = {"epochs": 2, "train_limit": 64, "attacks": "none", "n": 10, "quiet": True}


def epoch(number: int, loss: float) -> dict[str, Any]:
    return {"epoch": number, "loss": loss, "parts": {"ce": loss / 2}, "eps": None, "lr": 0.1}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with one finished epoch."""
    directory = RunDirectory.create(tmp_path, "kl-0123")
    directory.update(config={"seed": 3})
    directory.append_epoch(epoch(1, 2.0))
    return directory


def tensorboard_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


def test_tensorboard_shows_the_epochs_of_the_run(tmp_path: Path) -> None:
    result = bench.train("vanilla", "digits", results=tmp_path, track="tensorboard", **SHORT)
    records = RunDirectory(tmp_path, result.run_id).epochs()
    found = tensorboard_scalars(result.path / "tensorboard")
    for name in ("loss", "lr", "clean_val", "sec_per_iter"):
        assert found[name] == [(r["epoch"], pytest.approx(r[name])) for r in records]
    assert [step for step, _ in found["parts/ce"]] == [1, 2]
    plain = resolve("vanilla", options={"training.epochs": 2, "data.train_limit": 64})
    assert plain.run_id == result.run_id


def test_a_continued_run_has_each_epoch_once(run: RunDirectory) -> None:
    with tracking(("tensorboard",), run) as track:
        track(epoch(2, 9.0))  # is trained again: the process was stopped before its checkpoint
    with tracking(("tensorboard",), run) as track:
        track(epoch(2, 1.5))
    assert tensorboard_scalars(run.path / "tensorboard")["loss"] == [(1, 2.0), (2, 1.5)]


def test_nothing_is_written_by_default(run: RunDirectory) -> None:
    before = set(run.path.iterdir())
    with tracking(resolve("vanilla").track, run) as track:
        track(epoch(2, 1.5))
    assert set(run.path.iterdir()) == before


@pytest.mark.parametrize("fails", [False, True])
def test_wandb_gets_the_run_by_its_documented_functions(
    fails: bool, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any, Any]] = []

    class Run:
        def log(self, data: dict[str, float], step: int) -> None:
            calls.append(("log", data, step))

        def finish(self, exit_code: int) -> None:
            calls.append(("finish", exit_code, None))

    def init(**settings: Any) -> Run:
        calls.append(("init", settings, None))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(KeyError) if fails else nullcontext():
        with tracking(("wandb",), run) as track:
            track(epoch(2, 1.5))
            if fails:
                raise KeyError
    (_, settings, _), *logged, finish = calls
    assert settings["id"] == settings["name"] == run.run_id
    assert settings["config"] == {"seed": 3}
    assert logged == [
        ("log", {"loss": loss, "parts/ce": loss / 2, "lr": 0.1}, step)
        for step, loss in ((1, 2.0), (2, 1.5))
    ]
    assert finish == ("finish", int(fails), None)


def test_wandb_itself_writes_the_run_offline(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip(
        "wandb", reason="wandb brings 16 packages, so it is not among the tested"
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    with tracking(("wandb",), run) as track:
        track(epoch(2, 1.5))
    wandb.teardown()
    (file,) = (run.path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert run.run_id.encode() in content
    assert json.dumps(1.5).encode() in content


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(
    name: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"tracking with {name} .*divergence-bench\[tracking\]"):
        with tracking((name,), run):
            pass


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(UserError, match=r"track.0 = 'mlflow' is refused"):
        resolve("vanilla", options={"track": "mlflow"})

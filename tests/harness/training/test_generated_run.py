"""Whole small runs: on generated images, and under each switch of the engine."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.progress import Reporter
from harness.store.rundir import RunDirectory

TINY = {
    "training.epochs": 2,
    "training.batch_size": 32,
    "data.train_limit": 96,
    "evaluation.limit": 10,
    "evaluation.attacks": ("apgd-ce",),
    "training.monitor.every": 0,
    "device": "cpu",
}
GENERATED = {"data.generated_fraction": 0.7, "data.generated_name": "random"}


def trained(results: Path, method: str = "wang-dm", **options: Any) -> RunDirectory:
    config = resolve(method, options={**TINY, "results": results, **options})
    run(config, Reporter(quiet=True))
    return RunDirectory(results, config.run_id)


def write(path: Path, seed: int, count: int = 300) -> Path:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    np.savez(path, image=images, label=random.integers(0, 10, count))
    return path


class StopAfterFirst(Reporter):
    def line(self, text: str) -> None:
        if text.startswith("epoch 1/"):
            raise KeyboardInterrupt


def test_a_run_on_generated_images_resumes_with_its_file_only(tmp_path):
    ours, other = write(tmp_path / "a.npz", 0), write(tmp_path / "b.npz", 1)
    whole = trained(tmp_path / "whole", **GENERATED, **{"data.generated": ours})
    assert whole.record["generated"]["images"] == 300
    options = {**TINY, **GENERATED, "results": tmp_path / "halted"}
    config = resolve("wang-dm", options={**options, "data.generated": ours})
    with pytest.raises(KeyboardInterrupt):
        run(config, StopAfterFirst(quiet=True))
    wrong = resolve("wang-dm", options={**options, "data.generated": other})
    assert wrong.run_id == config.run_id
    with pytest.raises(UserError, match=r"b.npz is not the file of generated images"):
        run(wrong, Reporter(quiet=True))
    moved = Path(shutil.copy(ours, tmp_path / "moved.npz"))
    resumed = trained(tmp_path / "halted", **GENERATED, **{"data.generated": moved})
    losses = [[epoch["loss"] for epoch in done.epochs()] for done in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    # A finished run needs the file no more.
    again = trained(tmp_path / "halted", **GENERATED)
    assert again.record["generated"] == whole.record["generated"]


def test_a_row_without_its_file_is_refused_before_anything_is_read(tmp_path):
    config = resolve("wang-dm", recipe="table2/wang-dm-1m", options={"results": tmp_path / "r"})
    with pytest.raises(UserError, match=r"edm-1m.*--generated FILE.*DM-Improves-AT"):
        run(config, Reporter(quiet=True))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("switch", [{"channels_last": True}, {"precision": "bf16"}])
def test_switches_leave_the_training_what_it_is(tmp_path, switch):
    options = {f"training.{name}": value for name, value in switch.items()}
    # One step from clean images by a loss that has a gradient there: later steps, and those from a
    # zero gradient or from noise drawn in the order of memory, turn rounding into other signs.
    common: dict[str, Any] = {"training.epochs": 1, "data.train_limit": 32}
    common["training.attack.start"] = "clean"
    common["training.weight_perturbation.gamma"] = 0.005
    common["training.weight_perturbation.start_epoch"] = 1
    plain = trained(tmp_path, "pgd-at", **common)
    switched = trained(tmp_path, "pgd-at", **common, **options)
    assert switched.run_id != plain.run_id
    near = 0.05 if "precision" in switch else 1e-3
    first, second = plain.epochs()[0], switched.epochs()[0]
    assert second["loss"] == pytest.approx(first["loss"], rel=near)
    assert second["loss"] != first["loss"] or "channels_last" in switch


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None or importlib.util.find_spec("torch._inductor") is None,
    reason="torch.compile needs a compiler",
)
def test_compiled_training_is_the_same(tmp_path):
    common = {"training.weight_perturbation.start_epoch": 1, "training.epochs": 1}
    plain = trained(tmp_path, "ikl", **common)
    compiled = trained(tmp_path, "ikl", **common, **{"training.compile": True})
    assert compiled.epochs()[0]["loss"] == pytest.approx(plain.epochs()[0]["loss"], rel=1e-2)

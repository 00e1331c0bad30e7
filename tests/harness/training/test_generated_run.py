"""Small runs on generated images, and with each switch of the engine."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from distilling import TINY, Lines, trained, write_generated

from harness.errors import UserError
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.progress import Reporter

GENERATED = {"data.generated_fraction": 0.7, "data.generated_name": "random"}


def test_a_run_on_generated_images_resumes_with_its_file_only(tmp_path):
    ours, other = (write_generated(tmp_path / f"{seed}.npz", seed) for seed in (0, 1))
    whole = trained(tmp_path / "whole", "wang-dm", **GENERATED, **{"data.generated": ours})
    assert whole.record["generated"]["images"] == 200
    options = {**TINY, **GENERATED, "results": tmp_path / "halted"}
    config = resolve("wang-dm", options={**options, "data.generated": ours})
    with pytest.raises(KeyboardInterrupt):
        run(config, Lines("epoch 1/"))
    wrong = resolve("wang-dm", options={**options, "data.generated": other})
    assert wrong.run_id == config.run_id
    with pytest.raises(UserError, match=r"1.npz is not the file of generated images"):
        run(wrong, Reporter(quiet=True))
    moved = Path(shutil.copy(ours, tmp_path / "moved.npz"))
    resumed = trained(tmp_path / "halted", "wang-dm", **GENERATED, **{"data.generated": moved})
    losses = [[epoch["loss"] for epoch in done.epochs()] for done in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
    # A finished run does not need the file.
    again = trained(tmp_path / "halted", "wang-dm", **GENERATED)
    assert again.record["generated"] == whole.record["generated"]


def test_a_row_without_its_file_is_refused_before_anything_is_read(tmp_path):
    config = resolve("wang-dm", recipe="table2/wang-dm-1m", options={"results": tmp_path / "r"})
    with pytest.raises(UserError, match=r"edm-1m.*--generated FILE.*DM-Improves-AT"):
        run(config, Reporter(quiet=True))
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("switch", [{"channels_last": True}, {"precision": "bf16"}])
def test_switches_leave_the_training_what_it_is(tmp_path, switch):
    options = {f"training.{name}": value for name, value in switch.items()}
    # One step from clean images, with a loss that has a gradient there. In later steps, and from a
    # zero gradient or from noise drawn in memory order, rounding errors would flip signs.
    common: dict[str, Any] = {"training.epochs": 1, "data.train_limit": 32}
    common["training.attack.start"] = "clean"
    common["training.weight_perturbation.gamma"] = 0.005
    common["training.weight_perturbation.start_epoch"] = 1
    plain = trained(tmp_path, "pgd-at", **common)
    switched = trained(tmp_path, "pgd-at", **common, **options)
    assert switched.run_id != plain.run_id
    near = 0.05 if "precision" in switch else 1e-5
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

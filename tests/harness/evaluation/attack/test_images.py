"""Kept images: rounded within the ball, exported in the order of the test set."""

import pytest
import torch

from harness.config import EvalConfig
from harness.errors import UserError
from harness.evaluation.attack.images import export, find_evaluation, on_grid
from harness.evaluation.attack.judge import TOLERANCE, perturbation_norm
from tests.harness.evaluation.conftest import evaluated

CONFIG = EvalConfig(eps=0.13, attacks=("apgd-ce",), chunk_size=40, limit=120, budget={"n_iter": 30})


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.13), ("Linf", 8 / 255), ("L2", 0.5)])
def test_rounded_images_stay_in_the_ball(norm, eps):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 256, (64, 3, 8, 8), generator=generator).float() / 255
    step = torch.randn(clean.shape, generator=generator)
    length = step.abs() if norm == "Linf" else step.flatten(1).norm(dim=1)[:, None, None, None]
    adversarial = (clean + eps * step / length).clamp(0, 1)
    found = on_grid(adversarial, clean, norm, eps)
    assert found.dtype == torch.uint8
    distance = perturbation_norm(found.double() / 255, (clean * 255).round().double() / 255, norm)
    assert bool((distance <= eps + TOLERANCE).all())
    moved = (found.double() - adversarial.double() * 255).abs()
    assert float(moved.max()) <= (1.0 if norm == "Linf" else 1.5) + 1e-3
    again = on_grid(clean, clean, norm, eps)
    assert torch.equal(again.float() / 255, clean)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_kept_images_are_exported_in_order(kind, network, digits, new_run, tmp_path):
    run = new_run("kept")
    evaluated(network, digits, run, CONFIG)
    with pytest.raises(UserError, match="--save-adversarial"):
        export(find_evaluation(run, None), tmp_path / "none.pt")
    verdicts = evaluated(network, digits, run, CONFIG, save_adversarial=kind).verdicts
    shape = export(find_evaluation(run, None), tmp_path / "found.pt")
    images = torch.load(tmp_path / "found.pt", weights_only=True)
    assert shape == tuple(images.shape) == (120, 1, 8, 8)
    assert images.dtype == torch.float32
    clean = digits.images_float(slice(0, 120))
    assert bool((perturbation_norm(images, clean, "Linf") <= 0.13 + TOLERANCE).all())
    broken = torch.tensor(verdicts["broken_by"].eq("apgd-ce").tolist())
    assert torch.equal(images[~broken], clean[~broken])
    with torch.no_grad():
        wrong = network(images).argmax(1) != digits.labels[:120]
    kept = run.evaluations()[0].record["adversarial"]
    assert kept["broken"] == int(broken.sum())
    assert kept["no_longer_broken"] == (broken & ~wrong).nonzero()[:, 0].tolist()
    assert (kept["no_longer_broken"] == []) or kind == "uint8"
    record = run.evaluations()[0].record
    evaluated(network, digits, run, CONFIG, save_adversarial=kind)
    assert run.evaluations()[0].record == record, "nothing was left to do"


def test_images_are_exported_in_the_order_of_their_rows(network, digits, new_run, tmp_path):
    run = new_run("shuffled")
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    config = EvalConfig(eps=0.1, attacks=(), chunk_size=15, save_adversarial="float32")
    evaluated(network, digits.take(order, complete=False), run, config)
    (evaluation,) = run.evaluations()
    assert evaluation.verdicts()["index"].to_pylist() == order.tolist()
    export(evaluation, tmp_path / "found.pt")
    images = torch.load(tmp_path / "found.pt", weights_only=True)
    assert torch.equal(images, digits.images_float(slice(0, 50)))

"""Kept images are exported in the order of the test set, whatever order they were attacked in."""

import torch

from harness.config import EvalConfig
from harness.evaluation.attack.images import export
from harness.evaluation.driver import evaluate


def test_images_are_exported_in_the_order_of_their_rows(network, digits, new_run, tmp_path):
    run = new_run("shuffled")
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    config = EvalConfig(eps=0.1, attacks=(), chunk_size=15, save_adversarial="float32")
    shuffled = digits.take(order, complete=False)
    evaluate(network, shuffled, config, run, device=torch.device("cpu"))
    (evaluation,) = run.evaluations()
    assert evaluation.verdicts()["index"].to_pylist() == order.tolist()
    export(evaluation, tmp_path / "found.pt")
    images = torch.load(tmp_path / "found.pt", weights_only=True)
    assert torch.equal(images, digits.images_float(slice(0, 50)))

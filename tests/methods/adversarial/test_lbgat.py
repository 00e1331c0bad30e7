"""lbgat: its formula and its natural model."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.method import Batch, Task
from harness.progress import Reporter
from harness.store.rundir import RunDirectory
from tests.methods.conftest import assert_same_loss


def test_loss_is_its_formula_with_gradients_into_both_networks(
    network: nn.Module, batch: Batch, make_task: Callable[..., Task]
) -> None:
    task = make_task("lbgat", kl_weight=6.0, natural_arch="resnet8")
    task.natural = nn.Sequential(nn.Flatten(), nn.Linear(18, 7)).double()
    loss = task.loss(network, batch).loss
    natural, adv, clean = task.natural(batch.x), network(batch.x_adv), network(batch.x)
    expected = sum(((a - t) ** 2).sum() for a, t in zip(adv, natural, strict=True)) / adv.numel()
    expected = expected + cross_entropy(natural, batch.y)
    expected = expected + 6 * kl_div(log_softmax(adv, 1), softmax(clean, 1), reduction="batchmean")
    assert_same_loss(loss, expected, network, task.natural)


def test_the_natural_network_trains_and_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    options = {
        "results": tmp_path,
        "device": "cpu",
        "data.train_limit": 256,
        "training.epochs": 4,
        "training.batch_size": 16,
        "training.attack.steps": 1,
        "training.monitor.every": 0,
        "evaluation.limit": 2,
        "evaluation.attacks": (),
    }
    config = resolve("lbgat", options=options)
    run(config, Reporter(quiet=True))
    directory = RunDirectory(tmp_path, config.run_id)
    first, *_, last = (record["parts"]["natural_ce"] for record in directory.epochs())
    assert last < 0.7 * first
    kept = torch.load(directory.checkpoint_path, weights_only=True)["task"]
    assert {name.split(".")[0] for name in kept} == {"natural"}
    assert float(kept["natural.bn1.running_mean"].abs().sum()) > 0

"""The loss modules against the methods that train with them, against KL, and over processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from divergence_bench import losses
from harness.method import Batch, TaskContext
from harness.registry import METHODS

CLASSES, EPS = 5, 0.1


def training() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A small network for five classes, and four batches of eight images, in float64."""
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, CLASSES)]
    images = torch.rand(4, 8, 3, 2, 2, dtype=torch.float64)
    labels = torch.randint(CLASSES, (4, 8))
    return nn.Sequential(*layers).double(), list(zip(images, labels, strict=True))


def attacked(model: nn.Module, x: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Two steps of sign ascent."""
    x_adv = x.clone()
    for _ in range(2):
        x_adv.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(model(x_adv)), x_adv)
        x_adv = (x_adv + EPS / 2 * gradient.sign()).clamp(0, 1).detach()
    return x_adv


def losses_of_method() -> list[float]:
    method = METHODS.get("ikl")
    params = method.params.model_validate({"attack_wmse_weight": 20.0, "attack_ce_weight": 3.0})
    context = TaskContext(num_classes=CLASSES, epochs=3, device=torch.device("cpu"))
    task, (model, batches) = method.task(params, context).double(), training()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for epoch in range(1, 4):
        for x, y in batches:
            batch = Batch(x, y, torch.arange(len(y)), epoch)
            with torch.no_grad():
                objective = task.attack_objective(model, batch)
            assert objective is not None
            batch.x_adv = attacked(model, x, objective)
            output = task.loss(model, batch)
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            task.observe(batch, output)
            found.append(output.loss.item())
        task.end_epoch(epoch)
    return found


def losses_of_a_plain_loop() -> list[float]:
    criterion, (model, batches) = losses.IKLLoss(CLASSES).double(), training()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(3):
        for x, y in batches:
            criterion.eval()
            clean = model(x).detach()
            x_adv = attacked(model, x, lambda adv, clean=clean, y=y: criterion(clean, adv, y))
            criterion.train()
            adversarial, clean = model(x_adv), model(x)
            loss = cross_entropy(clean, y) + criterion(clean, adversarial, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        criterion.end_epoch()
    return found


def test_a_plain_loop_with_ikl_loss_gives_the_losses_of_the_method() -> None:
    ours, theirs = losses_of_a_plain_loop(), losses_of_method()
    assert len(ours) == 12
    assert ours == pytest.approx(theirs, rel=1e-12, abs=0)


def test_class_means_are_uniform_until_the_first_epoch_ends_and_are_kept_in_the_state() -> None:
    criterion = losses.IKLLoss(CLASSES)
    logits, labels = torch.randn(8, CLASSES), torch.arange(8) % CLASSES
    criterion(logits, logits, labels)
    assert torch.equal(criterion.class_means.matrix_CC, torch.full((CLASSES, CLASSES), 1 / CLASSES))
    criterion.end_epoch()
    expected = (logits / 4).softmax(1)[labels == 0].mean(0)
    torch.testing.assert_close(criterion.class_means.matrix_CC[0], expected)
    again = losses.IKLLoss(CLASSES)
    again.load_state_dict(criterion.state_dict())
    assert torch.equal(again(logits, -logits, labels), criterion(logits, -logits, labels))


def test_in_eval_mode_nothing_is_gathered() -> None:
    criterion = losses.GKLLoss(CLASSES).eval()
    before = {name: value.clone() for name, value in criterion.state_dict().items()}
    criterion(torch.randn(8, CLASSES), torch.randn(8, CLASSES), torch.arange(8) % CLASSES)
    assert all(torch.equal(value, before[name]) for name, value in criterion.state_dict().items())


def test_at_weights_one_the_gradients_of_dkl_are_those_of_kl() -> None:
    logits = [torch.randn(6, CLASSES, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    kl = torch.autograd.grad(losses.kl_divergence(*logits), logits)
    dkl = torch.autograd.grad(losses.DKLLoss()(*logits), logits)
    for ours, theirs in zip(dkl, kl, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-14)


def test_gkl_at_power_one_is_ikl() -> None:
    logits, labels = torch.randn(2, 8, CLASSES, dtype=torch.float64), torch.arange(8) % CLASSES
    gkl = losses.GKLLoss(CLASSES, power=1.0).double()
    ikl = losses.IKLLoss(CLASSES).double()
    torch.testing.assert_close(gkl(*logits, labels), ikl(*logits, labels))


def test_distillation_losses_weigh_the_functions_parts() -> None:
    student, teacher = torch.randn(2, 8, CLASSES, dtype=torch.float64)
    labels = torch.arange(8) % CLASSES
    parts = losses.dkd_loss(student, teacher, labels, 2.0)
    found = losses.DKDLoss(0.5, 3.0, temperature=2.0)(student, teacher, labels)
    assert found.item() == pytest.approx(0.5 * parts.target.item() + 3 * parts.non_target.item())
    softened = [(logits / 2).log_softmax(1) for logits in (teacher, student)]
    expected = 4 * (softened[0].exp() * (softened[0] - softened[1])).sum(1).mean()
    assert losses.KDLoss(2.0)(student, teacher).item() == pytest.approx(expected.item())


def test_importing_the_losses_imports_nothing_but_torch() -> None:
    """Those for feature maps have the engine's errors, too, which import nothing."""
    code = (
        "import sys, torch; before = set(sys.modules); import divergence_bench.losses; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before})); "
        "import pkgutil, importlib, methods.losses as m; before.add('pkgutil'); "
        "[importlib.import_module('methods.losses.' + i.name) "
        "for i in pkgutil.iter_modules(m.__path__)]; "
        "new = [n for n in set(sys.modules) - before if n.split('.')[0] != 'methods']; "
        "print(sorted(n for n in new if n.split('.')[0] != 'divergence_bench'))"
    )
    command = [sys.executable, "-c", code]
    root = Path(losses.__file__).parents[1]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert found.splitlines() == [
        "['divergence_bench', 'methods']",
        "['harness', 'harness.errors']",
    ]


def train_in_process(rank: int, folder: Path) -> None:
    """Train on every other image of each batch, and write the class means."""
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    network, batches = training()
    model, criterion = DistributedDataParallel(network), losses.IKLLoss(CLASSES).double()
    for x, y in batches:
        logits, labels = model(x[rank::2]), y[rank::2]
        criterion(logits, 0.9 * logits, labels).backward()
    criterion.end_epoch()
    torch.save(criterion.class_means.matrix_CC, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_class_means_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    # Forked from a new process: this one's autograd may have threads.
    environment = os.environ | {"PYTHONPATH": str(Path(losses.__file__).parents[1])}
    subprocess.run([sys.executable, __file__, str(tmp_path)], check=True, env=environment)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    criterion, (model, batches) = losses.IKLLoss(CLASSES).double(), training()
    for x, y in batches:
        criterion(model(x), model(x), y)
    criterion.end_epoch()
    torch.testing.assert_close(first, criterion.class_means.matrix_CC)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for number in range(2):
        get_context("fork").Process(
            target=train_in_process, args=(number, Path(sys.argv[1]))
        ).start()

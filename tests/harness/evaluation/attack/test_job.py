"""Chunks in any order, by any number of processes, kept images, and too little memory."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from harness.config import EvalConfig
from harness.data import ImageSet
from harness.errors import UserError
from harness.evaluation.attack import executors
from harness.evaluation.attack.executors import InProcess, ProcessPool, local_executor, num_threads
from harness.evaluation.attack.images import export, find_evaluation, on_grid
from harness.evaluation.attack.judge import TOLERANCE, perturbation_norm
from harness.evaluation.driver import EvaluationResult, evaluate
from harness.evaluation.speed.batching import GRAIN, Batching
from harness.store.rundir import RunDirectory

CPU = torch.device("cpu")
NewRun = Callable[[str], RunDirectory]
CONFIG = EvalConfig(eps=0.13, attacks=("apgd-ce",), chunk_size=40, limit=120)


def attack(
    model: nn.Module, digits: ImageSet, run: RunDirectory, **changes: object
) -> EvaluationResult:
    (result,) = evaluate(model, digits, CONFIG.model_copy(update=changes), run, device=CPU)
    return result


@pytest.fixture(scope="module")
def alone(
    network: nn.Module, digits: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    run = RunDirectory.create(tmp_path_factory.mktemp("results"), "alone")
    run.update(kind="loaded", dataset="digits")
    return attack(network, digits, run).verdicts


@pytest.mark.parametrize("workers", [2, 4])
def test_verdicts_do_not_depend_on_the_number_of_workers(
    workers: int, network: nn.Module, digits: ImageSet, new_run: NewRun, alone: pd.DataFrame
) -> None:
    shares: list[float] = []
    (found,) = evaluate(
        network,
        digits,
        CONFIG,
        new_run("shared"),
        device=CPU,
        executor=ProcessPool(workers),
        progress=lambda share, _: shares.append(share),
    )
    pd.testing.assert_frame_equal(found.verdicts, alone, check_exact=True)
    # Finished chunks alone would give thirds.
    assert any(0 < share < 1 and 3 * share != round(3 * share) for share in shares)
    assert shares == sorted(shares)
    assert not active_children()


def test_verdicts_do_not_depend_on_the_order_of_chunks(
    network: nn.Module,
    digits: ImageSet,
    new_run: NewRun,
    alone: pd.DataFrame,
    interrupt: Callable[..., None],
) -> None:
    run = new_run("order")
    attack(network, digits, run)
    for gone in ((0, 2), (1,)):
        interrupt(run.evaluations()[0], *gone)
        pd.testing.assert_frame_equal(
            attack(network, digits, run).verdicts, alone, check_exact=True
        )


def test_a_killed_worker_is_named_and_the_same_call_goes_on(
    network: nn.Module, digits: ImageSet, new_run: NewRun, alone: pd.DataFrame
) -> None:
    run = new_run("killed")

    def kill() -> None:
        while not run.evaluations() or not run.evaluations()[0].finished_chunks():
            time.sleep(0.01)
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match=r"killed by signal 9 in chunk \d: .*repeat the command"):
        attack(network, digits, run, workers=2, chunk_size=10, limit=60)
    killer.join()
    assert not active_children()
    assert run.evaluations()[0].record["status"] == "error"
    kept = run.evaluations()[0].finished_chunks()
    assert 0 < len(kept) < 6
    found = attack(network, digits, run, chunk_size=10, limit=60).verdicts
    whole = attack(network, digits, new_run("whole"), chunk_size=10, limit=60).verdicts
    pd.testing.assert_frame_equal(found, whole, check_exact=True)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("evaluate()", 'run.py, .* below `if __name__ == "__main__":`'),
        ('if __name__ == "__main__":\n    evaluate()', "repeat the command"),
    ],
)
def test_a_script_without_a_main_guard_is_named(
    text: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "run.py"
    script.write_text(text)
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    dead = Mock(pid=7, exitcode=1)
    assert re.search(hint, str(executors._death({dead}, {})))


def test_a_chunk_that_is_made_again_has_the_threads_it_had_beside_others(
    network: nn.Module, digits: ImageSet, new_run: NewRun, interrupt: Callable[..., None]
) -> None:
    run, seen = new_run("threads"), set()
    changes = {"workers": 2, "accelerate": False, "chunk_size": 10, "limit": 20}
    with num_threads(2):
        attack(network, digits, run, **changes)
        interrupt(run.evaluations()[0], 1)
        watch = network.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
        try:
            attack(network, digits, run, **changes)
        finally:
            watch.remove()
        assert torch.get_num_threads() == 2
    # What is computed once for all chunks has all threads.
    assert 1 in seen <= {1, 2}


def test_workers_are_at_most_as_many_as_chunks_and_share_the_threads() -> None:
    with num_threads(4):
        executors = [local_executor(workers, chunks=3) for workers in (1, 2, 8)]
    assert [type(executor) for executor in executors] == [InProcess, ProcessPool, ProcessPool]
    assert [executor.threads for executor in executors] == [4, 2, 1]


class Refusing(nn.Module):
    """Raises an error that cannot be rebuilt, but where it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.home = nn.Linear(64, 10), os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.home:
            raise Rebuildless("not", "here")
        return self.linear(x.flatten(1))


class Rebuildless(Exception):
    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} {other}")


def test_what_a_worker_raises_ends_the_evaluation(
    digits: ImageSet, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Spawned processes find this module by its file's name.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setitem(sys.modules, "test_job", sys.modules[__name__])
    for kind in (Refusing, Rebuildless):
        monkeypatch.setattr(kind, "__module__", "test_job")
    run = new_run("raises")
    with pytest.raises(RuntimeError, match="Rebuildless: not here"):
        attack(Refusing().eval(), digits, run, workers=2)
    assert run.evaluations()[0].record["status"] == "error"
    assert not active_children()


def test_a_model_that_cannot_be_sent_is_the_users_mistake(
    network: nn.Module, digits: ImageSet, new_run: NewRun
) -> None:
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network(x)

    with pytest.raises(UserError, match="--workers 1"):
        attack(Local(), digits, new_run("local"), workers=2)


class Small(nn.Module):
    """Runs out of memory on more than ``most`` images."""

    def __init__(self, inner: nn.Module, most: int) -> None:
        super().__init__()
        self.inner, self.most, self.refused = inner, most, 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("tried to allocate")
        return self.inner(x)


@pytest.mark.parametrize("most", [32, 5])
def test_too_little_memory_halves_the_batch_and_changes_no_verdict(
    most: int, network: nn.Module, digits: ImageSet, new_run: NewRun
) -> None:
    small = Small(network, most)
    found = attack(small, digits, new_run("small"), accelerate=False, limit=40).verdicts
    ample = Small(network, 40)
    expected = attack(ample, digits, new_run("ample"), accelerate=False, limit=40).verdicts
    assert small.refused
    assert not ample.refused
    # Pieces below the grain go through other matrix kernels: last bits may differ there.
    pd.testing.assert_frame_equal(found, expected, check_exact=most >= GRAIN, rtol=1e-4, atol=1e-4)


def test_one_image_too_many_is_an_error(
    network: nn.Module, digits: ImageSet, new_run: NewRun
) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        attack(Small(network, 0), digits, new_run("none"), accelerate=False, limit=40)


def test_halving_keeps_to_the_grain_until_it_is_one_grain() -> None:
    batching, limits = Batching(), []
    while batching.halve(100):
        limits.append(batching.limit)
    assert limits == [48, GRAIN, 8, 4, 2, 1]


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.13), ("Linf", 8 / 255), ("L2", 0.5)])
def test_rounded_images_stay_in_the_ball(norm: str, eps: float) -> None:
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
def test_kept_images_are_exported_in_order(
    kind: str, network: nn.Module, digits: ImageSet, new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run("kept")
    attack(network, digits, run)
    with pytest.raises(UserError, match="--save-adversarial"):
        export(find_evaluation(run, None), tmp_path / "none.pt")
    verdicts = attack(network, digits, run, save_adversarial=kind).verdicts
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

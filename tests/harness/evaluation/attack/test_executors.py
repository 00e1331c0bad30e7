"""Chunks in any order, by any number of processes."""

import os
import re
import signal
import sys
import threading
import time
from multiprocessing import active_children
from types import ModuleType
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from unreliable import Failing, Unpicklable

from harness.config import AttackBudget, EvalConfig
from harness.data import ImageSet
from harness.errors import UserError
from harness.evaluation.attack import executors
from harness.evaluation.attack.executors import InProcess, ProcessPool, local_executor, num_threads
from harness.evaluation.driver import evaluate
from harness.store.rundir import RunDirectory
from tests.harness.evaluation.conftest import evaluated

CPU = torch.device("cpu")
CONFIG = EvalConfig(eps=0.13, attacks=("apgd-ce",), chunk_size=40, limit=120)


@pytest.fixture(scope="module")
def alone(
    network: nn.Module, digits: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> pd.DataFrame:
    run = RunDirectory.create(tmp_path_factory.mktemp("results"), "alone")
    run.update(kind="loaded", dataset="digits")
    return evaluated(network, digits, run, CONFIG).verdicts


def test_verdicts_do_not_depend_on_the_number_of_workers(network, digits, new_run, alone):
    shares: list[float] = []
    (found,) = evaluate(
        network,
        digits,
        CONFIG,
        new_run("shared"),
        device=CPU,
        executor=ProcessPool(2),
        progress=lambda share, _: shares.append(share),
    )
    pd.testing.assert_frame_equal(found.verdicts, alone, check_exact=True)
    # Finished chunks alone would give thirds.
    assert any(0 < share < 1 and 3 * share != round(3 * share) for share in shares)
    assert shares == sorted(shares)
    assert not active_children()


def test_verdicts_do_not_depend_on_the_order_of_chunks(network, digits, new_run, alone, interrupt):
    run = new_run("order")
    evaluated(network, digits, run, CONFIG)
    for gone in ((0, 2), (1,)):
        interrupt(run.evaluations()[0], *gone)
        pd.testing.assert_frame_equal(
            evaluated(network, digits, run, CONFIG).verdicts, alone, check_exact=True
        )


def test_a_killed_worker_is_named_and_the_same_call_goes_on(network, digits, new_run):
    run = new_run("killed")

    def kill() -> None:
        while not run.evaluations() or not run.evaluations()[0].finished_chunks():
            time.sleep(0.01)
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match=r"killed by signal 9 in chunk \d: .*repeat the command"):
        evaluated(network, digits, run, CONFIG, workers=2, chunk_size=10, limit=60)
    killer.join()
    assert not active_children()
    assert run.evaluations()[0].record["status"] == "error"
    kept = run.evaluations()[0].finished_chunks()
    assert 0 < len(kept) < 6
    found = evaluated(network, digits, run, CONFIG, chunk_size=10, limit=60).verdicts
    whole = evaluated(network, digits, new_run("whole"), CONFIG, chunk_size=10, limit=60).verdicts
    pd.testing.assert_frame_equal(found, whole, check_exact=True)


def test_a_chunk_that_is_made_again_has_the_threads_it_had_beside_others(
    network, digits, new_run, interrupt
):
    run, seen = new_run("threads"), set()
    changes = {"workers": 2, "accelerate": False, "chunk_size": 10, "limit": 20}
    changes |= {"budget": AttackBudget(n_iter=5)}
    evaluated(network, digits, run, CONFIG, **changes | {"workers": 1})
    interrupt(run.evaluations()[0], 1)
    with num_threads(2):
        watch = network.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
        try:
            evaluated(network, digits, run, CONFIG, **changes)
        finally:
            watch.remove()
        assert torch.get_num_threads() == 2
    # What is computed once for all chunks has all threads.
    assert 1 in seen <= {1, 2}


@pytest.mark.parametrize(
    ("workers", "chunks", "cores", "threads"),
    [(1, 3, 8, 4), (2, 3, 8, 2), (8, 3, 8, 1), (64, 40, 2, 2), (64, 40, 1, 4)],
)
def test_workers_are_at_most_one_a_chunk_and_a_core(monkeypatch, workers, chunks, cores, threads):
    """They share the threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    with num_threads(4):
        executor = local_executor(workers, chunks)
    expected = min(workers, chunks, cores)
    assert isinstance(executor, InProcess if expected == 1 else ProcessPool)
    assert getattr(executor, "workers", 1) == expected
    assert executor.threads == threads


def test_an_error_of_a_worker_ends_the_evaluation(digits, new_run):
    run, model = new_run("raises"), Failing(Unpicklable, "not", "here").eval()
    with pytest.raises(RuntimeError, match="Unpicklable: not here"):
        evaluated(model, digits, run, CONFIG, workers=2)
    assert run.evaluations()[0].record["status"] == "error"
    assert not active_children()


class Notebook(nn.Module):
    """Stands for a model whose class only this process has."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


def test_a_model_of_a_notebook_is_the_users_mistake(digits, new_run, monkeypatch):
    monkeypatch.setattr(Notebook, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Notebook", Notebook, raising=False)
    with pytest.raises(UserError, match=r"cannot be sent .*'Notebook' on .*: .*--workers 1"):
        evaluated(Notebook(), digits, new_run("notebook"), CONFIG, workers=2)
    assert not active_children()


def test_a_model_that_cannot_be_sent_is_the_users_mistake(network, digits, new_run):
    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return network(x)

    with pytest.raises(UserError, match="--workers 1"):
        evaluated(Local(), digits, new_run("local"), CONFIG, workers=2)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("evaluate()", 'run.py, .* below `if __name__ == "__main__":`'),
        ('if __name__ == "__main__":\n    evaluate()', "repeat the command"),
    ],
)
def test_a_script_without_a_main_guard_is_named(text, hint, tmp_path, monkeypatch):
    script = tmp_path / "run.py"
    script.write_text(text)
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    dead = Mock(pid=7, exitcode=1)
    assert re.search(hint, str(executors._death({dead}, {})))

"""The library as a guest in another program: it leaves global state alone and needs no extras."""

import ast
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import divergence_bench as bench

ROOT = Path(bench.__file__).parents[1]
PACKAGES = ("divergence_bench", "harness", "methods", "leaderboards", "app")
# These are the program that the command line is.
PROGRAM = {"divergence_bench/cli", "divergence_bench/__main__.py", "harness/__main__.py"}


def global_state() -> dict[str, Any]:
    """What a call of a library must not change."""
    return {
        "torch's generator": torch.random.get_rng_state().tolist(),
        "numpy's generator": np.random.get_state()[1].tolist(),
        "signals": [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
        "handlers": [logging.getLogger(name).handlers[:] for name in (None, "harness")],
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "precision": torch.get_float32_matmul_precision(),
    }


def test_calling_twice_is_safe_and_changes_nothing_outside(tmp_path: Path) -> None:
    short: dict[str, Any] = {
        "attacks": ["apgd-ce"], "budget": {"n_iter": 2}, "n": 10, "quiet": True,
        "results": tmp_path,
    }  # fmt: skip
    training = {"evaluation.budget": short.pop("budget"), "epochs": 1, "train_limit": 64, **short}
    before = global_state()
    first, second = (bench.train("ikl", "digits", **training) for _ in range(2))
    assert (first.run_id, first.metrics) == (second.run_id, second.metrics)
    model = bench.load_model(first.run_id, results=tmp_path)
    a, b = (bench.evaluate(model, "digits", eps=0.1, **short) for _ in range(2))
    assert (a.run_id, a.metrics) == (b.run_id, b.metrics)
    images, labels = (
        torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        [0, 1, 2, 3],
    )
    found = [bench.attack(model, images, torch.tensor(labels), eps=0.1, n_iter=2) for _ in range(2)]
    assert torch.equal(*found)
    bench.evaluate(first.run_id, "digits", eps=0.1, **short)
    bench.export(first.run_id, tmp_path / "hub", format="state-dict", results=tmp_path)
    weights = tmp_path / "weights.pt"
    torch.save(model.state_dict(), weights)
    bench.evaluate(weights, "digits", arch="resnet8", eps=0.1, **short)
    assert global_state() == before


def calls(path: Path) -> set[str]:
    """The names of the functions that a file calls, and of the exceptions that it raises."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    raised = {ast.unparse(node.exc) for node in nodes if isinstance(node, ast.Raise) and node.exc}
    return called | {text.partition("(")[0] for text in raised}


@pytest.mark.parametrize("line", ["print('x')", "sys.exit(2)", "raise SystemExit(2)"])
def test_library_code_neither_prints_nor_exits(line: str, tmp_path: Path) -> None:
    forbidden = {"print", "sys.exit", "exit", "quit", "SystemExit"}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if not any(name.startswith(each) for each in PROGRAM):
                found = calls(path) & forbidden
                assert not found, f"{name} calls {found}"
    (tmp_path / "wrong.py").write_text(line)
    assert calls(tmp_path / "wrong.py") & forbidden


def optional_packages() -> set[str]:
    """The modules of all extras, by the names of their distributions."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [each for group in extras["optional-dependencies"].values() for each in group]
    return {re.split(r"[<>=\[]", name)[0].replace("-", "_") for name in names}


def test_without_extras_nothing_of_them_is_imported(tmp_path: Path) -> None:
    """In another process, since this one has imported what tests need."""
    optional = optional_packages()
    assert {"streamlit", "timm", "ray", "onnx", "tensorboard", "wandb", "pytest"} <= optional
    code = f"""
import json, sys
import divergence_bench as bench
short = dict(attacks="none", n=10, quiet=True)
run = bench.train("ikl", "digits", epochs=1, train_limit=64, **short)
bench.evaluate(bench.load_model(run.run_id), "digits", **short)
bench.export(run.run_id, format="state-dict")
bench.results(), bench.verdicts(run.run_id), bench.methods(), bench.models(), bench.datasets()
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}} & set({sorted(optional)}))))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert json.loads(ended.stdout) == []

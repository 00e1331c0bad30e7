"""Each benchmark is a command that starts: nothing that it uses has moved away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    path
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if "ArgumentParser" in path.read_text()
]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_benchmark_says_how_it_is_used(path):
    result = subprocess.run(
        [sys.executable, str(path), "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage:")

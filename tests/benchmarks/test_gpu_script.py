"""The script for a GPU runs each part whatever became of the others, and names what failed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("HARNESS_DATA") or ROOT.parent / "shared" / "data")
PARTS = ("tests", "distillation-step", "adversarial-step", "autoattack")

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU timeout")


def script(data: Path, out: Path, python: str) -> subprocess.CompletedProcess[str]:
    """The finished script at tiny size on the CPU."""
    environment = {**os.environ, "SMOKE": "1", "PYTHON": python}
    command = [ROOT / "benchmarks" / "gpu.sh", data, out]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_parts_that_fail_are_named(tmp_path):
    done = script(tmp_path, tmp_path / "out", "false")

    assert done.returncode == 1
    assert done.stdout.endswith("failed: " + " ".join(f"{part} (1)" for part in PARTS) + "\n")
    assert (tmp_path / "out" / "summary.txt").read_text() == done.stdout
    for part in PARTS:
        assert (tmp_path / "out" / f"{part}.log").read_text() == "exit status 1\n"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs CIFAR-10: set HARNESS_DATA")
def test_all_parts_run_on_a_cpu(tmp_path):
    done = script(DATA, tmp_path / "out", sys.executable)

    assert done.returncode == 0, done.stdout
    assert done.stdout.count("status 0 after") == len(PARTS)
    assert "verdicts that differ from the reference, graphs: 0" in done.stdout

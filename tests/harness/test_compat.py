"""Work-arounds for broken releases: they work, and vanish where nothing is broken."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import compat

FAKES = {
    "torchvision/__init__.py": "",
    "timm/__init__.py": "",
    "pkg_resources.py": "def resource_filename(name, resource): return 'theirs'\n",
    "autoattack/__init__.py": "AutoAttack = 'theirs'\n",
    "autoattack/state.py": "EvaluationState = 'theirs'\n",
    "robustbench/__init__.py": (
        "import pkg_resources\n"
        "from autoattack import AutoAttack\n"
        "from autoattack.state import EvaluationState\n"
    ),
}


def python(code, *path):
    """What a fresh interpreter prints."""
    root = str(Path(compat.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), root])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_torchvision_shim_is_active_exactly_where_the_plain_import_fails():
    plain, active = python(
        "try: import torchvision; plain = 'works'\n"
        "except RuntimeError: plain = 'fails'\n"
        "from harness.compat import active_shims, import_torchvision\n"
        "import_torchvision().models\n"
        "print(plain, 'torchvision-operators' in active_shims())"
    )
    assert active == str(plain == "fails")


def test_an_unrelated_failure_of_torchvision_is_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(compat.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        compat.import_torchvision()


def test_no_shim_where_releases_are_sound(tmp_path):
    for name, text in FAKES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    printed = python(
        "from harness.compat import active_shims, import_robustbench\n"
        "found = import_robustbench()\n"
        "print(found.AutoAttack, found.EvaluationState, len(active_shims()))",
        tmp_path,
    )
    assert printed == ["theirs", "theirs", "0"]


class TestRobustBench:
    """The installed release."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("gdown", reason="RobustBench is not installed")
        self.robustbench = compat.import_robustbench()

    def test_shims_are_named_and_leave_no_modules_behind(self):
        assert compat.active_shims() == sorted(compat.active_shims())
        for module in ("pkg_resources", "autoattack"):
            if f"robustbench-{module}" in compat.active_shims():
                assert module not in sys.modules

    def test_files_beside_robustbench_are_found(self):
        loaders = sys.modules["robustbench.loaders"]
        found = loaders.pkg_resources.resource_filename(loaders.__name__, "loaders.py")
        assert Path(found).samefile(loaders.__file__)


def test_timm_finds_what_a_download_needs():
    constraints = Path(compat.__file__).parents[1] / "constraints.txt"
    (pinned,) = re.findall(r"^huggingface_hub==(\S+)$", constraints.read_text(), re.MULTILINE)
    if importlib.metadata.version("huggingface_hub") != pinned:
        pytest.skip(f"the environment is not that of the constraints: huggingface_hub {pinned}")
    compat.import_timm()
    assert importlib.import_module("timm.models._hub").has_hf_hub()

"""Hashes of code change with what the code uses, and with nothing else."""

import importlib
import sys
from pathlib import Path

import pytest
from torch import nn

from harness.source_hash import code_sha256, source_sha256


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes files of a package and gives its module ``top`` as they are now."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / "package_of_hashes"
    folder.mkdir()

    def write(**files: str):
        for name, text in {"__init__": "", **files}.items():
            Path(folder, f"{name}.py").write_text(text)
        for name in [name for name in sys.modules if name.startswith(folder.name)]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module(f"{folder.name}.top")

    return write


IMPORTS = (
    "from package_of_hashes.other import SCALE",
    "from .other import SCALE",
    "from .other import SCALE as FACTOR",
)


@pytest.mark.parametrize("line", IMPORTS)
def test_modules_are_followed_to_constants_that_they_import(line, package):
    found = set()
    for other in ("SCALE = 1", "SCALE = 2"):
        top = package(top=line, other=other, third="X = 1")
        found.add(source_sha256(top.__name__))
    top = package(top=line, other="SCALE = 2", third="X = 2")
    assert source_sha256(top.__name__) in found
    assert len(found) == 2


BEFORE = {"top": "", "other": "SCALE = 1\nUNUSED = 1\ndef helped(x): return x * SCALE\n"}
USES = {
    "a constant": ("from .other import SCALE\ndef f(x): return x * SCALE\n", True),
    "a constant of a module": ("from . import other\ndef f(x): return x * other.SCALE\n", True),
    "a function": ("from .other import helped\ndef f(x): return helped(x)\n", True),
    "a function of a module": ("from . import other\ndef f(x): return other.helped(x)\n", True),
    "an import inside": ("def f(x):\n    from .other import SCALE\n    return x * SCALE\n", True),
    "a closure": (
        "from .other import SCALE\ndef g(s):\n    return lambda x: x * s\nf = g(SCALE)\n", True),
    "a partial": (
        "from functools import partial\nfrom .other import helped\nf = partial(helped)\n", True),
    "a method": (
        "from .other import helped\nclass A:\n    def m(self, x): return helped(x)\nf = A\n", True),
    "nothing of it": ("from . import other\ndef f(x): return x\n", False),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_names_in_a_source_are_followed(use, package):
    text, follows = USES[use]
    found = []
    for scale in (1, 2):
        top = package(top=text, other=BEFORE["other"].replace("SCALE = 1", f"SCALE = {scale}"))
        importlib.import_module("package_of_hashes.other")  # as a first call does
        found.append(code_sha256([top.f]))
    assert (found[0] != found[1]) == follows
    unused = package(top=text, other=BEFORE["other"].replace("UNUSED = 1", "UNUSED = 2"))
    importlib.import_module("package_of_hashes.other")
    assert code_sha256([unused.f]) == found[0]


def test_installed_code_is_left_out():
    assert code_sha256([nn.Linear, nn.Sequential, Path]) == code_sha256([])
    assert code_sha256([test_installed_code_is_left_out]) != code_sha256([])

"""Locales that lack signs, paths that cannot be used, and signals at any moment."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.distributed.signals import stopping

ROOT = Path(__file__).parents[3]


def harness(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_gets_utf_8_whatever_the_locale(encoding: str) -> None:
    command = ("report", "--table", "3", "--format", "csv", "--printed-only")
    narrow = harness(*command, PYTHONIOENCODING=encoding)
    assert narrow.returncode == 0, narrow.stderr
    assert narrow.stdout == harness(*command).stdout
    assert "\N{GREEK CAPITAL LETTER DELTA}" in narrow.stdout.decode()


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_question_mark_for_a_sign_that_it_lacks(
    call, results: str, monkeypatch
) -> None:
    terminal = Terminal(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert (
        call("sql", "SELECT 'caf\N{LATIN SMALL LETTER E WITH ACUTE}'", "--results", results).status
        == 0
    )
    terminal.flush()
    assert b"caf?" in terminal.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "--all", "--out", ""),
        ("report", "--all", "--out="),
        ("list", "runs", "--results", ""),
        ("db", "rebuild", "--results="),
        ("show", "a" * 300),
        ("evaluate", "a" * 300),
        ("evaluate", "a" * 300 + ".pt", "--dataset", "digits", "--arch", "resnet8"),
        ("run", "--method", "a" * 300),
        ("run", "--method", "trades", "--data-root", "a" * 300, "--dataset", "cifar10"),
        ("run", "--method", "trades", "--results", "a" * 300),
        ("compare", "a" * 300, "b" * 300),
        ("show", "LOOP"),
        ("evaluate", "LOOP/model.pt", "--dataset", "digits", "--arch", "resnet8"),
        ("run", "--method", "trades", "--results", "LOOP/results"),
        ("db", "merge", "LOOP"),
        ("db", "rebuild", "--results", "LOOP"),
        ("check", "--baseline", "LOOP"),
        ("sweep", "LOOP"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_sentence(
    refused, tmp_path: Path, monkeypatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    refused(*(text.replace("LOOP", str(loop)) for text in arguments))
    assert list(tmp_path.iterdir()) == [loop]


STRIKING = """
import os, runpy, signal, sys

class Striking:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            sys.meta_path.remove(striking)
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
striking = Striking()
sys.meta_path.insert(0, striking)
sys.argv = ["harness", "show", "trades"]
runpy.run_module("harness", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["typer", "rich", "pydantic", "torch", "numpy"])
def test_ctrl_c_while_modules_are_imported_leaves_no_traceback(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STRIKING.format(module=module)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert ended.returncode in (130, -signal.SIGINT), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_signal_that_arrives_where_python_drops_exceptions_is_heeded() -> None:
    class Doomed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def work() -> None:
        Doomed()
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt), stopping() as stop:
        work()
    assert stop.status == 143

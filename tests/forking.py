"""Run command lines in forked copies of a process that has everything imported."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


class ForkServer:
    """The process that forks the copies; see ``fork_server.py``."""

    def __init__(self, folder: Path) -> None:
        self.outputs = folder
        self._number = 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=folder,
        )
        assert self._read() == "ready"

    def run_all(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        """Run command lines at the same time, and return the status, seconds and output of each.

        A command has ``arguments``, optionally a ``delay`` in seconds before ``signal`` is sent,
        and optionally ``prepare``, Python code that the process executes first.
        """
        for command in commands:
            self._number += 1
            command["output"] = str(self.outputs / f"{self._number}.txt")
        assert self._process.stdin is not None
        print(json.dumps(commands), file=self._process.stdin, flush=True)
        results: list[dict[str, Any]] = self._read()
        return [
            result | {"output": Path(command["output"]).read_text()}
            for result, command in zip(results, commands, strict=True)
        ]

    def run(self, arguments: list[str], **options: Any) -> dict[str, Any]:
        """Run one command line."""
        return self.run_all({"arguments": arguments, **options})[0]

    def succeed(self, arguments: list[str], **options: Any) -> dict[str, Any]:
        """Run a command line that must exit with 0."""
        ended = self.run(arguments, **options)
        assert ended["code"] == 0, ended["output"]
        return ended

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that everything is forked from has ended"
        return json.loads(line)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    started = ForkServer(tmp_path_factory.mktemp("server"))
    yield started
    started.close()

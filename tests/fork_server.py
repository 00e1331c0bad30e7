"""A process with everything imported, which forks a copy of itself for each command line to test.

A fresh interpreter takes seconds to import torch. A forked copy takes milliseconds, so hundreds of
kills are affordable. The copy runs the real ``divergence_bench.cli.main.main``. Lists of commands
are read as JSON lines from standard input; results are written as JSON lines to standard output.
"""

import glob
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet
import rich.progress
import torch
import torch._dynamo
import torch.optim

import divergence_bench.cli.main
import divergence_bench.cli.run
import leaderboards.summary
import methods.adversarial.ikl
from harness.data import load_dataset

LOADED = (duckdb, pd, pyarrow.parquet, rich.progress, torch._dynamo, torch.optim)
LOADED += (divergence_bench.cli.run, leaderboards.summary, methods.adversarial.ikl)


def execute(command: dict[str, Any]) -> int:
    """Run the command line in a copy and return its exit status."""
    output = os.open(command["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["harness", *command["arguments"]]
    try:
        if command.get("prepare"):
            exec(command["prepare"], {})
        divergence_bench.cli.main.main()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def start(command: dict[str, Any]) -> int:
    """Start a copy that runs the command and return its process id."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os._exit(execute(command))
    return child


def finish(child: int, command: dict[str, Any]) -> dict[str, Any]:
    """Wait until a copy ends and return its status and duration.

    A command with ``delay`` or ``until`` is sent a signal: ``delay`` seconds after this call, or
    after the file ``until`` exists.
    """
    began = time.perf_counter()
    if "delay" in command or "until" in command:
        while "until" in command and not glob.glob(command["until"]) and not _ended(child):
            time.sleep(0.002)
        strike = time.perf_counter() + command.get("delay", 0)
        while time.perf_counter() < strike and not _ended(child):
            time.sleep(0.002)
        if not _ended(child):
            send = os.killpg if command.get("group") else os.kill
            send(child, command.get("signal", signal.SIGKILL))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    left = _group_lives(child)
    return {"code": code, "seconds": time.perf_counter() - began, "left": left}


def _group_lives(group: int) -> bool:
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True


def _ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def main() -> None:
    # A shell's background process ignores SIGINT, and so would everything forked from it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    load_dataset("digits")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        commands = json.loads(line)
        children = [start(command) for command in commands]
        results = [finish(*pair) for pair in zip(children, commands, strict=True)]
        print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()

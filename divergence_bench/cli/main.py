"""The command line: its commands and exit status.

Exit status: 0 done; 1 a regression or something left out (a failed run of a sweep, a damaged run
of `db`); 2 a user error; 130 or 143 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer import Option

from divergence_bench.cli.environment import explained_paths, open_streams, refuse_empty_values
from divergence_bench.cli.options import SuggestingGroup, new_typer
from harness import __version__
from harness.distributed.signals import stopping
from harness.errors import UserError

SCRIPT, MODULE = "divergence-bench", "python -m harness"
# Click's UsageError, which Typer does not export: the base class of BadParameter.
USAGE_ERROR = cast(type[Exception], typer.BadParameter.__mro__[1])

# The function or group that implements each command, and its summary.
VERBS = {
    "run": ("run:run", "Train a model, evaluate it and store the result."),
    "evaluate": ("evaluate:evaluate", "Evaluate a stored run or an external model."),
    "export": ("export:export", "Export a run's model for other programs and model hubs."),
    "export-adversarial": ("evaluate:export_adversarial", "Export adversarial images as a tensor."),
    "list": ("list:list_", "List methods, recipes, datasets, models or runs."),
    "show": ("show:show", "Show one run with its table, or a method's card."),
    "compare": ("compare:compare", "Compare runs image by image, or methods over seeds."),
    "decide": ("decide:decide", "Find the more robust of two models from few images."),
    "report": ("report:report", "Show a table of the paper with our numbers next to it."),
    "leaderboards": ("report:leaderboards", "Import and export entries of public leaderboards."),
    "app": ("show:browse", "Show leaderboards and runs in the browser."),
    "sql": ("sql:sql", "Query the results database with SQL."),
    "db": ("db:db", "Rebuild, merge, export or import the database; delete runs."),
    "sweep": ("sweep:sweep", "Run many runs, skipping those already done."),
    "check": ("check:check", "Run the small benchmark and compare it with a baseline."),
    "corrupt": ("corrupt:corrupt", "Measure accuracy on CIFAR-10-C or CIFAR-100-C."),
    "time": ("time:time", "Time training steps of methods."),
}


def command(name: str) -> Any:
    """Import a command and return its Click object."""
    module, _, attribute = VERBS[name][0].partition(":")
    verb = getattr(importlib.import_module(f"divergence_bench.cli.{module}"), attribute)
    if not isinstance(verb, typer.Typer):
        function, verb = verb, new_typer()
        verb.command(name)(function)
    return typer.main.get_command(verb)


class LazyGroup(SuggestingGroup):
    """Imports a command only when it is called, so ``--help`` needs neither torch nor DuckDB."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the called command's name, the command and the arguments after it."""
        name, _, rest = super().resolve_command(ctx, args)
        refuse_empty_values(rest)
        return name, command(name) if name else None, rest

    def invoke(self, ctx: Any) -> Any:
        """Invoke the command."""
        with explained_paths():
            return super().invoke(ctx)


app = new_typer(cls=LazyGroup, add_completion=True)
for _name, (_, _summary) in VERBS.items():
    app.command(_name, help=_summary)(lambda: None)


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        print(f"divergence-bench {__version__}")
        raise typer.Exit


@app.callback()
def require_single_process(
    context: typer.Context,
    version: Annotated[
        bool,
        Option(
            "--version", metavar="", help="Show the version.", callback=print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Train, evaluate and rank models for adversarial robustness and knowledge distillation."""
    for variable in ("RANK", "LOCAL_RANK"):
        _torchrun(variable, 0)
    count = _torchrun("WORLD_SIZE", 1)
    if count > 1 and context.invoked_subcommand != "run":
        raise UserError(
            f"torchrun started {count} processes, which only `run` supports: call "
            f"`python -m harness {context.invoked_subcommand}` without torchrun"
        )


def main() -> None:
    """Run the command line; a user error is one line on standard error and exit status 2."""
    rank = os.environ.get("RANK", "0")
    open_streams()
    with stopping() as stop:
        try:
            raise SystemExit(app(prog_name=program(), standalone_mode=False))
        except (UserError, USAGE_ERROR) as error:
            if message := error_text(error):
                process = f" (process {rank})" if rank.isdecimal() and int(rank) else ""
                print(f"error{process}: {message}", file=sys.stderr)
            raise SystemExit(stop.status or 2) from None
        except typer.Abort:
            # On a terminal, the user's input has already ended the prompt's line.
            begin = "" if sys.stdin.isatty() else "\n"
            print(f"{begin}error: nothing was done: the answer was not yes", file=sys.stderr)
            raise SystemExit(stop.status or 2) from None
        except SystemExit as ending:
            if not ending.code or stop.status is None:
                raise
            print("interrupted: the same command continues from here", file=sys.stderr)
            raise SystemExit(stop.status) from None


def program() -> str:
    """Return the program's name for usage lines and completion.

    Raises:
        UserError: completion is requested for ``python -m harness``, which shells cannot complete.
    """
    if Path(sys.argv[0]).stem == SCRIPT:
        return SCRIPT
    if {"--install-completion", "--show-completion"} & set(sys.argv[1:2]):
        raise UserError(
            f"shells complete only the installed command: call `{SCRIPT} {sys.argv[1]}`"
        )
    return MODULE


def error_text(error: Exception) -> str:
    """Return an error's message as one sentence; empty if help was shown instead."""
    if isinstance(error, UserError):
        return str(error)
    message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
    return message[:1].lower() + message[1:].removesuffix(".")


def _torchrun(variable: str, least: int) -> int:
    """Return a number set by torchrun, by default the least one, without importing torch.

    Raises:
        UserError: the environment variable is not such a number.
    """
    text = os.environ.get(variable, str(least))
    if not text.isdecimal() or int(text) < least:
        raise UserError(
            f"the environment variable {variable} is {text!r}, not a number from {least} on as "
            "torchrun sets it: unset it"
        )
    return int(text)

"""The command line: its verbs by name, and its exit status.

Exit status: 0 done; 1 a regression, or something left out: a failed run of a sweep, a damaged run
of `db`; 2 an error of the user; 130 or 143 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from divergence_bench.cli.options import plain_typer
from divergence_bench.cli.surroundings import explained_paths, open_streams, refuse_empty_values
from harness.distributed.signals import stopping
from harness.errors import UserError

# What each verb does, and the function or the group of verbs that does it.
VERBS = {
    "run": ("run:run", "Train a model, evaluate it, store the result."),
    "evaluate": ("evaluate:evaluate", "Evaluate a stored run or a model from elsewhere."),
    "export": ("export:export", "Write a run's model for other programs and model hubs."),
    "export-adversarial": ("evaluate:export_adversarial", "Write adversarial images as a tensor."),
    "list": ("show:list_", "List methods, recipes, datasets, models or runs."),
    "show": ("show:show", "Show one run with its table, or a method's card."),
    "compare": ("compare:compare", "Compare runs image by image, or methods over seeds."),
    "decide": ("decide:decide", "Find out which of two runs is more robust on few images."),
    "report": ("report:report", "Show a table of the paper with our numbers beside it."),
    "leaderboards": ("report:leaderboards", "Import and export entries of public leaderboards."),
    "app": ("show:browse", "Show leaderboards and runs in the browser."),
    "sql": ("sql:sql", "Query the results database in SQL."),
    "db": ("db:db", "Rebuild, merge, export or import the database."),
    "sweep": ("sweep:sweep", "Run what is missing of many runs."),
    "check": ("check:check", "Run the small benchmark against a baseline."),
    "corrupt": ("corrupt:corrupt", "Measure accuracy on CIFAR-10-C or CIFAR-100-C."),
    "time": ("time:time", "Time training steps of methods."),
}


def command(name: str) -> Any:
    """Import a verb and return its Click command."""
    module, _, attribute = VERBS[name][0].partition(":")
    verb = getattr(importlib.import_module(f"divergence_bench.cli.{module}"), attribute)
    if not isinstance(verb, typer.Typer):
        function, verb = verb, plain_typer()
        verb.command(name)(function)
    return typer.main.get_command(verb)


class LazyGroup(TyperGroup):
    """Imports a verb when it is called: the list of verbs needs neither torch nor a database."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the called verb's name, its command and the arguments after it."""
        name, _, rest = super().resolve_command(ctx, args)
        refuse_empty_values(rest)
        return name, command(name) if name else None, rest

    def invoke(self, ctx: Any) -> Any:
        """Call the verb."""
        with explained_paths():
            return super().invoke(ctx)


app = plain_typer(cls=LazyGroup)
for _name, (_, _summary) in VERBS.items():
    app.command(_name, help=_summary)(lambda: None)


@app.callback()
def require_single_process(context: typer.Context) -> None:
    """Train, evaluate and rank models of adversarial robustness and knowledge distillation."""
    count = _torchrun("WORLD_SIZE", 1)
    if count > 1 and context.invoked_subcommand != "run":
        raise UserError(
            f"torchrun started {count} processes, which only `run` can share: call "
            f"`python -m harness {context.invoked_subcommand}` without torchrun"
        )


def main() -> None:
    """Run the command line; an error of the user is one line on standard error and status 2."""
    rank = _torchrun("RANK", 0)
    open_streams()
    with stopping() as stop:
        try:
            app(prog_name="harness")
        except UserError as error:
            print(f"error{f' (process {rank})' if rank else ''}: {error}", file=sys.stderr)
            raise SystemExit(stop.status or 2) from None
        except SystemExit as ending:
            if not ending.code or stop.status is None:
                raise
            print("interrupted: the same command continues from here", file=sys.stderr)
            raise SystemExit(stop.status) from None


def _torchrun(variable: str, default: int) -> int:
    """A number that torchrun sets, read here since ``harness.distributed.group`` needs torch."""
    return int(os.environ.get(variable, default))

"""Options shared by several commands, and helpers to declare and check options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from divergence_bench.cli import completion
from harness.errors import UserError
from harness.registry import unknown_name

RESULTS = Path("results")

# Panels of `--help`.
TRAINING = "Training"
ATTACK = "Attack and evaluation"
DATA = "Data"
STORAGE = "Storage"
EXECUTION = "Execution"
SELECTION = "Selection"


def value(
    metavar: str,
    help: str,
    panel: str,
    *,
    flag: str | None = None,
    complete: Callable[..., list[str]] | None = None,
    **more: Any,
) -> Any:
    """Return an option that takes a value.

    Args:
        metavar: name of the value in `--help`.
        help: one sentence.
        panel: panel of `--help` that lists it.
        flag: the option's name, if it differs from the parameter's.
        complete: returns completions for the shell.
        **more: further arguments of ``typer.Option``.
    """
    names = () if flag is None else (flag,)
    return Option(
        *names, metavar=metavar, help=help, rich_help_panel=panel, autocompletion=complete, **more
    )


def flag(name: str, help: str, panel: str | None = None) -> Any:
    """Return an option that takes no value; without a panel it is listed under "Options"."""
    return Option(name, metavar="", help=help, rich_help_panel=panel)


def share(text: str) -> float:
    """Parse a percentage such as ``1%``, or a fraction such as ``0.01``."""
    number, percent, rest = text.partition("%")
    try:
        fraction = float(number) / (100 if percent else 1)
    except ValueError:
        fraction = -1.0
    if rest.strip() or not 0 <= fraction < 1:
        raise typer.BadParameter(f"{text!r} is not a percentage such as 1% or 0.01")
    return fraction


def budget(text: str) -> dict[str, Any]:
    """Parse a budget such as ``fast``, ``n_iter=20`` or both into evaluation settings."""
    from harness.config import parse_budget

    try:
        return parse_budget(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def existing(context: typer.Context, results: Path) -> Path:
    """Refuse a results folder that is given but does not exist, for commands that only read.

    Raises:
        UserError: the given folder does not exist, or it is a file.
    """
    if results.is_file():
        raise UserError(f"{results} is a file: give --results the folder that holds runs/")
    if is_given(context, "results") and not results.exists():
        raise UserError(f"there is no results folder {results}: check --results")
    return results


# A results folder that is created if missing, and one that must exist.
Results = Annotated[
    Path,
    value("DIR", "Folder of the run directories and database.", STORAGE),
]
StoredResults = Annotated[
    Path,
    value("DIR", "Folder of the run directories and database.", STORAGE, callback=existing),
]
Run = Annotated[
    str,
    Argument(help="A run: its id, or the start of it.", autocompletion=completion.runs),
]
Json = Annotated[bool, flag("--json", "Print JSON instead of text.")]
Quiet = Annotated[bool, flag("--quiet", "Show no progress.")]
# Required by one command, optional in another.
METHODS = value(
    "NAMES",
    "Comma-separated methods; see `list methods`.",
    SELECTION,
    complete=completion.methods,
)
Table = Annotated[
    int | None,
    value("1-9", "A table of the paper.", SELECTION, complete=completion.tables, min=1, max=9),
]
Dataset = Annotated[
    str | None,
    value(
        "NAME", "Dataset; see `list datasets`. Or folder:PATH.", DATA, complete=completion.datasets
    ),
]
DataRoot = Annotated[
    Path | None,
    value("DIR", "Folder that holds the datasets.", DATA, envvar="HARNESS_DATA"),
]
Device = Annotated[
    str,
    value("NAME", "auto, cpu, cuda or cuda:N.", EXECUTION, complete=completion.devices),
]
Set = Annotated[
    list[str] | None,
    value("A.B=C", "Set any field of the configuration. Repeatable.", TRAINING, flag="--set"),
]
EvaluationSet = Annotated[
    list[str] | None,
    value("A.B=C", "Set any field of the evaluation. Repeatable.", ATTACK, flag="--set"),
]
Norm = Annotated[
    str | None,
    value("NAME", "Linf or L2.", ATTACK, complete=completion.norms),
]
Eps = Annotated[
    str | None,
    value("RADIUS", "Perturbation radius, such as 8/255; 0,2/255,8/255 gives a curve.", ATTACK),
]
Attacks = Annotated[
    str | None,
    value(
        "NAMES",
        "standard (all four), fast, none, or stages in order, of apgd-ce,apgd-t,fab-t,square.",
        ATTACK,
        complete=completion.attacks,
    ),
]
Budget = Annotated[
    Any,
    value(
        "LIST",
        "standard (AutoAttack), fast (apgd-ce,apgd-t), or n_iter=20,n_queries=1000; any "
        "but standard is labelled.",
        ATTACK,
        complete=completion.budgets,
        parser=budget,
    ),
]
EvalLimit = Annotated[
    int | None,
    value("N", "Evaluate the first N test images; marks the result partial.", ATTACK),
]
Precision = Annotated[
    float | None,
    value(
        "PERCENT",
        "Draw images at random and stop once robust accuracy is known this precisely.",
        ATTACK,
        parser=share,
    ),
]
NMax = Annotated[
    int | None, value("N", "Draw at most N images, at random, in whole chunks.", ATTACK)
]
SaveAdversarial = Annotated[
    str | None,
    value("KIND", "Save the adversarial images as float32 or uint8.", ATTACK),
]
Workers = Annotated[
    int | None,
    value("N", "Processes that share the evaluation.", EXECUTION),
]
OnCluster = Annotated[
    str | None,
    value("ADDRESS", "Ray cluster: local, auto or an address.", EXECUTION, flag="--cluster"),
]
PerTask = Annotated[
    str | None,
    value("LIST", "Resources per task: cpus=4,gpus=1,memory=16 (GiB).", EXECUTION, flag="--task"),
]


class SuggestingGroup(TyperGroup):
    """A group of commands that suggests names for an unknown command, as registries do."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the called command's name, the command and the arguments after it.

        Raises:
            UserError: the command does not exist.
        """
        known = self.list_commands(ctx)
        if not (args[0] in known or args[0].startswith("-") or ctx.resilient_parsing):
            raise UserError(unknown_name("command", args[0], known))
        return super().resolve_command(ctx, args)


def new_typer(**settings: Any) -> typer.Typer:
    """Return a ``typer.Typer`` whose errors reach ``main`` unchanged."""
    return typer.Typer(
        **{
            "cls": SuggestingGroup,
            "no_args_is_help": True,
            "pretty_exceptions_enable": False,
            "add_completion": False,
            "rich_markup_mode": "rich",
            **settings,
        }
    )


def is_given(context: typer.Context, parameter: str) -> bool:
    """Return whether the option is on the command line, even with its default value."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def refuse_unused(context: typer.Context, reasons: Mapping[str, str]) -> None:
    """Refuse options on the command line that would have no effect.

    Args:
        context: the command's context.
        reasons: parameter name to when it has no effect, such as "with --json".

    Raises:
        UserError: such an option is given.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name, reason in reasons.items():
        if is_given(context, name):
            raise UserError(f"{flags[name]} has no effect {reason}: leave it out")

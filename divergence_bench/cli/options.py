"""Options that several verbs share, each declared once, and what all options have in common."""

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

# The panels of `--help`, in which every option has its place.
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
        metavar: what `--help` calls the value.
        help: one sentence.
        panel: where `--help` shows it.
        flag: the option's name, where it is not that of the parameter.
        complete: gives the values that a shell completes.
        **more: further arguments of ``typer.Option``.
    """
    names = () if flag is None else (flag,)
    return Option(
        *names, metavar=metavar, help=help, rich_help_panel=panel, autocompletion=complete, **more
    )


def flag(name: str, help: str, panel: str | None = None) -> Any:
    """Return an option that takes no value; without a panel it is among those of every verb."""
    return Option(name, metavar="", help=help, rich_help_panel=panel)


def share(text: str) -> float:
    """Read a percentage such as ``1%``, or a fraction such as ``0.01``."""
    number, percent, rest = text.partition("%")
    try:
        fraction = float(number) / (100 if percent else 1)
    except ValueError:
        fraction = -1.0
    if rest.strip() or not 0 <= fraction < 1:
        raise typer.BadParameter(f"{text!r} is no percentage such as 1% or 0.01")
    return fraction


def budget(text: str) -> dict[str, Any]:
    """Read a budget such as ``fast``, ``n_iter=20`` or both, as settings of an evaluation."""
    from harness.config import parse_budget

    try:
        return parse_budget(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def existing(context: typer.Context, results: Path) -> Path:
    """Refuse a results folder that is given but not there: a command that reads finds nothing.

    Raises:
        UserError: there is no such folder.
    """
    if results.is_file():
        raise UserError(f"{results} is a file: give --results the folder, which holds runs/")
    if is_given(context, "results") and not results.exists():
        raise UserError(f"there is no results folder {results}: check --results")
    return results


# A results folder that is made where it is missing, and one that must be there.
Results = Annotated[
    Path,
    value("DIR", "Folder of run directories and database.", STORAGE),
]
StoredResults = Annotated[
    Path,
    value("DIR", "Folder of run directories and database.", STORAGE, callback=existing),
]
Run = Annotated[
    str,
    Argument(help="A run, by its name or the beginning of it.", autocompletion=completion.runs),
]
Json = Annotated[bool, flag("--json", "Print one JSON object instead of text.")]
Quiet = Annotated[bool, flag("--quiet", "Show no progress.")]
# Needed by one verb, and not by another.
METHODS = value(
    "NAMES",
    "Methods with commas between; see `list methods`.",
    SELECTION,
    complete=completion.methods,
)
Table = Annotated[
    int | None,
    value("1-9", "A table of the paper.", SELECTION, complete=completion.tables),
]
Dataset = Annotated[
    str | None,
    value("NAME", "See `list datasets`; or folder:PATH.", DATA, complete=completion.datasets),
]
DataRoot = Annotated[
    Path | None,
    value("DIR", "Folder of the images.", DATA, envvar="HARNESS_DATA"),
]
Device = Annotated[
    str,
    value("NAME", "auto, cpu, cuda or cuda:N.", EXECUTION, complete=completion.devices),
]
Set = Annotated[
    list[str] | None,
    value("A.B=C", "Any setting of the configuration. Repeatable.", TRAINING, flag="--set"),
]
EvaluationSet = Annotated[
    list[str] | None,
    value("A.B=C", "Any setting of the evaluation. Repeatable.", ATTACK, flag="--set"),
]
Norm = Annotated[
    str | None,
    value("NAME", "Linf or L2.", ATTACK, complete=completion.norms),
]
Eps = Annotated[
    str | None,
    value("RADIUS", "Of the threat model, such as 8/255; 0,2/255,8/255 is a curve.", ATTACK),
]
Attacks = Annotated[
    str | None,
    value(
        "NAMES",
        "Stages in order: apgd-ce,apgd-t,fab-t,square. Default: the run's, or all four.",
        ATTACK,
        complete=completion.attacks,
    ),
]
Budget = Annotated[
    Any,
    value(
        "LIST",
        "standard (AutoAttack), fast (apgd-ce,apgd-t), or n_iter=20,n_queries=1000; all but "
        "standard is labelled.",
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
        "Draw images at random and stop once robust accuracy is known to within this.",
        ATTACK,
        parser=share,
    ),
]
NMax = Annotated[int | None, value("N", "Draw images at random, at most so many.", ATTACK)]
SaveAdversarial = Annotated[
    str | None,
    value("KIND", "Keep the adversarial images: float32 or uint8.", ATTACK),
]
Workers = Annotated[
    int | None,
    value("N", "Processes that share the evaluation.", EXECUTION),
]
OnCluster = Annotated[
    str | None,
    value("ADDRESS", "Ray: local, auto or the address of a cluster.", EXECUTION, flag="--cluster"),
]
PerTask = Annotated[
    str | None,
    value("LIST", "Resources of a task: cpus=4,gpus=1,memory=16 (GiB).", EXECUTION, flag="--task"),
]


class SuggestingGroup(TyperGroup):
    """A group of verbs that answers an unknown verb as registries answer an unknown name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the called verb's name, its command and the arguments after it.

        Raises:
            UserError: there is no such verb.
        """
        known = self.list_commands(ctx)
        if not (args[0] in known or args[0].startswith("-") or ctx.resilient_parsing):
            raise UserError(unknown_name("command", args[0], known))
        return super().resolve_command(ctx, args)


def new_typer(**settings: Any) -> typer.Typer:
    """Return a ``typer.Typer`` whose errors reach ``main`` as they are."""
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


def names(text: str) -> tuple[str, ...]:
    """Split names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def is_given(context: typer.Context, parameter: str) -> bool:
    """Whether the user typed the option, which may have its default value all the same."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def refuse_unused(context: typer.Context, reasons: Mapping[str, str]) -> None:
    """Refuse options that the user typed and that would have no effect.

    Args:
        context: of the command.
        reasons: names of parameters, each with the reason why it would have none.

    Raises:
        UserError: there is such an option.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name, reason in reasons.items():
        if is_given(context, name):
            raise UserError(f"{flags[name]} has no effect {reason}: leave it out")

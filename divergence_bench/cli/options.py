"""Options that several verbs share, each declared once, and the settings of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

RESULTS = Path("results")


def share(text: str) -> float:
    """Read a percentage such as ``1%``, or a fraction such as ``0.01``."""
    number, percent, rest = text.partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if rest.strip() or not 0 <= value < 1:
        raise typer.BadParameter(f"{text!r} is no percentage such as 1% or 0.01")
    return value


Results = Annotated[Path, Option(help="Folder of run directories and database.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
DataRoot = Annotated[Path | None, Option(help="Folder of the images.", envvar="HARNESS_DATA")]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
Dataset = Annotated[str | None, Option(help="A dataset or folder:PATH; default: digits.")]
Set = Annotated[list[str] | None, Option("--set", help="Any setting, as a.b=c. Repeatable.")]
Norm = Annotated[str | None, Option(help="Linf or L2.")]
Eps = Annotated[
    str | None, Option(help="Radius of the threat model, such as 8/255; 0,2/255,8/255 is a curve.")
]
Attacks = Annotated[
    str | None,
    Option(help="Stages in order, such as apgd-ce,apgd-t; default: the run's, or all four."),
]
EvalLimit = Annotated[
    int | None, Option(help="Evaluate only this many test images; marks the result partial.")
]
Precision = Annotated[
    float | None,
    Option(
        parser=share,
        metavar="PERCENT",
        help="Draw images at random and stop once robust accuracy is known to within this.",
    ),
]
NMax = Annotated[int | None, Option(help="Draw images at random, at most so many.")]
Workers = Annotated[int | None, Option(help="Processes that share the evaluation.")]
SaveAdversarial = Annotated[
    str | None, Option(help="Keep the adversarial images: float32 or uint8.")
]
OnCluster = Annotated[
    str | None, Option("--cluster", help="Ray: local, auto or the address of a cluster.")
]
PerTask = Annotated[
    str | None, Option("--task", help="Resources of a task: cpus=4,gpus=1,memory=16 (GiB).")
]


def plain_typer(**settings: Any) -> typer.Typer:
    """Return a ``typer.Typer`` that prints plain text and raises errors as they are."""
    return typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        **settings,
    )


def names(text: str) -> tuple[str, ...]:
    """Split names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())

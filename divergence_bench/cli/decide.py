"""The command ``decide``: which of two models is more robust, using few images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.compare import Block, markdown, paired_blocks, print_blocks
from divergence_bench.cli.evaluate import protocol_settings
from divergence_bench.cli.tables import new_console, print_json, stdout_for_results
from harness.errors import UserError
from harness.store.files import without_nan, write_bytes_atomic
from harness.store.rundir import stored_run

if TYPE_CHECKING:
    from harness.evaluation.analysis.decide import Decision

DECISION = "Decision"


def decide(
    model_a: Annotated[
        str,
        Argument(
            help="A run, or a model that `evaluate` takes without --arch.",
            autocompletion=completion.runs,
        ),
    ],
    model_b: Annotated[
        str, Argument(help="The model to compare it with.", autocompletion=completion.runs)
    ],
    margin: Annotated[
        float,
        opt.value("PERCENT", "Accuracies this close count as equal.", DECISION, parser=opt.share),
    ] = "1%",  # type: ignore[assignment]  # the parser reads it
    alpha: Annotated[
        float,
        opt.value("PERCENT", "Probability of a wrong decision.", DECISION, parser=opt.share),
    ] = "5%",  # type: ignore[assignment]
    n_max: Annotated[
        int | None,
        opt.value("N", "Stop undecided after N images, in whole chunks.", DECISION, min=1),
    ] = None,
    attacks: opt.Attacks = None,
    budget: opt.Budget = None,
    norm: opt.Norm = None,
    eps: Annotated[
        str | None, opt.value("RADIUS", "One perturbation radius, such as 8/255.", opt.ATTACK)
    ] = None,
    dataset: opt.Dataset = None,
    data_root: opt.DataRoot = None,
    results: opt.Results = opt.RESULTS,
    out: Annotated[
        Path | None, opt.value("FILE", "Also write Markdown to this file.", opt.STORAGE)
    ] = None,
    device: opt.Device = "auto",
    workers: opt.Workers = None,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Evaluate two models on the same random images until one is better or both are equal.

    The decision is valid although it is tested after each chunk of images. Attacks, norm, radius
    and budget are by default those of the first model that is a stored run.
    """
    from divergence_bench import api

    runs = [run for run in (stored_run(results, each) for each in (model_a, model_b)) if run]
    data = dataset or next((run.record["dataset"] for run in runs), None)
    if data is None:
        raise UserError("neither model is a stored run: give --dataset")
    given = protocol_settings((), budget, attacks=attacks, norm=norm, eps=eps, workers=workers)
    with stdout_for_results():
        decision = api.decide(
            model_a,
            model_b,
            data,
            margin=margin,
            alpha=alpha,
            n=n_max,
            results=results,
            quiet=quiet or as_json,
            root=data_root,
            device=device,
            **{name: value for name, value in given.items() if value is not None},
        )
    blocks = [Block((verdict_text(decision),)), *paired_blocks(decision.comparison)]
    if out is not None:
        write_bytes_atomic(markdown(blocks).encode(), out)
    if as_json:
        print_json(without_nan(asdict(decision)))
    else:
        print_blocks(blocks, new_console())


def verdict_text(decision: Decision) -> str:
    """Return the decision as one sentence."""
    rule = decision.rule
    verdict = {
        "a": "A is more robust than B",
        "b": "B is more robust than A",
        "equal": f"A and B are equal within {100 * rule.margin:g} points",
        None: "it is not decided whether A or B is more robust",
    }[decision.winner]
    return (
        f"{verdict}: {decision.history[-1]} of {decision.population} "
        f"(alpha {100 * rule.alpha:g}%, margin {100 * rule.margin:g} points)"
    )

"""The command ``check``: the small benchmark against a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from divergence_bench.cli import completion
from divergence_bench.cli import options as opt
from divergence_bench.cli.tables import (
    interval,
    markdown_table,
    percent,
    print_result,
    stdout_for_results,
)
from harness.config.base import split_names
from harness.errors import UserError
from harness.progress import Reporter
from harness.store.files import check_writable
from harness.store.rundir import run_folders

if TYPE_CHECKING:
    from harness.experiment.regression import Baseline, Checked

REGRESSION = 1
BASELINE = "Baseline"


def check(
    baseline: Annotated[
        Path,
        opt.value("FILE", "The expected results.", BASELINE),
    ] = Path("results/baselines/digits.json"),
    update: Annotated[
        bool,
        opt.flag("--update", "Make these results the new baseline.", BASELINE),
    ] = False,
    reason: Annotated[str | None, opt.value("TEXT", "Why the baseline changes.", BASELINE)] = None,
    methods: Annotated[
        str | None,
        opt.value(
            "NAMES",
            "With --update: methods of a new baseline.",
            BASELINE,
            complete=completion.methods,
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        opt.value("DIR", "Keep the runs in this folder, which must not hold any yet.", opt.STORAGE),
    ] = None,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Run the small benchmark, compare it with a baseline and print a report in Markdown.

    Exit status 1 means that a result got worse.
    """
    from harness.experiment import regression

    if update != bool(reason):
        raise UserError("a new baseline needs a reason: give --update and --reason together")
    if methods and (not update or baseline.exists()):
        raise UserError(
            "--methods makes a new baseline: give --update and a --baseline that does not exist"
        )
    if keep is not None and run_folders(keep):
        raise UserError(f"{keep} holds runs, perhaps from other code: give an empty folder")
    if update:
        check_writable(baseline.parent)
    if methods:
        expected = regression.new_baseline(split_names(methods))
    else:
        expected = regression.read_baseline(baseline)
    with TemporaryDirectory() as folder, stdout_for_results():
        reporter = Reporter(quiet=quiet or as_json)
        measured = regression.check(expected, keep or Path(folder), reporter)
    if reason:
        regression.write_baseline(regression.updated(expected, measured, reason), baseline)
        print_result({"updated": str(baseline)}, f"updated {baseline}", as_json=as_json)
        return
    compared = [
        regression.compare(expected, run, result)
        for run, result in zip(expected.runs, measured, strict=True)
    ]
    text = markdown(expected, compared)
    print_result(regression.to_json(expected, compared), text, as_json=as_json)
    if any(each.worse for each in compared):
        raise typer.Exit(REGRESSION)


def markdown(baseline: Baseline, checked: Sequence[Checked]) -> str:
    """Return what got worse, a table of all runs, the rule and differences in the environment."""
    worse = [f"- **{each.name}**: {text}" for each in checked for text in each.worse]
    better = [f"- {each.name}: {text}" for each in checked for text in each.better]
    parts = [f"# {'Regression' if worse else 'No regression'}"]
    if worse:
        parts.append("\n".join(worse))
    titles = ["run", "golden losses differ by"]
    titles += ["clean now", "change", "p", "robust now", "change", "p", ""]
    parts.append(markdown_table(titles, map(_row, checked)))
    if better:
        parts.append("Better than the baseline, which may be updated:\n\n" + "\n".join(better))
    parts.append(
        f"A regression is a golden loss further than {baseline.loss_tolerance:g} (relative) from "
        f"the baseline's, or an accuracy more than {100 * baseline.margin:g} points lower with an "
        f"exact McNemar p below {baseline.alpha:g}. Changes are now minus the baseline, in "
        "points with 95% intervals."
    )
    parts.append(_environment(baseline))
    return "\n\n".join(parts) + "\n"


def _row(checked: Checked) -> list[str]:
    cells = [checked.name, f"{checked.golden.difference:.1e}"]
    for name in ("clean", "robust"):
        paired = checked.accuracies.get(name)
        if paired is None:
            cells += ["", "", ""]
        else:
            change = interval(paired.difference, paired.low, paired.high, sign=True)
            now = percent((paired.both + paired.only_a) / paired.n)
            cells += [now, change, f"{paired.p_value:.2g}"]
    return [*cells, "worse" if checked.worse else "ok"]


def _environment(baseline: Baseline) -> str:
    from harness.experiment import regression

    differing = [
        f"- {name}: {baseline.environment.get(name)} in the baseline, {value} here"
        for name, value in regression.environment().items()
        if baseline.environment.get(name) != value
    ]
    if not differing:
        return "The environment is the same as the baseline's."
    return (
        "The environment differs from the baseline's, so verdicts may differ slightly even if "
        "the code is the same:\n\n" + "\n".join(differing)
    )

"""The report of the gate, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.evaluation.analysis.statistics import PairedComparison
from harness.experiment.regression import Baseline, Checked, environment


def markdown(baseline: Baseline, found: Sequence[Checked]) -> str:
    """What got worse, a table of all runs, the rule, and where the environment differs."""
    worse = [f"- **{each.name}**: {text}" for each in found for text in each.worse]
    better = [f"- {each.name}: {text}" for each in found for text in each.better]
    parts = [f"# {'Regression' if worse else 'No regression'}"]
    if worse:
        parts.append("\n".join(worse))
    parts.append(_table(found))
    if better:
        parts.append("Better, so that the baseline may be updated:\n\n" + "\n".join(better))
    parts.append(
        f"A regression is a golden loss further than {baseline.loss_tolerance:g} (relative) from "
        f"the baseline's, or an accuracy more than {100 * baseline.margin:g} points lower with an "
        f"exact McNemar p below {baseline.alpha:g}. Accuracies are now minus the baseline, in "
        "points with 95% intervals."
    )
    parts.append(_environment(baseline))
    return "\n\n".join(parts) + "\n"


def _table(found: Sequence[Checked]) -> str:
    lines = [
        "| run | golden losses differ by | clean now | change | p | robust now | change | p | |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for each in found:
        cells = [each.name, f"{each.golden.difference:.1e}"]
        for name in ("clean", "robust"):
            cells += _accuracy(each.accuracies.get(name))
        lines.append("| " + " | ".join([*cells, "worse" if each.worse else "ok"]) + " |")
    return "\n".join(lines)


def _accuracy(paired: PairedComparison | None) -> list[str]:
    if paired is None:
        return ["", "", ""]
    return [
        f"{100 * (paired.both + paired.only_a) / paired.n:.2f}",
        f"{100 * paired.difference:+.2f} [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]",
        f"{paired.p_value:.2g}",
    ]


def _environment(baseline: Baseline) -> str:
    here = environment()
    differing = [
        f"- {name}: {baseline.environment.get(name)} in the baseline, {value} here"
        for name, value in here.items()
        if baseline.environment.get(name) != value
    ]
    if not differing:
        return "The environment is the baseline's."
    told = "\n".join(differing)
    return (
        "The environment differs from the baseline's, so that verdicts differ a little without a "
        f"cause in the code:\n\n{told}"
    )

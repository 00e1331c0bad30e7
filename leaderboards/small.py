"""The table of runs at small scale, with a comparison of the paper's size and theirs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from harness.config import eps_text
from leaderboards.paper import SUBJECT, TABLES
from leaderboards.protocols import accuracy_help, attacks_of, metric_title, ranking_metric
from leaderboards.results import RunGroup, training_images
from leaderboards.spec import DATASETS, Scale, arch_text
from leaderboards.table import OURS_ROW, SMALL, Cell, Column, Row, Table, mark_best, with_keys

# Number of training images of the registered datasets, which tables may not import.
TRAIN_IMAGES = {
    "digits": 1_437,
    "fashion-mnist": 60_000,
    "svhn": 73_257,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "tiny-imagenet": 100_000,
    "imagenet": 1_281_167,
    "imagenet-robustbench": 1_281_167,
}
ARROW = "\u2192"
TITLE = "Small scale, measured here"


def small_table(groups: Sequence[RunGroup]) -> Table:
    """Return the table of all small-scale groups, best first in each section.

    Where a section's runs have different numbers of training images, each row says its own.
    """
    rows: list[Row] = []
    panels: dict[str, str] = {}
    columns = {"clean": _column("clean")}
    for members in sections_of(groups):
        metric = study_metric(members[0])
        columns.setdefault(metric, _column(metric))
        title = members[0].section_title
        panels[title] = f"\u00b7 {ladder(members)}"
        rows += _section(title, members, metric)
    return Table(
        title=TITLE,
        slug="small",
        labels=("Method", "Architecture", "Seeds"),
        columns=tuple(columns.values()),
        rows=with_keys(rows),
        caption="Training runs smaller than the paper's. They show how losses compare at that "
        "size, and are never among the paper's rows.",
        panels=panels,
        has_ours=bool(rows),
        subject=SUBJECT,
        message="" if rows else "no run at small scale has finished yet",
        first_run="python -m harness run --method ikl",
    )


def sections_of(groups: Sequence[RunGroup]) -> list[list[RunGroup]]:
    """Return the small-scale groups by dataset, protocol and training data, sorted."""
    sections: dict[tuple[str, str, bool], list[RunGroup]] = defaultdict(list)
    for group in groups:
        if group.badge == SMALL:
            sections[group.section_key].append(group)
    return sorted(sections.values(), key=lambda m: (m[0]["dataset"], m[0].section_title))


def ladder(members: Sequence[RunGroup]) -> str:
    """Return a sentence that compares the paper's size with that of runs of one protocol.

    For example ``CIFAR-100 \u2192 digits; WRN-34-10 \u2192 resnet8; 200 \u2192 20 epochs``; equal
    values are given once.
    """
    paper, first = _paper_scale(members[0]), members[0]
    names = {registered: printed for printed, registered in DATASETS.items()}
    dataset = names.get(first["dataset"], first["dataset"])
    archs = ", ".join(dict.fromkeys(str(m["arch"]) for m in members))
    steps = [_step(paper.dataset, dataset, ""), _step(paper.arch, archs, "")]
    trained = [m for m in members if m["epochs_planned"]]
    if trained:
        epochs = _span(m["epochs_planned"] for m in trained)
        steps.append(_step(str(paper.epochs), epochs, " epochs"))
        train = [_train_images(m) for m in trained]
        known = "all" if None in train else _span(n for n in train if n is not None)
        steps.append(_step(f"{paper.train:,}", known, " training images"))
    steps.append(_step(f"{paper.test:,}", f"{int(first['n']):,}", " test images"))
    if first["attacks"]:
        steps.append(_step(eps_text(paper.eps), eps_text(first["eps"]), " radius"))
    return f"Paper {ARROW} here: {'; '.join(steps)}."


def _step(paper: str, here: str, unit: str) -> str:
    same = paper.lower() == here.lower()
    return f"{here}{unit} in both" if same else f"{paper} {ARROW} {here}{unit}"


def _span(values: Iterable[int]) -> str:
    found = sorted({int(value) for value in values})
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _train_images(group: RunGroup) -> int | None:
    """Return the number of training images; None if only the dataset's files give it."""
    return training_images(group.runs[0], TRAIN_IMAGES.get(group["dataset"]))


def _paper_scale(group: RunGroup) -> Scale:
    """Return the size of the paper's most similar training run."""
    if group["task"] == "distillation":
        number = 3 if group["dataset"] == "imagenet" else 5
    else:
        number = 4 if group["dataset"] == "cifar10" else 2
    scale = TABLES[number].scale
    assert scale is not None
    return scale


def study_metric(group: RunGroup) -> str:
    """Return the metric that ranks a group: clean accuracy, or accuracy after the last attack."""
    return ranking_metric(attacks_of(group.runs[0]), group.metrics)


def _section(title: str, members: Sequence[RunGroup], metric: str) -> list[Row]:
    sizes = [_train_images(group) if group["epochs_planned"] else None for group in members]
    mixed = len({size for size in sizes if size}) > 1
    cells = [
        {
            key: Cell(ours=number)
            for key in dict.fromkeys(("clean", metric))
            if (number := group.number(key)) is not None
        }
        for group in members
    ]
    if not members[0]["partial"]:
        for key in dict.fromkeys(("clean", metric)):
            mark_best(cells, _column(key))
    rows = [
        Row(
            OURS_ROW,
            (
                group.method_name,
                arch_text(group["arch"] or "", group["teacher"])
                + (f", {size:,} images" if mixed and size else ""),
                str(len(group.runs)),
            ),
            title,
            own,
            facts=group.facts,
            partial=group["partial"],
        )
        for group, size, own in zip(members, sizes, cells, strict=True)
        if own
    ]
    return sorted(rows, key=lambda row: -(n.value if (n := row.number(metric)) else -1.0))


def _column(metric: str) -> Column:
    title = metric_title(metric)
    head = title if metric in ("clean", "aa") else f"after {title}"
    return Column(metric, (head,), metric, accuracy_help(metric), seeds=False)

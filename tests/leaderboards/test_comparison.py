"""Print beside ours: one cell in every format, paired differences, the ladder, the headline."""

import csv
import io
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from harness.data import DATASETS, dataset_info
from harness.evaluation.analysis.statistics import newcombe_paired, seeds_summary, wilson_interval
from harness.experiment.resolve import resolve
from leaderboards import build
from leaderboards.build import small
from leaderboards.paper import TABLES
from leaderboards.render.report import text_of
from leaderboards.render.terminal import print_table
from leaderboards.small import TRAIN_IMAGES
from leaderboards.spec import architecture_names, dataset_name
from leaderboards.summary import run_summary
from leaderboards.table import Number, Table

AddRun = Callable[..., str]
IKL = {"wmse_weight": 20, "ce_weight": 3, "temperature": 4}
PAPER = {
    "n": 10000,
    "dataset": "cifar100",
    "arch": "wrn-34-10",
    "scale": "paper",
    "protocol": {"eps": 8 / 255},
}
ROW = "IKL-AT (\u03b1=20, \u03b2=3)"


def terminal(table: Table, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_table(table, Console(file=file, width=80))
    file.flush()
    return raw.getvalue().decode(encoding)


def ours_of(table: Table, label: str, column: str) -> Number:
    (row,) = [row for row in table.rows if label in row.labels]
    number = row.cells[column].ours
    assert number is not None
    return number


@pytest.mark.parametrize(
    ("survived", "sign", "ascii_sign", "latex", "verdict"),
    [
        (3140, "\u2248", "~", r"\approx", "same"),
        (3400, "\u25b2", "^", r"\blacktriangle", "above"),
        (2900, "\u25bc", "v", r"\blacktriangledown", "below"),
    ],
)
def test_every_format_says_the_same_of_ours_and_print(
    add_run: AddRun,
    tmp_path: Path,
    survived: int,
    sign: str,
    ascii_sign: str,
    latex: str,
    verdict: str,
) -> None:
    add_run("IKL", (6600, 3500, *[survived] * 3), params=IKL, **PAPER)
    table = build.table(2, tmp_path)
    value = survived / 100
    gap = f"{value - 31.45:+.2f}"
    low, high = (100 * end for end in wilson_interval(survived, 10000))
    printed_low, printed_high = (100 * end for end in wilson_interval(3145, 10000))
    ours = ours_of(table, ROW, "aa")
    assert ours.from_print == pytest.approx(value - 31.45)
    assert ours.apart == (high < printed_low or low > printed_high) == (verdict != "same")
    interval = f"[{low:.1f}, {high:.1f}]"
    assert f"{value:.2f} R {gap} {sign}" in terminal(table)
    assert f"{value:.2f} R {gap} {ascii_sign}" in terminal(table, "ascii")
    assert interval in terminal(table)
    markdown = text_of(table, "markdown").replace("\\", "")
    assert "**31.45 P**" in markdown
    assert f"{value:.2f} R {gap} {sign} {interval}" in markdown
    shown = gap.replace("-", "$-$")
    tex = text_of(table, "latex")
    assert rf"{value:.2f}\,({shown}\,${latex}$)" in tex
    assert rf"{{[}}{low:.1f}, {high:.1f}{{]}}" in tex
    html = text_of(table, "html")
    assert f'class="gap {verdict}"' in html
    assert f">{gap} <span" in html
    (line,) = [
        line
        for line in csv.DictReader(io.StringIO(text_of(table, "csv")))
        if (line["badge"], line["column"]) == ("R", "aa")
    ]
    assert float(line["from_print"]) == pytest.approx(value - 31.45)
    assert (line["apart"], line["unit"]) == (str(int(verdict != "same")), "percent")


def test_a_difference_is_over_shared_seeds_and_images(add_run: AddRun, tmp_path: Path) -> None:
    survived = {"IKL": (3141, 3178, 3102), "KL": (3011, 2990, 3030)}
    for title, seeds in (("IKL", (0, 1, 2)), ("KL", (1, 2, 3))):
        for seed, left in zip(seeds, survived[title], strict=True):
            params = IKL if title == "IKL" else {}
            add_run(title, (6600, 3500, *[left] * 3), seed=seed, params=params, **PAPER)
    table = build.table(2, tmp_path)
    gain = ours_of(table, ROW, "aa-difference")
    # Seeds 1 and 2 are in both groups.
    pairs = [(3178, 3011), (3102, 2990)]
    values = [(a - b) / 100 for a, b in pairs]
    assert gain.value == pytest.approx(statistics.fmean(values))
    # The stores' images break in order, so the weaker model is right on a part of the stronger's.
    tables = [(b, a - b, 0, 10000 - a) for a, b in pairs]
    images = [newcombe_paired(*counts) for counts in tables]
    summary = seeds_summary(values)
    low = min(summary.low, 100 * statistics.fmean(end[0] for end in images))
    high = max(summary.high, 100 * statistics.fmean(end[1] for end in images))
    assert (gain.low, gain.high) == pytest.approx((low, high))
    assert (gain.seeds, len(gain.pairs)) == (2, 2)
    ends = f"{gain.value:+.2f} [{low:+.1f}, {high:+.1f}]"
    assert f"Ours: {ends} ({ROW}, 2 seeds)." in table.headline


def test_without_a_shared_seed_there_is_no_difference(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", (6600, 3500, 3140, 3140, 3140), seed=0, params=IKL, **PAPER)
    add_run("KL", (6200, 3300, 3011, 3011, 3011), seed=1, **PAPER)
    table = build.table(2, tmp_path)
    (row,) = [row for row in table.rows if ROW in row.labels]
    assert row.cells["aa-difference"].ours is None
    assert table.headline.endswith("differ only in the loss share a seed yet.")


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_the_papers_end_of_the_ladder_is_that_of_its_recipe(number: int) -> None:
    spec = TABLES[number]
    recipe = spec.first_run.rpartition(" ")[2]
    config = resolve("ikl" if spec.attacked else "ikl-kd", recipe=recipe)
    assert spec.scale is not None
    assert dataset_name(spec.scale.dataset) == config.data.name
    assert config.model.arch in architecture_names(spec.scale.arch)
    assert spec.scale.epochs == config.training.epochs
    info = dataset_info(config.data.name)
    assert (spec.scale.train, spec.scale.test) == (info.max_train_size, info.max_test_size)
    if spec.attacked:
        assert (spec.scale.eps,) == config.evaluation.eps


def test_the_numbers_of_training_images_are_those_of_all_datasets() -> None:
    expected = {name: dataset_info(name).max_train_size for name in DATASETS.names()}
    assert expected == TRAIN_IMAGES


def test_the_ladder_is_made_from_the_configuration(add_run: AddRun, tmp_path: Path) -> None:
    config = resolve("ikl").model_dump(mode="json")
    config["data"] |= {"train_limit": 300}
    config["training"] |= {"epochs": 7}
    add_run("IKL", (340, 280, 270, 268, 262), config=config)
    table = small(tmp_path)[0]
    (text,) = [panel for group, panel in table.panels.items() if group.startswith("digits")]
    assert text == (
        "\u00b7 Paper \u2192 here: CIFAR-100 \u2192 digits; WRN-34-10 \u2192 resnet8; "
        "200 \u2192 7 epochs; 50,000 \u2192 300 training images; 10,000 \u2192 360 test images; "
        "8/255 \u2192 0.15 radius."
    )


@pytest.mark.parametrize(
    ("dataset", "train_limit", "val_size", "said"),
    [
        ("digits", None, 0, "1,437"),
        ("digits", None, 200, "1,237"),
        ("digits", 300, 200, "100"),
        ("own-folder", None, 0, "all"),
        ("own-folder", None, 200, "all"),
        ("own-folder", 300, 200, "100"),
    ],
)
def test_the_ladder_counts_the_images_that_were_trained_on(
    dataset: str, train_limit: int | None, val_size: int, said: str,
    add_run: AddRun, tmp_path: Path,
) -> None:  # fmt: skip
    """Validation images are held out of those that the limit leaves."""
    data = {"train_limit": train_limit, "val_size": val_size}
    config = {"data": data, "training": {"epochs": 7}}
    add_run("IKL", (340, 280, 270, 268, 262), dataset=dataset, config=config)
    table = small(tmp_path)[0]
    (text,) = [panel for group, panel in table.panels.items() if group.startswith(dataset)]
    assert f"; 50,000 \u2192 {said} training images; " in text


@pytest.mark.parametrize(
    ("sizes", "networks"),
    [
        (((300, 0), (300, 0)), {"resnet8"}),
        (((300, 0), (200, 0)), {"resnet8, 300 images", "resnet8, 200 images"}),
        (((300, 0), (300, 60)), {"resnet8, 300 images", "resnet8, 240 images"}),
    ],
)
def test_rows_say_their_training_images_where_these_differ(
    sizes: tuple[tuple[int, int], ...], networks: set[str], add_run: AddRun, tmp_path: Path
) -> None:
    for (train_limit, val_size), title, epochs in zip(sizes, "AB", (7, 8), strict=True):
        data = {"train_limit": train_limit, "val_size": val_size}
        config = {"data": data, "training": {"epochs": epochs}}
        add_run(title, (340, 280, 270, 268, 262), config=config)
    rows = [row for row in small(tmp_path)[0].rows if row.facts["dataset"] == "digits"]
    assert {row.labels[1] for row in rows} == networks
    assert [row.labels[0] for row in rows] == ["A", "B"]


@pytest.mark.parametrize("newer_first", [False, True])
def test_a_cell_has_the_group_of_most_seeds_and_among_equals_the_newest(
    newer_first: bool, add_run: AddRun, tmp_path: Path
) -> None:
    """Whichever of the two the database gives first."""
    older, newer = ({**IKL, "other": int(newer_first == which)} for which in (False, True))

    def store(survived: int, seed: int, params: dict[str, float], evaluation_id: str) -> None:
        left = (6600, 3500, *[survived] * 3)
        add_run("IKL", left, seed=seed, params=params, evaluation_id=evaluation_id, **PAPER)

    for seed, survived in enumerate((3100, 3120)):
        store(survived, seed, older, "e1")
    store(3200, 0, newer, "later")
    chosen = ours_of(build.table(2, tmp_path), ROW, "aa")
    assert (chosen.value, chosen.seeds) == (pytest.approx(31.10), 2)
    store(3240, 1, newer, "later")
    chosen = ours_of(build.table(2, tmp_path), ROW, "aa")
    assert (chosen.value, chosen.seeds) == (pytest.approx(32.20), 2)


def test_an_epoch_chosen_on_the_test_images_is_ranked_apart(
    add_run: AddRun, tmp_path: Path
) -> None:
    chosen = add_run("A", (340, 280, 270, 268, 262), selection="best-on-test")
    last = add_run("B", (340, 280, 270, 268, 255))
    for run_id in (chosen, last):
        (row,) = run_summary(tmp_path, run_id).table.rows
        assert row.run_ids == (run_id,)
    groups = {row.group for row in small(tmp_path)[0].rows if row.facts["dataset"] == "digits"}
    assert len(groups) == 2
    assert any(group.endswith("best epoch on test") for group in groups)


def test_eight_equal_numbers_share_their_ranks(add_run: AddRun, tmp_path: Path) -> None:
    for place in range(8):
        add_run(f"M{place}", (340, 280, 270, 268, 166))
    worse = add_run("Worse", (340, 100, 90, 80, 60))
    ranks = {row.labels[1]: row.labels[0] for row in run_summary(tmp_path, worse).table.rows}
    assert ranks == {**{f"M{place}": "1-8" for place in range(8)}, "Worse": "9"}


def test_a_loaded_model_is_named_without_the_machines_folders(
    add_run: AddRun, tmp_path: Path
) -> None:
    run_id = add_run(
        "x",
        (340, 280, 270, 268, 262),
        kind="loaded",
        method=None,
        method_title=None,
        config=None,
        source={"source": "/home/somebody/models/mine.pt"},
    )
    assert run_summary(tmp_path, run_id).table.rows[0].labels[1] == "mine.pt"
    site = text_of(small(tmp_path)[0], "html")
    assert "mine.pt" in site
    assert "/home/" not in site


def test_a_short_name_does_not_break_its_head(add_run: AddRun, tmp_path: Path) -> None:
    run_id = add_run("KL", (340, 280, 270, 268, 262))
    summary = run_summary(tmp_path, run_id)
    file = io.StringIO()
    summary.render(Console(file=file, width=30))
    assert "Method" in file.getvalue()

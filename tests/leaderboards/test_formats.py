"""What each format must keep: the numbers, the structure, and hostile names as text."""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from rich.console import Console

from harness.config import eps_text
from harness.store.database import Database
from leaderboards import build
from leaderboards.build import field, small
from leaderboards.render.html import TableView, fragment
from leaderboards.render.latex import to_latex
from leaderboards.render.plots import Point, pareto_front, plots_of, points_of, scatter
from leaderboards.render.report import text_of, write_site
from leaderboards.render.terminal import print_table
from leaderboards.summary import run_summary
from leaderboards.table import ANY_TIME, INTERVAL, MEANINGS, Number, Table
from tests.leaderboards.conftest import adding_to

AddRun = Callable[..., str]
HOSTILE = "<script>alert(1)</script>|$x_%&#\\^~{}`*\n=cmd()"


def test_a_radius_is_written_as_papers_write_it() -> None:
    texts = [eps_text(eps) for eps in (0.0, 8 / 255, 0.5 / 255, 0.15, 128 / 255)]
    assert texts == ["0", "8/255", "0.001961", "0.15", "128/255"]


@pytest.fixture(scope="module")
def printed() -> list[Table]:
    return [build.table(title.number) for title in build.tables()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the paper's scale and of a small one, the latter of a hostile name."""
    results = tmp_path_factory.mktemp("results")
    add_run = adding_to(results)
    paper = {"n": 10000, "dataset": "cifar100", "arch": "wrn-34-10", "scale": "paper"}
    ikl = {"wmse_weight": 20, "ce_weight": 3, "temperature": 4}
    protocol = {"eps": 8 / 255}
    for seed in (0, 1):
        left = (6600, 3500, 3140 + seed, 3140 + seed, 3140 + seed)
        add_run("IKL", left, seed=seed, params=ikl, protocol=protocol, **paper)
    add_run("KL", (6200, 3300, 3011, 3011, 3011), protocol=protocol, **paper)
    commit = {"git": {"commit": "abcdef0123456789", "dirty": False}}
    finished = "2026-01-03T00:00:00+00:00"
    add_run(
        "IKL",
        (340, 280, 270, 268, 262),
        seed=7,
        method_title=HOSTILE,
        provenance=commit,
        finished_at=finished,
    )
    return results


@pytest.fixture(scope="module")
def measured(results: Path) -> list[Table]:
    return [
        *(build.table(title.number, results) for title in build.tables()),
        *(field(number, results) for number in (2, 4)),
        *small(results),
    ]


def numbers_of(table: Table) -> list[tuple[float, str]]:
    return [(number.value, number.badge) for number in table.numbers]


@pytest.mark.parametrize("ours", [False, True])
def test_csv_and_json_give_the_same_numbers_back(
    printed: list[Table], measured: list[Table], ours: bool
) -> None:
    for table in measured if ours else printed:
        lines = list(csv.DictReader(io.StringIO(text_of(table, "csv"))))
        assert [(float(line["value"]), line["badge"]) for line in lines] == numbers_of(table)
        stds = [None if line["std"] == "" else float(line["std"]) for line in lines]
        assert stds == [number.std for number in table.numbers]
        bold = [line["bold"] == "1" for line in lines]
        assert bold == [number.bold for number in table.numbers]
        data = json.loads(text_of(table, "json"))
        found = [
            (number["value"], number["badge"])
            for row in data["rows"]
            for cell in row["cells"].values()
            for number in (cell["printed"], cell["logged"], cell["ours"])
            if number
        ]
        assert found == numbers_of(table)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_shows_every_number_within_its_width(
    measured: list[Table], width: int, encoding: str
) -> None:
    for table in measured:
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding=encoding)
        print_table(table, Console(file=file, width=width))
        file.flush()
        text = raw.getvalue().decode(encoding)
        long = [line for line in text.splitlines() if len(line) > width]
        assert [line for line in long if "python -m harness" not in line] == []
        for column in table.columns:
            for row in table.rows:
                for number in row.cells[column.key].numbers if column.key in row.cells else ():
                    assert f"{number.value:.{column.decimals}f}".lstrip("+-") in text


def test_markdown_has_a_cell_for_every_column(measured: list[Table]) -> None:
    for table in measured:
        text = text_of(table, "markdown")
        lines = [line for line in text.splitlines() if line.startswith("|")]
        width = len(table.labels) + len(table.columns)
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {width + 1}
        assert "<script" not in text
        bold = sum(number.bold for number in table.numbers)
        assert len(re.findall(r"\*\*[^*]+\*\*", text)) == bold + 1


def tabulars(text: str) -> list[str]:
    return re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL)


def width_of(line: str) -> int:
    """LaTeX columns that a line of a table fills."""
    cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
    spans = [re.search(r"\\multicolumn\{(\d+)\}", cell) for cell in cells]
    return sum(int(span[1]) if span else 1 for span in spans)


@pytest.mark.parametrize("ours", [False, True])
def test_latex_is_balanced_and_every_line_is_as_wide_as_its_table(
    measured: list[Table], ours: bool
) -> None:
    for table in measured if ours else measured[:9]:
        text = to_latex(table, ours=ours)
        assert text.isascii()
        plain = re.sub(r"\\[{}]", "", text)
        assert plain.count("{") == plain.count("}")
        assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
        floats = re.findall(r"\\begin\{(\w+)\}", text).count("table")
        assert floats == text.count(r"\caption{") == 1 + text.count("(continued)")
        groups = {row.group for row in table.rows if ours or row.kind == "printed"}
        # A long section of a table with panels goes on in the next float.
        least, most = (len(groups), len(groups) + floats - 1) if table.panels else (floats, floats)
        assert least <= len(tabulars(text)) <= most
        for tabular in tabulars(text):
            filled = len(re.match(r"\\begin\{tabular\}\{(\w+)\}", tabular)[1])  # type: ignore[index]
            lines = [line for line in tabular.splitlines() if line.endswith(r"\\")]
            assert {width_of(line) for line in lines} == {filled}, tabular
            order = [tabular.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
            assert order == sorted(order)
        assert "script>" not in text
        assert HOSTILE not in text


def test_latex_without_ours_has_print_and_nothing_more(printed: list[Table]) -> None:
    for table in printed:
        text = to_latex(table, ours=False)
        for row in table.rows:
            for key, cell in row.cells.items():
                if key.endswith("-difference") or cell.printed is None:
                    continue
                column = next(column for column in table.columns if column.key == key)
                shown = f"{abs(cell.printed.value):.{column.decimals}f}"
                if cell.printed.bold:
                    assert r"\textbf{" in text
                assert shown in text
        numbers = re.findall(r"\d+\.\d\d", "".join(tabulars(text)))
        assert len(numbers) >= sum(
            cell.printed is not None
            for row in table.rows
            for key, cell in row.cells.items()
            if not key.endswith("-difference")
        )
        assert "ours" not in "".join(tabulars(text))
        assert text.count(r"\textbf") == sum(number.bold for number in table.numbers)
        assert text.count(r"\underline") == sum(number.underlined for number in table.numbers)


def parsed(text: str) -> Element:
    """The page, which is well-formed XML; nothing in it runs or loads anything."""
    page = ElementTree.fromstring(text)
    names = {element.tag.rpartition("}")[2] for element in page.iter()}
    assert not {"script", "link", "img", "iframe"} & names
    attributes = {name for element in page.iter() for name in element.keys()}
    assert not {name for name in attributes if name.startswith("on") or name == "src"}
    return page


def attributes(page: Element, name: str) -> list[str]:
    return [element.attrib[name] for element in page.iter() if name in element.attrib]


def test_the_site_is_one_page_that_needs_nothing_else(
    results: Path, measured: list[Table], tmp_path: Path
) -> None:
    out = tmp_path / "site"
    written = write_site(out, results)
    assert len(written) == 1 + (9 + 2 + 2) * 4
    assert all(path.stat().st_size > 200 for path in written)
    page = parsed((out / "index.html").read_text())
    ids, text = attributes(page, "id"), "".join(page.itertext())
    assert len(ids) == len(set(ids))
    for link in attributes(page, "href"):
        if link.startswith("#"):
            assert link[1:] in ids
        elif not link.startswith("https://"):
            assert (out / link).exists()
    assert len(page.findall(".//figure")) == 6
    for table in measured:
        assert table.anchor in ids
        for number in [
            n for row in table.rows for c in table.columns for n in row.cell(c.key).numbers
        ]:
            assert f"{abs(number.value):.2f}" in text or f"{number.value:.3f}" in text
    assert "from 4 runs, the newest from 2026-01-03, with code at commit abcdef012." in text
    assert str(results) not in (out / "index.html").read_text()
    # The hostile name is there as text.
    assert "<script>alert(1)</script>" in text


@pytest.mark.parametrize("format_", ["markdown", "html"])
def test_a_legend_says_where_intervals_are_from(
    add_run: AddRun, tmp_path: Path, format_: str
) -> None:
    flags = [{"name": "zero-gradients", "detail": "12 of 360 images"}]
    assert INTERVAL not in text_of(build.table(2), format_)
    assert MEANINGS["?"] not in text_of(build.table(2), format_)
    add_run("IKL", (340, 280, 270, 268, 262), flags=flags)
    text = text_of(small(tmp_path)[0], format_)
    assert "95% interval (Wilson) from n test images, computed here for printed" in INTERVAL
    assert INTERVAL in text
    assert MEANINGS["?"] in text


def test_a_sequential_interval_is_not_called_wilsons(add_run: AddRun, tmp_path: Path) -> None:
    sequential = {"attack_version": "standard pyautoattack-0.2.0 sequential", "partial": True}
    run_id = add_run("IKL", (340, 280, 270, 268, 262), protocol=sequential)
    assert ANY_TIME in text_of(run_summary(tmp_path, run_id).table, "markdown")
    table = small(tmp_path)[0]
    assert f"[a, b]  {INTERVAL}; sequential: {ANY_TIME}" in text_of(table, "html")
    own = [row for row in table.rows if run_id in row.run_ids]
    assert dataclasses.replace(table, rows=tuple(own)).interval_meaning == ANY_TIME


def test_a_plot_says_where_its_intervals_are_from(printed: list[Table]) -> None:
    (plot,) = plots_of(printed[1])
    assert INTERVAL in plot.caption
    assert "<title>AWP [25] (60.38, 28.86)</title>" in plot.svg
    # The distillation tables print means of three models, which have no interval of one.
    assert [INTERVAL in each.caption for each in plots_of(printed[2])] == [False, False]


def test_times_of_other_machines_have_no_front(printed: list[Table]) -> None:
    times = plots_of(printed[2])
    assert len(times) == 2
    for plot in (*times, *plots_of(printed[1])):
        ranked = plot not in times
        assert ("Pareto front" in plot.caption, "stroke-dasharray" in plot.svg) == (ranked, ranked)


@pytest.mark.parametrize(
    ("lower", "values"), [(True, ((1, 10), (2, 20))), (False, ((1, 20), (2, 10)))]
)
def test_a_front_steps_along_what_its_points_beat(
    lower: bool, values: tuple[tuple[float, float], ...]
) -> None:
    points = [Point(f"{x}", Number(x, "P"), Number(y, "P")) for x, y in values]
    plot = scatter(points, "x", "y", x_lower=lower)
    path = re.search(r'd="M([^"]*)"[^>]*stroke-dasharray', plot.svg)
    assert path is not None
    ends = [tuple(map(float, end.split(","))) for end in path[1].split("L")]
    (x0, y0), corner, (x1, y1) = dict.fromkeys(ends)
    # The better point's row goes on to the other point: y grows downwards in SVG.
    assert corner == ((x1, y0) if lower else (x0, y1))
    assert corner[1] == max(y0, y1)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_badges_are_readable_on_light_and_dark_pages(printed: list[Table]) -> None:
    style = text_of(printed[0], "html").partition("<style>")[2].partition("</style>")[0]
    rules = re.findall(r"([^{}]+)\{([^{}]*)\}", style)
    schemes = [dict(re.findall(r"--(\w+): (#\w+)", body)) for _, body in rules if "--ink:" in body]
    assert len(schemes) == 2
    for badge in ("P", "L", "RB", "R", "S"):
        own: dict[str, str] = {}
        for selector, body in rules:
            if {".badge", f".badge.{badge}"} & set(map(str.strip, selector.split(","))):
                own |= dict(re.findall(r"([\w-]+): ([^;]+)", body))
        # Text that lets the page through has less contrast than its colours.
        assert "opacity" not in own
        for scheme in schemes:
            names = (own[name][len("var(--") : -1] for name in ("color", "background"))
            dark, light = sorted(luminance(scheme[name]) for name in names)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, badge


def test_a_row_in_the_app_says_whether_it_is_open(printed: list[Table]) -> None:
    table = printed[4]
    opened = table.rows[2].key
    shown = fragment(TableView(table, table.rows, opened, row_link=lambda key: f"?row={key}"))
    states = re.findall(r'data-row="([^"]*)" aria-expanded="(\w+)"', shown)
    assert states == [(row.key, str(row.key == opened).lower()) for row in table.rows]
    # A page without a server could not keep the state up to date.
    assert "aria-expanded" not in fragment(TableView(table, table.rows))


def test_a_page_has_evidence_one_click_away(printed: list[Table]) -> None:
    page = parsed(text_of(printed[4], "html"))
    assert "#dispute-5-0" in attributes(page, "href")
    (evidence,) = page.findall(".//li[@id='dispute-5-0']")
    assert "74.26 - 73.08 = 1.18" in "".join(evidence.itertext())


def test_spreadsheets_take_no_name_for_a_formula(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", (340, 280, 270, 268, 262), method_title="=1+1")
    lines = csv.DictReader(io.StringIO(text_of(small(tmp_path)[0], "csv")))
    names = [line["name"] for line in lines if line["run_ids"].startswith("ikl-")]
    assert "'=1+1" in names


def test_the_front_is_what_no_other_beats() -> None:
    points = [(x, y, (x, y)) for x, y in ((1, 5), (2, 4), (2, 3), (3, 1), (1, 4))]
    assert pareto_front(points) == [(1, 5), (2, 4), (3, 1)]
    assert pareto_front(points, x_lower=True) == [(1, 5)]
    assert pareto_front(points, x_lower=True, y_lower=True) == [(1, 4), (2, 3), (3, 1)]
    assert pareto_front(points, y_lower=True) == [(3, 1)]


def test_plots_leave_small_scale_out(measured: list[Table]) -> None:
    points = points_of(measured[1], "clean", "aa")
    assert {point.y.badge for point in points} == {"P", "R"}
    assert len(points) == 13 + 2


def test_a_ranking_has_every_format(results: Path) -> None:
    run_id = Database(results).query("SELECT run_id FROM runs WHERE method = 'kl'")["run_id"].item()
    table = run_summary(results, run_id).table
    lines = list(csv.DictReader(io.StringIO(text_of(table, "csv"))))
    assert {line["rank"] for line in lines} >= {"1-11"}
    shown = [
        (number.value, number.badge)
        for row in table.rows
        for column in table.columns
        if column.key in row.cells
        for number in row.cells[column.key].numbers
    ]
    assert [(float(line["value"]), line["badge"]) for line in lines] == shown
    (tabular,) = tabulars(to_latex(table))
    assert {width_of(line) for line in tabular.splitlines() if line.endswith(r"\\")} == {12}
    assert "30.11" in tabular
    assert r"31.41 $\pm$ 0.01" in tabular
    assert r"30.11 R \[29.2, 31.0\]" in text_of(table, "markdown")

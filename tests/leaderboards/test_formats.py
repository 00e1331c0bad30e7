"""What each format must keep: the numbers, the structure, and hostile names as text."""

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import leaderboards
from harness.config import eps_text
from leaderboards.render.latex import document, to_latex
from leaderboards.render.plots import Point, front, points_of, scatter
from leaderboards.render.report import FORMATS, text_of, write_site
from leaderboards.render.terminal import print_table
from leaderboards.table import INTERVAL, MEANINGS, Number, Table

AddRun = Callable[..., str]
HOSTILE = "<script>alert(1)</script>|$x_%&#\\^~{}`*\n=cmd()"
VOID = {"meta", "br"}


def test_a_radius_is_written_as_papers_write_it() -> None:
    texts = [eps_text(eps) for eps in (0.0, 8 / 255, 0.5 / 255, 0.15, 128 / 255)]
    assert texts == ["0", "8/255", "0.001961", "0.15", "128/255"]


@pytest.fixture(scope="module")
def printed() -> list[Table]:
    return [leaderboards.table(title.number) for title in leaderboards.tables()]


@pytest.fixture
def results(add_run: AddRun, tmp_path: Path) -> Path:
    """Runs of the paper's scale and of a small one, the latter of a hostile name."""
    paper = {"n": 10000, "dataset": "cifar100", "arch": "wrn-34-10", "scale": "paper"}
    ikl = {"wmse_weight": 20, "ce_weight": 3, "temperature": 4}
    protocol = {"eps": 8 / 255}
    for seed in (0, 1):
        left = (6600, 3500, 3140 + seed, 3140 + seed, 3140 + seed)
        add_run("IKL", left, seed=seed, params=ikl, protocol=protocol, **paper)
    add_run("KL", (6200, 3300, 3011, 3011, 3011), protocol=protocol, **paper)
    add_run("IKL", (340, 280, 270, 268, 262), seed=7, method_title=HOSTILE)
    return tmp_path


def numbers_of(table: Table) -> list[tuple[float, str]]:
    return [(number.value, number.badge) for number in table.numbers]


@pytest.mark.parametrize("ours", [False, True])
def test_csv_and_json_give_the_same_numbers_back(results: Path, ours: bool) -> None:
    for title in leaderboards.tables():
        table = leaderboards.table(title.number, results if ours else None)
        lines = list(csv.DictReader(io.StringIO(text_of(table, "csv"))))
        assert [(float(line["value"]), line["badge"]) for line in lines] == numbers_of(table)
        stds = [None if line["std"] == "" else float(line["std"]) for line in lines]
        assert stds == [number.std for number in table.numbers]
        bold = [line["bold"] == "1" for line in lines]
        assert bold == [number.bold for number in table.numbers]
        told = json.loads(text_of(table, "json"))
        found = [
            (number["value"], number["badge"])
            for row in told["rows"]
            for cell in row["cells"].values()
            for number in (cell["printed"], cell["logged"], cell["ours"])
            if number
        ]
        assert found == numbers_of(table)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_shows_every_number_within_its_width(
    results: Path, width: int, encoding: str
) -> None:
    for title in leaderboards.tables():
        table = leaderboards.table(title.number, results)
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


def test_markdown_has_a_cell_for_every_column(results: Path) -> None:
    for title in leaderboards.tables():
        table = leaderboards.table(title.number, results)
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
    results: Path, ours: bool
) -> None:
    for title in leaderboards.tables():
        table = leaderboards.table(title.number, results)
        text = to_latex(table, ours=ours)
        assert text.isascii()
        plain = re.sub(r"\\[{}]", "", text)
        assert plain.count("{") == plain.count("}")
        assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
        assert re.findall(r"\\begin\{(\w+)\}", text).count("table") == 1
        assert len(tabulars(text)) == max(
            1,
            len(table.panels)
            + (ours and bool(table.panels))
            * len({r.group for r in table.rows if r.kind == "ours"}),
        )
        for tabular in tabulars(text):
            wanted = len(re.match(r"\\begin\{tabular\}\{(\w+)\}", tabular)[1])  # type: ignore[index]
            lines = [line for line in tabular.splitlines() if line.endswith(r"\\")]
            assert {width_of(line) for line in lines} == {wanted}, tabular
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


def test_latex_compiles(results: Path, tmp_path: Path) -> None:
    engine = shutil.which("tectonic") or shutil.which("pdflatex")
    if engine is None:
        pytest.skip("neither tectonic nor pdflatex is installed")
    for title in leaderboards.tables():
        source = tmp_path / f"table-{title.number}.tex"
        source.write_text(document(leaderboards.table(title.number, results)))
        options = [] if engine.endswith("tectonic") else ["-halt-on-error"]
        ended = subprocess.run(
            [engine, *options, source.name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stdout[-2000:]
        assert "Overfull" not in ended.stdout


class Structure(HTMLParser):
    """Checks nesting; gathers text, elements and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        told = dict(attrs)
        assert not any(name.startswith("on") or name == "src" for name in told)
        if told.get("id"):
            self.ids.append(str(told["id"]))
        if told.get("href"):
            self.links.append(str(told["href"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Structure:
    structure = Structure()
    structure.feed(text)
    structure.close()
    assert structure.open == []
    return structure


def test_the_site_is_one_page_that_needs_nothing_else(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    written = write_site(out, results)
    assert len(written) == 1 + 9 * 4
    assert all(path.stat().st_size > 200 for path in written)
    page = parsed((out / "index.html").read_text())
    assert not {"script", "link", "img", "iframe"} & set(page.seen)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("https://"):
            assert (out / link).exists()
    assert page.seen.count("svg") == 4
    for title in leaderboards.tables():
        assert f"table-{title.number}" in page.ids
        for number in leaderboards.table(title.number, results).numbers:
            assert f"{abs(number.value):.2f}" in page.text or f"{number.value:.3f}" in page.text
    # The hostile name is there as text.
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("format_", ["markdown", "html"])
def test_a_legend_says_where_intervals_are_from(
    add_run: AddRun, tmp_path: Path, format_: str
) -> None:
    flags = [{"name": "zero-gradients", "detail": "12 of 360 images"}]
    assert INTERVAL not in text_of(leaderboards.table(2), format_)
    assert MEANINGS["?"] not in text_of(leaderboards.table(2), format_)
    add_run("IKL", (340, 280, 270, 268, 262), flags=flags)
    text = text_of(leaderboards.table(2, tmp_path), format_)
    assert "95% interval (Wilson) from n test images, computed here for printed" in INTERVAL
    assert INTERVAL in text
    assert MEANINGS["?"] in text


def test_a_plot_says_where_its_intervals_are_from(printed: list[Table]) -> None:
    assert INTERVAL in scatter(points_of(printed[1], "clean", "aa"), "x", "y")
    pair = "resnet34/resnet18"
    assert INTERVAL not in scatter(points_of(printed[2], f"{pair}/time", pair), "x", "y")


def test_a_page_has_evidence_one_click_away(printed: list[Table]) -> None:
    page = parsed(text_of(printed[4], "html"))
    assert [link for link in page.links if link.startswith("#dispute")] == ["#dispute-5-0"]
    assert "#dispute-5-0"[1:] in page.ids
    assert "74.26 - 73.08 = 1.18" in page.text


def test_spreadsheets_take_no_name_for_a_formula(add_run: AddRun, tmp_path: Path) -> None:
    add_run("IKL", (340, 280, 270, 268, 262), method_title="=1+1")
    lines = csv.DictReader(io.StringIO(text_of(leaderboards.table(2, tmp_path), "csv")))
    names = [line["name"] for line in lines if line["kind"] == "ours"]
    assert set(names) == {"'=1+1"}


def test_the_front_is_what_no_other_beats() -> None:
    def point(x: float, y: float) -> Point:
        return Point(f"{x}", Number(x, "P"), Number(y, "P"))

    points = [point(1, 5), point(2, 4), point(2, 3), point(3, 1), point(1, 4)]
    assert [(p.x.value, p.y.value) for p in front(points)] == [(1, 5), (2, 4), (3, 1)]
    fast = front(points, less_is_better=True)
    assert [(p.x.value, p.y.value) for p in fast] == [(1, 5)]


def test_plots_leave_small_scale_out(results: Path) -> None:
    points = points_of(leaderboards.table(2, results), "clean", "aa")
    assert {point.badge for point in points} == {"P", "R"}
    assert len(points) == 13 + 2
    assert scatter([], "x", "y") == ""


def test_formats_are_the_documented_ones() -> None:
    assert FORMATS == ("terminal", "markdown", "latex", "csv", "html", "json")

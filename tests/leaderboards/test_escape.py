"""Hostile and foreign names as text in every format, by one escaper a format."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from leaderboards.build import small
from leaderboards.render import escape
from leaderboards.render.report import TEXT, text_of
from leaderboards.render.terminal import print_table

AddRun = Callable[..., str]
TITLES = [
    "[MASK] loss",
    "*best*",
    r'50% \input{/etc/passwd} #1 $x_i^2$ a&b {~} "q"',
    "<script>alert(1)</script><b>x</b> \"quoted\" 's'",
    "a|b||c `code` [x](javascript:alert(1)) ![i](http://x/y.png)",
    "[red]danger[/red] [link=http://x]y[/link]",
    '=HYPERLINK("http://x","y")',
    "\t=1+1",
    "two\nlines\r\nthree",
    "M\u00e9d\u00e9e \u84b8\u7559 \u03a9\u2192\u221e \u202eRTL \u200bzero",
    "L" * 300,
    "   ",
    "\x1b[31mred\x1b[0m bell\x07",
    "1e5",
    "-- dash",
    ":red[x] :smile: &amp; +1",
]
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("title", TITLES)
def test_no_format_passes_on_what_a_title_could_do(
    add_run: AddRun, tmp_path: Path, title: str
) -> None:
    run_id = add_run("IKL", (340, 280, 270, 268, 262), method_title=title)
    table = small(tmp_path)[0]
    (row,) = [row for row in table.rows if run_id in row.run_ids]
    assert row.labels[0].strip()
    assert len(row.labels[0]) < 60
    texts = {name: text_of(table, name) for name in TEXT}
    raw = io.StringIO()
    print_table(table, Console(file=raw, width=80))
    for name, text in (texts | {"terminal": raw.getvalue()}).items():
        assert not CONTROLS.search(text), name
    assert "<script" not in texts["html"].replace("&lt;", "")
    assert texts["latex"].isascii()
    for line in csv.DictReader(io.StringIO(texts["csv"])):
        assert line["name"][:1] not in ("=", "+", "-", "@", "\t")


def test_latex_keeps_accents_and_letters_and_names_what_it_cannot_set() -> None:
    assert escape.latex("M\u00e9d\u00e9e \u0142\u00f3d\u017a") == r"M\'{e}d\'{e}e \l{}\'{o}d\'{z}"
    assert escape.latex("\u03b1\u03a9\u0391\u03bf") == r"$\alpha\Omega\mathrm{A}\mathit{o}$"
    assert escape.latex("\u84b8") == "{[}U+84B8{]}"
    assert escape.latex("[a]* -- a-b") == "{[}a{]}{*} {-}{-} a-b"
    for sign in map(chr, range(0x20, 0x600)):
        assert escape.latex(sign).isascii(), unicodedata.name(sign, "")


def test_markdown_shows_names_as_they_are() -> None:
    assert escape.markdown("a*b_c[d](e)") == r"a\*b\_c\[d\](e)"
    assert escape.markdown(":red[x] a: b") == r"\:red\[x\] a: b"
    assert escape.markdown("<b>&amp; & $x$") == r"&lt;b&gt;&amp;amp; & \$x\$"
    assert escape.markdown("- item") == r"\- item"
    assert escape.markdown("1. item") == r"1\. item"
    assert escape.markdown("0.00") == "0.00"
    assert escape.markdown("+1.16 to WRN-34-10") == "+1.16 to WRN-34-10"


def test_csv_has_no_formula_and_keeps_numbers() -> None:
    assert escape.csv("=1+1") == "'=1+1"
    assert escape.csv("\t=1+1") == "'=1+1"
    assert escape.csv(-1.5) == -1.5
    assert escape.csv(True) == 1

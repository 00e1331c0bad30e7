"""The forests of whole studies in a real browser: readable, sorted, one for each question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Visitor, serving

from tests.leaderboards.studies import Study, adversarial_study, distillation_study

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    results = tmp_path_factory.mktemp("studies")
    study = distillation_study(results)
    adversarial_study(results)
    return results, study


@pytest.fixture(scope="module")
def server(studies) -> Iterator[str]:
    with serving(studies[0]) as address:
        yield address


def section(visitor: Visitor, title: str):
    """The rows of the forest's section with that title, from the top."""
    body = visitor.page.locator("table").first.locator("tbody").filter(has_text=title)
    return body.locator("tr.row")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "highest"), [("wide", 36), ("phone", 64)])
def test_thirty_rows_are_readable_and_sorted(visit, studies, width, theme, highest) -> None:
    _, study = studies
    visitor = visit(width, theme)
    visitor.open("leaderboards?table=small")
    rows = section(visitor, "minus KD (clean only, n = 500")
    assert rows.count() == len(study) - 1
    circles = rows.locator("svg circle")
    at = [float(x) for x in circles.evaluate_all("all => all.map(it => it.getAttribute('cx'))")]
    assert at == sorted(at, reverse=True)
    boxes = [box for row in rows.all() if (box := row.bounding_box())]
    short = [box["height"] for box in boxes if box["height"] <= highest]
    # A long name may take a second line.
    assert len(short) >= 0.8 * len(boxes), sorted(box["height"] for box in boxes)
    overflow = visitor.page.locator("[data-testid=stMain]")
    assert overflow.evaluate("it => it.scrollWidth - it.clientWidth") <= 0
    # The scale above and the marks below are one: the number 0 stands over the line at zero.
    zero = visitor.page.locator("th svg.forest text").filter(has_text="0").all()
    (zero,) = [text for text in zero if text.text_content() == "0"]
    line = rows.first.locator("line.zero").bounding_box()
    shown = zero.bounding_box()
    assert abs(shown["x"] + shown["width"] / 2 - line["x"]) <= 2
    visitor.shoot(f"studies-{width}-{theme}")


def test_the_papers_losses_have_a_forest_of_their_own(visit, studies) -> None:
    _, study = studies
    visitor = visit()
    visitor.open("leaderboards?table=small")
    first = visitor.page.locator("tr.row svg circle").first
    assert first.bounding_box()["y"] < 300
    visitor.page.get_by_text("IKL with the others", exact=True).click()
    visitor.page.wait_for_url("**forest=IKL**")
    visitor.settle()
    rows = section(visitor, "IKL-KD minus the others (clean only, n = 500")
    # All but itself and the reference.
    assert rows.count() == len(study) - 2
    assert all(text.startswith("IKL-KD \u2212") for text in rows.all_inner_texts())
    rows.first.locator("a.row").click()
    visitor.page.wait_for_url("**pair=**")
    visitor.settle()
    evidence = visitor.page.locator("tr.evidence.open")
    assert "over seeds 0, 1, 2" in evidence.inner_text()
    assert evidence.locator("a[href^='run?run=']").count() == 6

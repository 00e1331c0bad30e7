"""The app in a real browser, which must report no error of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import WIDTHS, serving

pytestmark = pytest.mark.browser

PAGES = [
    "start",
    "leaderboards",
    "leaderboards?table=small",
    "leaderboards?table=runs",
    "tradeoffs",
    "runs",
    "run",
    "compare",
    "methods",
    "losses",
    "tsne",
]


@pytest.fixture(scope="module")
def server(small_store: tuple[Path, dict[str, str]]) -> Iterator[str]:
    with serving(small_store[0]) as address:
        yield address


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_opens_without_an_error(visit, small_store, width, theme) -> None:
    _, ids = small_store
    query = {"run": f"?run={ids['a']}", "compare": f"?a={ids['a']}&b={ids['b']}"}
    visitor = visit(width, theme)
    for page in PAGES:
        visitor.open(page + query.get(page, ""))
        for part in ("html", "[data-testid=stMain]"):
            overflow = visitor.page.locator(part).evaluate("it => it.scrollWidth - it.clientWidth")
            assert overflow <= 0, f"{part} of {page} is {overflow} pixels too wide"
        visitor.shoot(f"{page.replace('?table=', '-')}-{width}-{theme}")


def test_every_page_has_its_own_address_and_a_link_shows_what_it_names(visit) -> None:
    visitor = visit()
    visitor.page.goto(f"{visitor.server}/start")
    visitor.page.get_by_role("heading", name="Does a better KL divergence").wait_for()
    visitor.settle()
    assert visitor.page.get_by_text("Page not found").count() == 0
    visitor.open("leaderboards?table=4")
    region = visitor.page.get_by_role("region", name="Table 4: CIFAR-10 robust", exact=True)
    assert region.count() == 1
    visitor.page.get_by_role("combobox", name="Table").click()
    visitor.page.get_by_role("option", name="Table 7").click()
    visitor.page.wait_for_url("**table=7**")
    visitor.settle()
    assert visitor.page.locator("tr.subject").first.inner_text().startswith("IKL-KD")


def test_a_choice_of_runs_is_named_and_stays_in_the_url(visit, small_store) -> None:
    _, ids = small_store
    visitor = visit()
    visitor.open(f"compare?a={ids['a']}&b={ids['b']}")
    assert f"a={ids['a']}" in visitor.page.url
    assert f"b={ids['b']}" in visitor.page.url
    shown = visitor.page.get_by_role("combobox", name="First run (A)")
    assert "IKL-AT, digits, resnet8, seed 1" in (shown.input_value() or shown.inner_text())
    visitor.shoot("compare-titles")


def test_a_run_is_opened_from_the_list_and_two_are_compared(visit, small_store) -> None:
    _, ids = small_store
    visitor = visit()
    visitor.open("runs?state=done")
    visitor.pick_row(0)
    visitor.pick_row(1)
    visitor.page.get_by_role("link", name="Compare the two").click()
    visitor.page.get_by_text("exact McNemar test").wait_for()
    visitor.settle()
    assert "a=" in visitor.page.url
    visitor.open("runs?state=done&q=TRADES")
    visitor.pick_row(0)
    visitor.page.get_by_role("link", name=f"Open {ids['b']}").click()
    visitor.page.get_by_role("heading", name="TRADES").wait_for()
    visitor.settle()
    for name in ("Attacks", "Per class", "Samples", "Configuration", "Environment", "Log"):
        visitor.page.get_by_role("tab", name=name).click()
        visitor.settle()
    visitor.page.get_by_role("tab", name="Samples").click()
    visitor.settle()
    assert visitor.page.locator("[data-testid='stImage'] img").count() > 0
    visitor.shoot("run-samples")


def test_tsne_draws_two_maps(visit) -> None:
    visitor = visit()
    visitor.open("tsne?n=8&k=5")
    assert visitor.page.get_by_text("These two runs ship with the app").count() == 1
    visitor.unfold("Map two runs of this folder")
    visitor.page.get_by_role("button", name="Compute").click()
    visitor.page.get_by_text("These two runs ship with the app").wait_for(
        state="detached", timeout=60_000
    )
    visitor.settle()
    visitor.shoot("tsne-computed")


def test_the_page_requests_nothing_from_other_servers(visit, server) -> None:
    visitor = visit()
    urls: list[str] = []
    visitor.page.on("request", lambda request: urls.append(request.url))
    visitor.open("leaderboards")
    local = (server, server.replace("http", "ws"), "data:", "blob:")
    assert [url for url in urls if not url.startswith(local)] == []

"""The app in a real browser, which must report no error of any kind.

Screenshots of every page go to ``test-artifacts/screenshots``, which git ignores.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "test-artifacts" / "screenshots"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PAGES = ["leaderboards", "tradeoffs", "runs", "run", "compare", "methods", "losses", "tsne"]
WIDTHS = {"wide": (1280, 900), "phone": (390, 844)}
# Streamlit's client finds the server's root by trying each folder of a page's address.
ROOT_SEARCH = re.compile(
    r"404 \(Not Found\) \(http://localhost:\d+/\w+/_stcore/(health|host-config)\)"
)
DONE = "[data-testid='stApp'][data-test-script-state='notRunning']"
# Streamlit draws grey boxes where a part of a page is still being loaded.
DRAWN = "() => document.querySelectorAll('[data-testid=stSkeleton]').length === 0"


@pytest.fixture(scope="module")
def server(small_store: tuple[Path, dict[str, str]]) -> Iterator[str]:
    """The app's address, started by its own command in another folder than the project's."""
    results, _ = small_store
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "harness", "app", "--results", str(results)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=results,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://localhost:{port}"
    try:
        wait_for(f"{address}/_stcore/health", process)
        yield address
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=20)
    assert "Traceback" not in output, output


def wait_for(address: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            urllib.request.urlopen(address, timeout=2).read()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(scope="module")
def chromium() -> Iterator[playwright.Browser]:
    if CHROMIUM is None:
        pytest.fail("chromium is missing: install Debian's package, or set CHROMIUM to a browser")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visitor:
    """One tab; its console, requests and pages must stay free of errors."""

    def __init__(self, browser: playwright.Browser, server: str, width: str, theme: str) -> None:
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        self.context = browser.new_context(
            viewport=size, color_scheme=theme, accept_downloads=True, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.server = server
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        self.page.on("console", self._on_console)
        self.page.on("requestfailed", self._on_failed_request)

    def _on_console(self, message: playwright.ConsoleMessage) -> None:
        text = f"{message.text} ({message.location.get('url')})"
        if message.type == "error" and not ROOT_SEARCH.search(text):
            self.errors.append(f"console: {text}")

    def _on_failed_request(self, request: playwright.Request) -> None:
        # A navigation aborts the requests of the page before it.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.errors.append(f"request: {request.url} {request.failure}")

    def open(self, path: str) -> None:
        # The default page is served at the root.
        self.page.goto(f"{self.server}/{path.removeprefix('leaderboards')}")
        self.page.wait_for_selector("h1", timeout=30_000)
        self.settle()

    def settle(self) -> None:
        """Wait until the script is done and what it sent is drawn."""
        self.page.wait_for_selector(DONE, timeout=30_000)
        self.page.wait_for_timeout(200)
        self.page.wait_for_selector(DONE, timeout=30_000)
        self.page.wait_for_function(DRAWN, timeout=30_000)
        assert self.page.locator("[data-testid='stException']").count() == 0
        assert self.page.locator("[data-testid='stAlertContentError']").count() == 0
        assert self.errors == []

    def shoot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=False)

    def table(self, number: int = 0) -> playwright.Locator:
        return self.page.locator("[data-testid='stDataFrame']").nth(number)


@pytest.fixture
def visit(chromium, server) -> Iterator[type]:
    open_visitors: list[Visitor] = []

    def begin(width: str = "wide", theme: str = "light") -> Visitor:
        open_visitors.append(Visitor(chromium, server, width, theme))
        return open_visitors[-1]

    yield begin
    for visitor in open_visitors:
        visitor.context.close()


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
        visitor.shoot(f"{page}-{width}-{theme}")


def test_a_link_shows_the_table_that_it_names(visit) -> None:
    visitor = visit()
    visitor.open("leaderboards?table=4")
    assert visitor.page.get_by_role("heading", name="Table 4").count() == 1
    visitor.page.get_by_role("radio", name="2", exact=True).click()
    visitor.page.wait_for_url(lambda url: "table=4" not in url)
    visitor.settle()
    visitor.page.get_by_role("heading", name="Table 2").wait_for()
    visitor.open("leaderboards?table=7")
    assert visitor.page.get_by_role("heading", name="Table 7").count() == 1


def test_a_filter_goes_into_the_url_and_the_download_holds_its_rows(visit, tmp_path) -> None:
    visitor = visit()
    visitor.open("leaderboards?table=2")
    visitor.page.get_by_text("Search, filter and sort").click()
    box = visitor.page.get_by_label("Search", exact=True)
    box.fill("IKL")
    box.press("Enter")
    visitor.page.wait_for_url("**search=IKL**")
    visitor.settle()
    with visitor.page.expect_download() as coming:
        visitor.page.get_by_role("button", name="CSV", exact=True).click()
    path = tmp_path / "table.csv"
    coming.value.save_as(path)
    rows = pd.read_csv(path)
    assert len(rows)
    assert rows.apply(lambda row: "ikl" in " ".join(map(str, row)).lower(), axis=1).all()


def cells(visitor: Visitor, column: int) -> list[str]:
    """A column's cells in the first table, from the elements for screen readers."""
    found = visitor.table().locator(f"[role=gridcell][aria-colindex='{column}']")
    # They are written after the canvas is drawn.
    found.first.wait_for(state="attached")
    visitor.page.wait_for_timeout(500)
    return [cell.inner_text() for cell in found.all()]


def test_a_click_on_a_column_title_sorts_numbers_as_numbers(visit) -> None:
    visitor = visit()
    visitor.open("leaderboards?table=4")
    before = cells(visitor, 2)
    box = visitor.table().bounding_box()
    visitor.page.mouse.click(box["x"] + 330, box["y"] + 16)
    visitor.settle()
    after = cells(visitor, 2)
    assert after != before
    assert after == sorted(after, key=float)
    assert sorted(after) == sorted(before)


def test_the_default_page_has_its_own_url_too(visit) -> None:
    visitor = visit()
    visitor.page.goto(f"{visitor.server}/leaderboards?table=4")
    visitor.page.get_by_role("heading", name="Table 4").wait_for()
    visitor.settle()
    assert visitor.page.get_by_text("Page not found").count() == 0


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
    visitor.open("runs?status=success")
    pick_rows(visitor, 2)
    visitor.page.get_by_role("link", name="Compare the two").click()
    visitor.page.get_by_text("Exact McNemar p").wait_for()
    visitor.settle()
    assert "a=" in visitor.page.url
    visitor.open("runs?status=success&q=TRADES")
    pick_rows(visitor, 1)
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


def pick_rows(visitor: Visitor, count: int) -> None:
    """Tick the first rows of the page's table, which is drawn on a canvas."""
    frame = visitor.table()
    frame.scroll_into_view_if_needed()
    for row in range(count):
        box = frame.bounding_box()
        visitor.page.mouse.click(box["x"] + 16, box["y"] + 36 * (row + 1) + 16)
        visitor.settle()


def test_tsne_draws_two_maps(visit) -> None:
    visitor = visit()
    visitor.open("tsne?n=8&k=5")
    visitor.page.get_by_role("button", name="Compute").click()
    visitor.page.get_by_text("Classes of adversarial images separate").wait_for(timeout=60_000)
    visitor.settle()
    visitor.shoot("tsne-computed")


def test_the_page_requests_nothing_from_other_servers(visit, server) -> None:
    visitor = visit()
    urls: list[str] = []
    visitor.page.on("request", lambda request: urls.append(request.url))
    visitor.open("leaderboards")
    local = (server, server.replace("http", "ws"), "data:", "blob:")
    assert [url for url in urls if not url.startswith(local)] == []

"""The app in a real browser: a separate server, and a tab whose errors fail the test.

Screenshots go to ``test-artifacts/screenshots``, which git ignores.
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
from contextlib import contextmanager
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "test-artifacts" / "screenshots"
# None: the one that `playwright install chromium` downloads.
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {"wide": (1280, 900), "phone": (390, 844)}
# Streamlit's client finds the server's root by trying each folder of a page's URL.
ROOT_SEARCH = re.compile(
    r"404 \(Not Found\) \(http://localhost:\d+/\w+/_stcore/(health|host-config)\)"
)
DONE = "[data-testid='stApp'][data-test-script-state='notRunning']"
# Streamlit draws grey boxes where a part of a page is still being loaded.
DRAWN = "() => document.querySelectorAll('[data-testid=stSkeleton]').length === 0"


@contextmanager
def serving(results: Path) -> Iterator[str]:
    """Start the app with its own command, outside the project's folder, and yield its URL."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "harness", "app", "--results", str(results)]
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=results,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://localhost:{port}"
    try:
        _wait_for(f"{address}/_stcore/health", process)
        yield address
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=20)
    assert "Traceback" not in output, output


def _wait_for(address: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            urllib.request.urlopen(address, timeout=2).read()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")


@contextmanager
def chromium() -> Iterator[playwright.Browser]:
    """Launch the browser; if it is missing, the test fails."""
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
        self.page.goto(f"{self.server}/{path.removeprefix('start')}")
        self.page.wait_for_selector("h1", timeout=30_000)
        self.settle()

    def settle(self, *, messages: bool = False) -> None:
        """Wait until the script is done and its output is drawn.

        ``messages`` says whether the page may show error messages.
        """
        self.page.wait_for_selector(DONE, timeout=30_000)
        self.page.wait_for_timeout(200)
        self.page.wait_for_selector(DONE, timeout=30_000)
        self.page.wait_for_function(DRAWN, timeout=30_000)
        assert self.page.locator("[data-testid='stException']").count() == 0
        if not messages:
            assert self.page.locator("[data-testid='stAlertContentError']").count() == 0
        assert self.errors == []

    def unfold(self, label: str) -> None:
        """Open an expander; while it opens, its contents move away under a click."""
        self.page.get_by_text(label, exact=True).click()
        self.page.wait_for_function("() => document.getAnimations().length === 0")
        self.settle()

    def shoot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=False)

    def table(self, number: int = 0) -> playwright.Locator:
        return self.page.locator("[data-testid='stDataFrame']").nth(number)

    def cells(self, column: int) -> list[str]:
        """The cells of a column in the first table, from the elements for screen readers."""
        found = self.table().locator(f"[role=gridcell][aria-colindex='{column}']")
        # These elements are written after the canvas is drawn.
        found.first.wait_for(state="attached")
        self.page.wait_for_timeout(500)
        return [cell.inner_text() for cell in found.all()]

    def pick_row(self, row: int) -> None:
        """Tick a row of the page's first table, which is drawn on a canvas."""
        frame = self.table()
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        # The header is 34 pixels high, each row 33, and a scroll bar is at the bottom.
        self.page.mouse.click(box["x"] + 16, box["y"] + 34 + 33 * row + 16)
        self.settle()

"""Make the README's picture: the app's page of small-scale runs, from the reference runs alone.

python docs/picture.py        # writes docs/leaderboard.png; needs Chromium
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).with_name("leaderboard.png")


def free_port() -> int:
    """Return a port of this machine that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(address: str, seconds: float = 120) -> None:
    """Return once the address answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address)
        except urllib.error.URLError:
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"{address} does not answer")


def main() -> None:
    """Start the app on an empty results folder and photograph the page."""
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, "-m", "harness", "app", "--results", results]
        port = free_port()
        address = f"http://localhost:{port}"
        server = subprocess.Popen([*command, "--port", str(port)])
        try:
            wait_for(address)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"]
                )
                page = browser.new_page(viewport={"width": 1280, "height": 660})
                page.goto(f"{address}/leaderboards?table=small")
                page.wait_for_selector("svg.forest")
                page.wait_for_selector("[data-testid=stStatusWidget]", state="detached")
                page.screenshot(path=OUT)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()

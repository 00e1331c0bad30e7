"""Addresses that no page made, in a real browser: each gives a sentence, none an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from browsing import Visitor, serving

pytestmark = pytest.mark.browser

LONG = "9" * 5000
# Values that are no setting; on the pages below each costs a sentence that quotes it.
WRONG = [
    ("losses", "C", value)
    for value in ("²", "--3", LONG, "٣", "1e9", "nan", "-1", "4.0", " 4", "", "null", "3;4")
]
WRONG += [
    ("losses", "T", "0"), ("losses", "wm", "-5"), ("losses", "wc", "½"), ("losses", "mean", "1e3"),
    ("losses", "preset", "<img src=x onerror=alert(1)>"), ("losses", "detach", "maybe"),
    ("losses", "side", "both"), ("losses", "side", "${7*7}"),
    ("tsne", "k", "²"), ("tsne", "n", "--3"), ("tsne", "seed", LONG), ("tsne", "a", "/etc/passwd"),
    ("tsne", "b", "'; DROP TABLE runs; --"), ("tradeoffs", "ds", "../../etc/passwd"),
    ("tradeoffs", "protocol", "<script>alert(1)</script>"), ("tradeoffs", "x", "__class__"),
    ("tradeoffs", "rb", "2"), ("runs", "state", "burning"), ("runs", "limit", "1e9"),
    ("runs", "method", "\u202emoc"), ("runs", "data", "a" * 3000),
    ("leaderboards", "table", "99"), ("leaderboards", "view", "<svg onload=alert(1)>"),
    ("leaderboards", "sort", "'; DROP TABLE runs; --"), ("leaderboards", "aug", "²"),
    ("compare", "a", "no-such-run"), ("compare", "b", "{{7*7}}"), ("compare", "right", "²"),
    ("methods", "m", "[x](http://evil)"), ("methods", "family", "\x00"),
    ("run", "run", "zzz"), ("run", "run", "../../../etc/passwd"), ("run", "run", "x' OR 1=1 --"),
    ("run", "run", LONG),
]  # fmt: skip


@pytest.fixture(scope="module")
def visitor(chromium: Any, small_store: Any) -> Iterator[Visitor]:
    with serving(small_store[0]) as address:
        visitor = Visitor(chromium, address, "wide", "light")
        yield visitor
        visitor.context.close()


@pytest.mark.parametrize(("page", "key", "value"), WRONG)
def test_a_hostile_address_costs_a_sentence(visitor, page: str, key: str, value: str) -> None:
    visitor.page.goto(f"{visitor.server}/{page}?{key}={quote(value)}")
    visitor.page.wait_for_selector("h1", timeout=30_000)
    visitor.settle(messages=page == "run")
    texts = visitor.page.locator("[data-testid='stAlert']").all_inner_texts()
    wanted = "There is no run" if page == "run" else "which cannot be chosen here: showing"
    assert any(wanted in text for text in texts), texts
    assert all(len(text) < 500 for text in texts)
    assert visitor.page.locator("h1").count() == 1


def test_a_widget_works_after_a_hostile_address(visitor) -> None:
    visitor.page.goto(f"{visitor.server}/losses?wm={quote('²')}")
    visitor.page.wait_for_selector("h1", timeout=30_000)
    visitor.settle()
    box = visitor.page.get_by_role("spinbutton", name="wMSE weight")
    box.fill("7")
    box.press("Enter")
    visitor.page.wait_for_url("**wm=7**")
    visitor.settle()
    assert box.input_value() == "7"
    assert visitor.page.locator("[data-testid='stAlert']").count() == 0

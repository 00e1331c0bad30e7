"""Addresses of the app: any page with any parameters shows its title and no exception."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fuzzing import tries
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from app.launch import MAIN, RESULTS_VARIABLE
from harness.store.database import Database
from tests.app.conftest import make_small

pytestmark = pytest.mark.fuzz

VIEWS = sorted(path for path in (MAIN.parent / "views").glob("*.py") if path.stem != "__init__")
SOURCES = "".join(path.read_text() for path in MAIN.parent.rglob("*.py"))
# Every name of a parameter in the app's sources.
KEYS = sorted(
    {*re.findall(r'key="(\w+)"', SOURCES), "run", "m", "aug", "arch", "src", "sel", "scale"}
)
VALUES = (
    "", " ", "0", "1", "2", "-1", "--5", "²", "1e9", "9" * 5000, "nan", "inf", "0x10", "1.5",
    "true", "none", "all", "digits", "cifar100", "imagenet", "ikl", "kd", "IKL-AT", "runs",
    "sweep", "A", "B", "A@x", "last", "Linf", "success", "'; DROP TABLE runs; --", "<b>x</b>",
    "[x](http://evil)", "$x^2$", "../../etc/passwd", "%00", "\x00", "é\u202e", "\x1b[31m",
    "a" * 300, "{}", "\\", ":smile:", "`",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    results = tmp_path_factory.mktemp("store")
    return results, make_small(results)


@given(
    st.sampled_from(VIEWS),
    st.dictionaries(
        st.sampled_from(KEYS),
        st.sampled_from(VALUES) | st.lists(st.sampled_from(VALUES), max_size=3),
        max_size=4,
    ),
)
@tries(150)
def test_addresses(store, tally, page, query) -> None:
    results, runs = store
    names = {"A": runs["a"], "B": runs["b"]}
    before = Database(results).path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RESULTS_VARIABLE, str(results))
        at = AppTest.from_file(str(MAIN), default_timeout=120)
        if page.stem != "leaderboards":
            at.switch_page(f"views/{page.name}")
        for name, value in query.items():
            at.query_params[name] = names.get(value, value) if isinstance(value, str) else value
        at.run()
    assert not at.exception, [box.value for box in at.exception]
    assert at.title
    assert Database(results).path.read_bytes() == before
    tally[f"addresses, {page.stem}"]["shown"] += 1

"""Time the app's queries and pages with 1,000 runs and 10 million verdicts, on a CPU.

With the project installed:

    python benchmarks/app_queries.py [--runs 1000] [--images 10000] [--json]

A results database of that size is created in a temporary folder. Each query runs three times on
separate connections, as in the app. A leaderboard's time includes its queries and building the
table. Each page is opened with empty caches. The first table is timed in a browser, from the
request to the first row, on a page that the server and the browser have shown before; CHROMIUM
names the browser if it is not playwright's, and without a browser this part is skipped.

The exit status is 1 if a median query takes 200 ms or more, a leaderboard 1 s, a page 2 s, or a
first table 1.5 s. These are limits of wall time on two idle cores. Processor time of all threads is
printed next to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import streamlit as st
from bulk_store import make_store
from streamlit.testing.v1 import AppTest

from app import queries
from app.launch import MAIN, RESULTS_VARIABLE
from harness.store.database import Database
from leaderboards.build import table
from leaderboards.results import FINISHED, LIKE
from leaderboards.summary import run_summary

# Server and browser of the app's tests, run by path: packages in that folder must not be found.
BROWSING = Path(__file__).parents[1] / "tests" / "browsing.py"

LIMITS_S = {"queries": 0.2, "leaderboards": 1.0, "pages": 2.0, "first tables": 1.5}
REPEATS = 3
PAGES = (
    "start", "leaderboards", "tradeoffs", "runs", "run", "compare", "methods", "losses", "tsne"
)  # fmt: skip
# Pages with a table of numbers, and the selector of its first row.
FIRST_ROWS = {
    "table 2": ("leaderboards?table=2", "tr.row"),
    "table 5": ("leaderboards?table=5", "tr.row"),
    "small scale": ("leaderboards?table=small", "tr.row"),
    "runs": ("runs", "[data-testid=stDataFrame] canvas"),
}


class Timed(NamedTuple):
    """Wall time and processor time in seconds."""

    wall: float
    processor: float


def page_queries(results: Path) -> dict[str, Callable[[], Any]]:
    """Return the pages' queries, by name."""
    database = Database(results)
    known = queries.protocols(database).iloc[0]
    own = {"run_id": known["run_id"], "evaluation_id": known["evaluation_id"]}
    first = queries.comparable(database)["run_id"].iloc[0]
    return {
        "overview": lambda: queries.overview(database),
        "runs, newest 50": lambda: queries.runs(database),
        "runs, filtered": lambda: queries.runs(database, words="m7", status=["success"]),
        "choices of filters": lambda: queries.choices(database),
        "protocols": lambda: queries.protocols(database),
        "leaderboard: runs": lambda: database.query(FINISHED),
        "leaderboard: runs of one protocol": lambda: database.query(LIKE, own),
        "run": lambda: queries.run(database, first),
        "per class": lambda: queries.per_class(database, first, "e"),
        "samples": lambda: queries.samples(database, first, "e", "apgd-ce", 10),
        "comparable runs": lambda: queries.comparable(database),
        "verdicts of one run": lambda: queries.evaluated(database, first, "e"),
    }


def leaderboards(results: Path) -> dict[str, Callable[[], Any]]:
    """Return the leaderboards, by name."""
    known = queries.protocols(Database(results)).iloc[0]
    own = (known["run_id"], known["evaluation_id"])
    return {
        **{f"table {number}": lambda number=number: table(number, results) for number in (1, 2, 7)},
        "runs of one protocol": lambda: run_summary(results, *own),
    }


def timed(action: Callable[[], Any]) -> Timed:
    """Time one call."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return Timed(time.perf_counter() - wall, time.process_time() - processor)


def page_seconds(page: str, run_id: str) -> Timed:
    """Time a page's script with empty caches, as for the first visitor."""
    visitor = AppTest.from_file(str(MAIN), default_timeout=120)
    # The entry point must have run once before a page can be chosen.
    visitor.run()
    if page != "start":
        visitor.switch_page(f"views/{page}.py")
    if page == "run":
        visitor.query_params["run"] = run_id
    st.cache_data.clear()
    seconds = timed(visitor.run)
    if visitor.exception or visitor.error:
        shown = [box.value for box in (*visitor.exception, *visitor.error)]
        raise SystemExit(f"page {page} failed: {shown}")
    return seconds


def first_tables(results: Path) -> dict[str, Timed]:
    """Return the median wall time from the request to the first row of a warm page, by page."""
    browsing = runpy.run_path(str(BROWSING))
    if browsing["CHROMIUM"] is None:
        return {}
    found = {}
    with browsing["serving"](results) as address, browsing["chromium"]() as browser:
        for name, (path, row) in FIRST_ROWS.items():
            visitor = browsing["Visitor"](browser, address, "wide", "light")

            def visit(path: str = path, row: str = row, page: Any = visitor.page) -> None:
                page.goto(f"{address}/{path}")
                page.locator(row).first.wait_for(state="visible")

            visit()
            times = []
            for _ in range(REPEATS):
                visitor.settle()
                times.append(timed(visit).wall)
            found[name] = Timed(sorted(times)[REPEATS // 2], math.nan)
            visitor.context.close()
    return found


def measure(runs: int, images: int) -> dict[str, dict[str, Timed]]:
    """Time each query and leaderboard (medians), each page, and the first tables."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        making = timed(lambda: make_store(results, runs=runs, images=images))
        query_times, table_times = (
            {
                name: sorted(timed(action) for _ in range(REPEATS))[REPEATS // 2]
                for name, action in actions.items()
            }
            for actions in (page_queries(results), leaderboards(results))
        )
        os.environ[RESULTS_VARIABLE] = folder
        run_id = str(queries.comparable(Database(results))["run_id"].iloc[0])
        for page in PAGES:
            page_seconds(page, run_id)  # imports, which a server does once
        pages = {page: page_seconds(page, run_id) for page in PAGES}
        tables = first_tables(results)
    return {
        "queries": query_times,
        "leaderboards": table_times,
        "pages": pages,
        "first tables": tables,
        "store": {"making": making},
    }


def main() -> None:
    """Measure, print, and exit with status 1 if anything is too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    found = measure(given.runs, given.images)
    if given.json:
        print(
            json.dumps(
                {kind: {n: t._asdict() for n, t in own.items()} for kind, own in found.items()}
            )
        )
    else:
        print(f"{given.runs:,} runs, {given.runs * given.images:,} verdicts; wall ms, processor ms")
        for kind, limit in LIMITS_S.items():
            print(f"{kind} (limit {1000 * limit:.0f} ms)")
            for name, seconds in found[kind].items():
                processor = 1000 * seconds.processor
                own = "" if math.isnan(processor) else f"{processor:9.0f}"
                print(f"  {name:<34}{1000 * seconds.wall:9.0f}{own}")
    slow = [
        seconds.wall >= limit
        for kind, limit in LIMITS_S.items()
        for seconds in found[kind].values()
    ]
    sys.exit(any(slow))


if __name__ == "__main__":
    main()

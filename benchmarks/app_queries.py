"""The app over 1,000 runs and 10 million verdicts: its queries and its pages, on a CPU.

With the project installed:

    python benchmarks/app_queries.py [--runs 1000] [--images 10000] [--json]

A results database of that size is made in a temporary folder. Each query is run three times on
connections of its own, as the app does. A leaderboard is its queries and the table made of them.
Each page is opened with empty caches. A median query of 200 ms or more, a leaderboard of 1 s or
more, or a page of 2 s or more exits with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
from bulk_store import make_store
from streamlit.testing.v1 import AppTest

from app import queries
from app.launch import MAIN, RESULTS_VARIABLE
from harness.store.database import Database
from leaderboards.build import table
from leaderboards.results import FINISHED, LIKE
from leaderboards.summary import run_summary

LIMITS_S = {"queries": 0.2, "leaderboards": 1.0, "pages": 2.0}
REPEATS = 3
PAGES = ("leaderboards", "tradeoffs", "runs", "run", "compare", "methods", "losses", "tsne")


def page_queries(results: Path) -> dict[str, Callable[[], Any]]:
    """The pages' queries, by name."""
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
    """Whole leaderboards, by name."""
    known = queries.protocols(Database(results)).iloc[0]
    own = (known["run_id"], known["evaluation_id"])
    return {
        **{f"table {number}": lambda number=number: table(number, results) for number in (1, 2, 7)},
        "runs of one protocol": lambda: run_summary(results, *own),
    }


def timed(action: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def page_seconds(page: str, run_id: str) -> float:
    """Seconds that a page's script takes with empty caches, as for the first visitor."""
    visitor = AppTest.from_file(str(MAIN), default_timeout=120)
    if page != "leaderboards":
        # The entry point must have run once before another page can be chosen.
        visitor.query_params["table"] = "5"
        visitor.run()
        visitor.switch_page(f"views/{page}.py")
        visitor.query_params.clear()
    if page == "run":
        visitor.query_params["run"] = run_id
    st.cache_data.clear()
    seconds = timed(visitor.run)
    if visitor.exception or visitor.error:
        shown = [box.value for box in (*visitor.exception, *visitor.error)]
        raise SystemExit(f"page {page} failed: {shown}")
    return seconds


def measure(runs: int, images: int) -> dict[str, dict[str, float]]:
    """Median seconds of each query and seconds of each page."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        making = timed(lambda: make_store(results, runs=runs, images=images))
        query_times, table_times = (
            {
                name: statistics.median(timed(action) for _ in range(REPEATS))
                for name, action in actions.items()
            }
            for actions in (page_queries(results), leaderboards(results))
        )
        os.environ[RESULTS_VARIABLE] = folder
        run_id = str(queries.comparable(Database(results))["run_id"].iloc[0])
        page_seconds("methods", run_id)  # imports, which a server does once
        pages = {page: page_seconds(page, run_id) for page in PAGES}
    return {
        "queries": query_times,
        "leaderboards": table_times,
        "pages": pages,
        "store": {"making": making},
    }


def main() -> None:
    """Measure, print, and exit with status 1 if anything is too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.runs, given.images)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{given.runs:,} runs, {given.runs * given.images:,} verdicts")
        for kind, limit in LIMITS_S.items():
            print(f"{kind} (limit {1000 * limit:.0f} ms)")
            for name, seconds in found[kind].items():
                print(f"  {name:<34} {1000 * seconds:7.0f} ms")
    sys.exit(any(max(found[kind].values()) >= limit for kind, limit in LIMITS_S.items()))


if __name__ == "__main__":
    main()

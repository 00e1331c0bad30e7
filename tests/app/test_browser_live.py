"""Runs that come and go while the pages are open, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Visitor, serving

from harness.experiment.live import LiveProgress
from harness.store.database import Database
from harness.store.rundir import RunDirectory, utc_now

pytestmark = pytest.mark.browser

WAIT_MS = 20_000


@pytest.fixture
def opened(
    tmp_path: Path, store_run: Callable[..., str], chromium: Any
) -> Iterator[tuple[Path, Visitor]]:
    store_run(tmp_path, "ikl", "IKL-AT", seed=1)
    store_run(tmp_path, "trades", "TRADES", seed=2)
    with serving(tmp_path) as address:
        visitor = Visitor(chromium, address, "wide", "light")
        yield tmp_path, visitor
        visitor.context.close()


def test_picked_runs_stay_picked_when_new_runs_come_on_top(opened, store_run) -> None:
    results, visitor = opened
    visitor.open("runs")
    visitor.pick_row(1)
    link = visitor.page.get_by_role("link", name="Open ikl-")
    link.wait_for()
    target = link.get_attribute("href")
    for seed in (3, 4):
        store_run(results, "mart", "MART", seed=seed)
    visitor.page.get_by_text("Showing 4 of 4 runs").wait_for(timeout=WAIT_MS)
    visitor.settle()
    assert visitor.page.get_by_role("link", name="Open ikl-").get_attribute("href") == target
    assert visitor.page.get_by_role("link", name="Open mart-").count() == 0
    visitor.shoot("runs-picked")
    visitor.pick_row(0)
    visitor.page.get_by_role("link", name="Compare the two").wait_for()
    # Picking again ends the choice, which it could not if the row were another run's.
    visitor.pick_row(3)
    visitor.page.get_by_role("link", name="Open ikl-").wait_for(state="detached")
    assert visitor.page.get_by_role("link", name="Open mart-").count() == 1


def test_a_filter_hides_picked_runs_and_keeps_them(opened) -> None:
    _, visitor = opened
    visitor.open("runs")
    visitor.pick_row(0)
    visitor.page.get_by_role("link", name="Open trades-").wait_for()
    visitor.unfold("Search and filter")
    box = visitor.page.get_by_label("Search", exact=True)
    box.fill("ikl")
    box.press("Enter")
    visitor.page.get_by_text("Showing 1 of 1 run:").wait_for()
    visitor.settle()
    visitor.pick_row(0)
    visitor.page.get_by_role("link", name="Compare the two").wait_for()


def test_a_running_run_moves_and_its_end_is_shown(opened, store_run) -> None:
    results, visitor = opened
    run_id = store_run(results, "mart", "MART", seed=5, status="started")
    run = RunDirectory(results, run_id)
    LiveProgress(run, "training")(0.25, "epoch 6/200")
    visitor.open(f"run?run={run_id}")
    visitor.page.get_by_text("training: epoch 6 of 200, 25%").wait_for()
    record = {"epoch": 6, "loss": 0.5, "parts": {"bce": 0.25, "kl": 0.125}, "lr": 0.05}
    run.append_epoch(record | {"eps": 8 / 255, "pgd_val": 0.875, "sec_per_iter": 0.5})
    visitor.page.get_by_text("loss 0.5 (bce 0.25, kl 0.125), learning rate 0.05").wait_for(
        timeout=WAIT_MS
    )
    assert visitor.page.get_by_text("eps 8/255").count()
    progress = {"work": "evaluation", "note": "square, 8 images left", "share": 0.88}
    run.progress_path.write_text(json.dumps(progress | {"left_s": 75, "at": utc_now()}))
    visitor.page.get_by_text(
        "attacking: Square, 8 images left, 88%, about 1 min 15 s left"
    ).wait_for(timeout=WAIT_MS)
    visitor.shoot("run-live")
    visitor.settle()
    visitor.open("runs")
    assert visitor.page.get_by_text("1 running").count()
    visitor.shoot("runs-live")
    visitor.open(f"run?run={run_id}")
    run.progress_path.unlink()
    run.end("cancelled")
    Database(results).record(run)
    visitor.page.get_by_text("stopped", exact=True).wait_for(timeout=WAIT_MS)
    visitor.settle()

"""The app reads while runs write: nothing waits for long, nothing is lost."""

import json
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app import queries
from app.live import live
from harness.store.database import Database
from harness.store.rundir import RunDirectory

PAUSE_S = 0.1
READERS = 8
WRITER = """
import sys
from pathlib import Path
from harness.store.database import Database
from harness.store.rundir import RunDirectory

for number in range(int(sys.argv[2])):
    run = RunDirectory.create(Path(sys.argv[1]), f"some-{number:012x}")
    run.update(status="success", method="some", dataset="digits", started_at="2026-01-01T00:00:00")
    Database(Path(sys.argv[1])).record(run)
"""


def test_a_run_without_news_has_probably_ended(open_page, store_run, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, store_run(tmp_path, "mart", "MART", status="started"))
    facts = {"work": "training", "note": "epoch 6/200", "share": 0.25, "left_s": 60}
    for minutes in (30, 0):
        at = datetime.now(UTC) - timedelta(minutes=minutes)
        run.progress_path.write_text(json.dumps(facts | {"at": at.isoformat()}))
        page = open_page("run", tmp_path, run=run.run_id)
        shown = " ".join(str(each.value) for each in [*page.caption, *page.markdown])
        silent = r"no update for 30 min \d+ s: its process has probably ended"
        assert bool(re.search(silent, shown)) == (minutes == 30)


@pytest.mark.parametrize("content", ["[]", "{", '{"at": 3}', '"text"'])
def test_progress_that_cannot_be_read_is_left_out(store_run, tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path, store_run(tmp_path, "mart", "MART", status="started"))
    run.progress_path.write_text(content)
    now = live(tmp_path, run.run_id)
    assert now is not None
    assert (now.work, now.note, now.share) == ("", "", None)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("results", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_runs_write_results_while_the_app_refreshes(
    open_page, store_run, tmp_path: Path, results: int
) -> None:
    store_run(tmp_path, "ikl", "IKL-AT")
    page = open_page("runs", tmp_path, limit="1000")
    root = Path(__file__).parents[2]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), str(results)],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
    )
    errors: list[BaseException] = []

    def read() -> None:
        try:
            while writer.poll() is None:
                queries.runs(Database(tmp_path), limit=1000)
                time.sleep(PAUSE_S)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    seen = []
    while writer.poll() is None:
        page.run()
        assert not page.exception
        assert not page.error
        seen.append(len(page.dataframe[0].value))
    for reader in readers:
        reader.join()
    assert writer.wait() == 0, writer.stderr and writer.stderr.read()
    assert errors == []
    assert seen == sorted(seen)
    assert len(page.run().dataframe[0].value) == results + 1
    assert len(queries.runs(Database(tmp_path), limit=1000)) == results + 1

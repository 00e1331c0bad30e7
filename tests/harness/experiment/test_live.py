"""The file with a run's current progress."""

import json

import pytest
from distilling import TINY

from harness.errors import UserError
from harness.experiment import live
from harness.experiment.live import LiveProgress
from harness.experiment.resolve import resolve
from harness.experiment.runner import run
from harness.progress import Reporter
from harness.store.rundir import RunDirectory


def test_a_running_run_says_what_it_does_and_a_finished_one_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(live, "EVERY_S", 0.0)
    config = resolve("vanilla", options={**TINY, "results": tmp_path, "evaluation.limit": 10})
    path = RunDirectory(tmp_path, config.run_id).progress_path
    seen = []
    write = live.write_json_atomic

    def noted(facts, to) -> None:
        write(facts, to)
        seen.append(json.loads(path.read_text()))

    monkeypatch.setattr(live, "write_json_atomic", noted)
    run(config, Reporter(quiet=True))
    assert not path.exists()
    works = [each["work"] for each in seen]
    assert works == sorted(works, reverse=True), "training comes before evaluation"
    for work in ("training", "evaluation"):
        shares = [each["share"] for each in seen if each["work"] == work]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)
    assert seen[1]["note"].startswith("epoch 1/")


def test_what_is_left_is_estimated_from_what_this_process_did(tmp_path, monkeypatch) -> None:
    directory = RunDirectory.create(tmp_path, "some-run")
    progress = LiveProgress(directory, "training")
    clock = iter([100.0, 101.0, 110.0])
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    progress(0.5, "")
    assert json.loads(directory.progress_path.read_text())["left_s"] is None
    progress(0.51, "too soon to be written")
    progress(0.6, "")
    facts = json.loads(directory.progress_path.read_text())
    assert facts["left_s"] == pytest.approx(10 / 0.1 * 0.4)


def test_progress_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch) -> None:
    calls = []

    def full(*given) -> None:
        calls.append(given)
        raise UserError("no space left")

    monkeypatch.setattr(live, "write_json_atomic", full)
    LiveProgress(RunDirectory.create(tmp_path, "some-run"), "training")(0.1, "")
    assert len(calls) == 1

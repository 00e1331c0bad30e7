"""Full disks, damaged files, clocks that jump, two processes at one run, kills in any write."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from harness.errors import UserError
from harness.store.database import DATABASE_NAME, Database
from harness.store.rundir import RunDirectory, list_runs
from tests.faults.conftest import RUN, Undisturbed, assert_same_result, temporary_files


def one_sentence(ended: dict[str, Any]) -> str:
    """The one error line of a command that was refused."""
    assert ended["code"] == 2, ended["output"]
    assert "Traceback" not in ended["output"]
    (line,) = [line for line in ended["output"].splitlines() if line.startswith("error: ")]
    return line


WRITER = """
import sys
from pathlib import Path
from harness.store.database import Database
from harness.store.rundir import RunDirectory
results, name = Path({results!r}), {name!r}
for number in range(5):
    run = RunDirectory.create(results, f"{{name}}-{{number}}")
    run.update(seed=number)
    for epoch in (1, 2, 3):
        run.append_epoch({{"epoch": epoch, "loss": 1.0}})
    Database(results).record(run)
sys.exit(0)
"""

READER = """
import sys, time
from pathlib import Path
from harness.store.database import Database
database, last, queries = Database(Path({results!r})), 0, 0
while last < 21:
    row = database.query(
        "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM epochs) AS epochs"
    ).iloc[0]
    assert row.runs >= last, "a run was lost"
    assert row.epochs == 3 * (row.runs - 1), "a transaction was seen half done"
    last, queries = row.runs, queries + 1
    time.sleep(0.02)
print(queries)
sys.exit(0)
"""


def test_writers_and_readers_at_the_same_time_lose_nothing(server, tmp_path):
    first = RunDirectory.create(tmp_path, "first")
    first.update()
    database = Database(tmp_path)
    database.record(first)
    names = [f"writer{number}" for number in range(4)]
    scripts = [READER.format(results=str(tmp_path))] * 4
    scripts += [WRITER.format(results=str(tmp_path), name=name) for name in names]
    ended = server.run_all(*({"arguments": [], "prepare": script} for script in scripts))
    for each in ended:
        assert each["code"] == 0, each["output"]
    assert all(int(each["output"]) > 1 for each in ended[:4])
    counts = database.query("SELECT count(*) AS n FROM epochs GROUP BY run_id")
    assert counts["n"].tolist() == [3] * 20


def test_a_second_process_at_a_run_is_refused(server, undisturbed, tmp_path):
    command = {"arguments": [*RUN, "--results", str(tmp_path)]}
    ended = sorted(server.run_all(dict(command), dict(command)), key=lambda each: each["code"])
    assert ended[0]["code"] == 0, ended[0]["output"]
    assert "another process is working on run ikl-" in one_sentence(ended[1])
    assert_same_result(tmp_path, undisturbed)


BACKWARDS = """
import datetime, time
import harness.store.rundir as rundir
steps = iter(range(1, 10**6))
class Backwards(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) - datetime.timedelta(hours=next(steps))
rundir.datetime = Backwards
real = time.time
time.time = lambda: real() - 3600 * next(steps)
"""


def test_after_a_clock_that_jumps_back_no_time_is_negative(server, undisturbed, tmp_path):
    command = [*RUN, "--results", str(tmp_path)]
    half = str(tmp_path / "runs/*/evaluations/*/chunks/00001.parquet")
    server.run(command, prepare=BACKWARDS, until=half)
    server.succeed(command, prepare=BACKWARDS)
    assert_same_result(tmp_path, undisturbed)
    for table in ("runs", "evaluations"):
        times = Database(tmp_path).query(f"SELECT finished_at - started_at AS took FROM {table}")
        assert times["took"].dt.total_seconds().tolist() == [0.0]
    (run,) = list_runs(tmp_path)
    assert run.evaluations()[0].record["wall_s"] > 0
    assert all(record["seconds"] > 0 for record in run.epochs())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_a_user_error_and_leaves_nothing_half_done(server, undisturbed, small_disk):
    command = [*RUN, "--results", str(small_disk)]
    needed = sum(path.stat().st_size for path in undisturbed.results.rglob("*") if path.is_file())
    refused, size = 0, 16
    while (ended := server.run(command))["code"] != 0:
        assert "space" in one_sentence(ended)
        for run in list_runs(small_disk):
            # The rows of a finished run may be missing in the database, but nothing else of it.
            finished = run.record["status"] == "success"
            assert finished or run.record["status"] in ("started", "error")
            assert not finished or run.evaluations()[0].record["status"] == "success"
        assert not temporary_files(small_disk)
        refused, size = refused + 1, size + needed // 1024 // 8
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(small_disk)], check=True)
    assert refused >= 4
    # The disk may have been full again when the database was written, which stops no run.
    subprocess.run(["mount", "-o", "remount,size=1g", str(small_disk)], check=True)
    assert_same_result(small_disk, undisturbed)


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
"""


@pytest.mark.parametrize("limit", [2_000, 200_000])
def test_files_that_may_not_grow_are_a_user_error(limit, server, undisturbed, tmp_path):
    command = [*RUN, "--results", str(tmp_path)]
    line = one_sentence(server.run(command, prepare=LIMITED.format(limit=limit)))
    assert str(tmp_path) in line
    assert not temporary_files(tmp_path)


KILLED_AT_STEP = """
import os, signal
left = {step}
for name in ("fsync", "replace"):
    def stepping(*given, real=getattr(os, name)):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)
    setattr(os, name, stepping)
"""


def test_a_kill_at_any_step_of_a_write_is_repaired_by_the_next_call(server, undisturbed, tmp_path):
    killed, step = 0, 1
    generator = random.Random(5)
    while True:
        results = tmp_path / str(step)
        command = ["db", "merge", str(undisturbed.results), "--results", str(results)]
        ended = server.run(command, prepare=KILLED_AT_STEP.format(step=step))
        if ended["code"] == 0:
            break
        assert ended["code"] == -9, ended["output"]
        killed, step = killed + 1, step + generator.randint(2, 6)
        rebuilt = Database(results).rebuild() if (results / "runs").exists() else None
        assert rebuilt is None or rebuilt.counts["verdicts"] in (0, 16)
        ended = server.succeed(command)
        assert "0 in conflict, 0 left out" in ended["output"]
        assert_same_result(results, undisturbed)
    assert killed >= 6


def test_an_imported_run_is_not_trained_again_under_its_evaluations(server, undisturbed, tmp_path):
    results, folder = ["--results", str(tmp_path / "results")], str(tmp_path / "parquet")
    for words in (
        ["export", "--parquet", folder, "--results", str(undisturbed.results)],
        ["import", folder, *results],
    ):
        server.succeed(["db", *words])
    line = one_sentence(server.run([*RUN, *results]))
    assert "has finished evaluations, but" in line
    assert "db merge" in line
    server.succeed(["show", undisturbed.run.run_id, *results])
    server.succeed(["db", "merge", str(undisturbed.results), *results])
    server.succeed([*RUN, *results])
    assert_same_result(tmp_path / "results", undisturbed)


def two_runs(undisturbed: Undisturbed, results: Path) -> RunDirectory:
    """A copy of the undisturbed run beside another run; the copy."""
    shutil.copytree(undisturbed.results, results)
    RunDirectory.create(results, "other-000000000000").update(dataset="digits", started_at=None)
    return RunDirectory(results, undisturbed.run.run_id)


@pytest.mark.parametrize(("name", "runs"), [("run.json", 1), ("verdicts.parquet", 2)])
def test_a_damaged_file_is_named_and_the_rest_is_usable(name, runs, server, undisturbed, tmp_path):
    results = tmp_path / "results"
    run = two_runs(undisturbed, results)
    (path,) = run.path.rglob(name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\n")
    rebuilt = server.run(["db", "rebuild", "--results", str(results), "--json"])
    assert rebuilt["code"] == 1
    answer = json.loads(rebuilt["output"])
    ((folder, reason),) = answer["unreadable"]
    assert folder == str(path.parent)
    assert name in reason
    assert answer["rows"]["runs"] == runs
    listed = server.run(["list", "runs", "--results", str(results), "--json"])
    assert {row["run"] for row in json.loads(listed["output"])} == {
        run.run_id,
        "other-000000000000",
    }
    path.write_bytes(content)
    assert Database(results).rebuild().unreadable == []


@pytest.mark.parametrize("names", [["verdicts.parquet"], ["evaluation.json"], ["00001.parquet"]])
def test_what_is_damaged_of_an_evaluation_is_made_again(names, server, undisturbed, tmp_path):
    results = tmp_path / "results"
    run = two_runs(undisturbed, results)
    chunks = {path: path.stat().st_mtime_ns for path in run.path.rglob("0*.parquet")}
    for name in {"verdicts.parquet", *names}:
        (path,) = run.path.rglob(name)
        path.write_bytes(path.read_bytes()[:-60])
    ended = server.succeed([*RUN, "--results", str(results)])
    assert "note:" not in ended["output"]
    again = {path.name for path, before in chunks.items() if path.stat().st_mtime_ns != before}
    assert again == {name for name in names if name.startswith("0")}
    shutil.rmtree(results / "runs" / "other-000000000000")
    Database(results).rebuild()
    assert_same_result(results, undisturbed)


HASTY = """
import divergence_bench.cli.evaluate as evaluate, harness.experiment.record as record
evaluate.INDEX_WAIT_S = record.INDEX_WAIT_S = 0.05
"""


def test_a_program_that_holds_the_database_stops_no_run(server, undisturbed, tmp_path):
    other = RunDirectory.create(tmp_path, "other-000000000000")
    other.update(dataset="digits")
    Database(tmp_path).record(other)
    command = [*RUN, "--results", str(tmp_path)]
    with duckdb.connect(str(Database(tmp_path).path), read_only=True):
        ended = server.succeed([*command, "--json"], prepare=HASTY)
        (row,) = json.loads(ended["output"])["rows"]
        assert row["run_ids"] == [undisturbed.run.run_id]
        ended = server.succeed(command, prepare=HASTY)
        (note,) = [line for line in ended["output"].splitlines() if line.startswith("note: ")]
        assert f"{undisturbed.run.run_id} is stored in" in note
        held = f"(PID {os.getpid()}) has held the results database"
        assert held in " ".join(ended["output"].split())
    shown = server.succeed(["show", undisturbed.run.run_id, "--results", str(tmp_path), "--json"])
    assert json.loads(shown["output"])["status"] == "success"
    server.succeed(["report", "--table", "2", "--results", str(tmp_path)])
    shutil.rmtree(other.path)
    assert {"other-000000000000", undisturbed.run.run_id} == set(
        Database(tmp_path).query("SELECT run_id FROM runs")["run_id"]
    )
    Database(tmp_path).rebuild()
    assert_same_result(tmp_path, undisturbed)


def test_a_flipped_bit_in_the_verdicts_is_detected(undisturbed, tmp_path):
    results = tmp_path / "results"
    run = two_runs(undisturbed, results)
    path = run.evaluations()[0].verdicts_path
    content, named = path.read_bytes(), 0
    generator = random.Random(11)
    expected = Database(undisturbed.results).query("SELECT * FROM verdicts ORDER BY ALL")
    for _ in range(15):
        damaged = bytearray(content)
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        rebuilt = Database(results).rebuild()
        named += len(rebuilt.unreadable)
        found = Database(results).query("SELECT * FROM verdicts ORDER BY ALL")
        assert found.equals(expected) if not rebuilt.unreadable else found.empty
    assert named >= 3


def test_a_damaged_database_is_reported_and_rebuilt(undisturbed, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(undisturbed.results, results)
    path = results / DATABASE_NAME
    content, generator, messages = path.read_bytes(), random.Random(13), []
    for _ in range(4):
        damaged = bytearray(content)
        start = generator.randrange(len(damaged) - 4096)
        damaged[start : start + 4096] = generator.randbytes(4096)
        path.write_bytes(damaged)
        try:
            Database(results).tables(["runs", "evaluations", "metrics", "epochs", "verdicts"])
        except UserError as error:
            messages.append(str(error))
        Database(results).rebuild()
        assert_same_result(results, undisturbed)
    assert messages
    assert all("rebuild it from the run directories" in message for message in messages)

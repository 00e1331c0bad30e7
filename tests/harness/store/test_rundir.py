import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.store.rundir import RunDirectory, find_run, list_runs


def test_update_keeps_what_it_does_not_name(tmp_path):
    run = RunDirectory.create(tmp_path, "m-1")
    assert not run.exists
    run.update(seed=1)
    run.update(status="success", dataset="digits")
    assert run.record == {
        "schema_version": 1, "run_id": "m-1", "status": "success", "seed": 1, "dataset": "digits"
    }  # fmt: skip
    assert find_run(tmp_path, "m-1").record == run.record


@pytest.mark.parametrize("name", ["", ".", "../up", "a/b", ".hidden"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match="is not a valid name"):
        RunDirectory(tmp_path, name)
    with pytest.raises(UserError, match="is not a valid name"):
        RunDirectory(tmp_path, "run").evaluation(name)


def test_a_copied_folder_and_a_later_release_are_refused(tmp_path):
    run = RunDirectory.create(tmp_path, "m-1")
    run.update()
    run.path.rename(run.path.with_name("m-2"))
    with pytest.raises(UserError, match="is in the folder of 'm-2'"):
        _ = RunDirectory(tmp_path, "m-2").record
    later = RunDirectory.create(tmp_path, "m-3")
    later.update(schema_version=2)
    with pytest.raises(UserError, match="update divergence-bench"):
        _ = later.record
    later.record_path.write_text("[]")
    with pytest.raises(UserError, match="no JSON object"):
        _ = later.record


def test_epochs_are_cut_at_the_checkpoint(tmp_path):
    run = RunDirectory.create(tmp_path, "m-1")
    run.truncate_epochs(0)
    for epoch in range(1, 6):
        run.append_epoch({"epoch": epoch})
    run.truncate_epochs(3)
    assert [record["epoch"] for record in run.epochs()] == [1, 2, 3]
    run.append_epoch({"epoch": 4})
    assert [record["epoch"] for record in run.epochs()] == [1, 2, 3, 4]


def test_the_log_has_a_line_a_call(tmp_path):
    run = RunDirectory.create(tmp_path, "m-1")
    run.log("first\n")
    run.log("second")
    lines = run.log_path.read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["first", "second"]


def test_a_second_process_is_refused_and_a_dead_one_is_not(tmp_path):
    run = RunDirectory.create(tmp_path, "m-1")
    script = f"""
        from pathlib import Path
        from harness.store.rundir import RunDirectory
        with RunDirectory(Path({str(tmp_path)!r}), "m-1").lock():
            print("locked", flush=True)
            input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="another process is working on run m-1"), run.lock():
            pass
        other.kill()
        other.wait()
    with run.lock():
        pass


def test_waiting_for_the_lock_gets_it(tmp_path):
    run = RunDirectory.create(tmp_path, "m-1")
    order = []

    def second() -> None:
        with RunDirectory(tmp_path, "m-1").lock(wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with run.lock():
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_the_lock_removes_what_dead_processes_left(tmp_path):
    run = RunDirectory.create(tmp_path, "m-1")
    leftover = run.path / "checkpoints" / ".last.pt.123-abcd.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    run.log("kept")
    with run.lock():
        assert not leftover.exists()
        assert run.log_path.exists()


def test_find_run_by_name_prefix_and_folder(tmp_path):
    for run_id in ("a-111", "a-112", "a-11", "b-222"):
        RunDirectory.create(tmp_path, run_id).update()
    RunDirectory.create(tmp_path, "c-333")
    assert [run.run_id for run in list_runs(tmp_path)] == ["a-11", "a-111", "a-112", "b-222"]
    assert find_run(tmp_path, "b").run_id == "b-222"
    assert find_run(tmp_path, "a-11").run_id == "a-11"
    folder = tmp_path / "runs" / "a-112"
    found = find_run(Path("elsewhere"), str(folder))
    assert (found.run_id, found.path) == ("a-112", folder)
    with pytest.raises(UserError, match="matches 3 runs: a-11, a-111, a-112"):
        find_run(tmp_path, "a-")
    with pytest.raises(UserError, match=r"did you mean .*a-111"):
        find_run(tmp_path, "a-1l1")
    with pytest.raises(UserError, match="it holds 4 other runs"):
        find_run(tmp_path, "zzzzzzzz")
    with pytest.raises(UserError, match="it holds no runs"):
        find_run(tmp_path / "empty", "zzzzzzzz")


@pytest.mark.parametrize(
    "name", ["/path/missing.pt", "runs/a-112", "a.pt", "a.PTH", "a.ckpt", "a.safetensors", "a.bin"]
)
def test_a_missing_file_is_reported_as_a_file(tmp_path, name):
    RunDirectory.create(tmp_path, "a-111").update()
    message = f"^there is no file or run '{name}': check the path, or name a run in {tmp_path}$"
    with pytest.raises(UserError, match=message):
        find_run(tmp_path, name)


def test_a_file_in_place_of_a_run_is_refused(tmp_path):
    file = tmp_path / "model.pt"
    file.touch()
    with pytest.raises(UserError, match=r"there is no run '.*model\.pt' in"):
        find_run(tmp_path, str(file))

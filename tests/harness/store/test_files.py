import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from harness.errors import UserError
from harness.store import files


def test_an_exception_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json_atomic({"old": 1}, path)
    with pytest.raises(ZeroDivisionError), files.replacing(path) as handle:
        handle.write(b"half of the n" + bytes(1 // 0))
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failing_serialisation_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    files.write_torch_atomic({"x": torch.arange(3)}, path)
    with pytest.raises(AttributeError):
        files.write_torch_atomic({"y": torch.arange(3), "z": lambda: None}, path)
    assert torch.load(path)["x"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_kill_in_the_middle_leaves_the_old_file_and_no_visible_temporary(tmp_path):
    path = tmp_path / "00000.parquet"
    path.write_bytes(b"old")
    script = f"""
        import os, signal
        from pathlib import Path
        from harness.store.files import replacing
        with replacing(Path({str(path)!r})) as handle:
            handle.write(b"new" * 100000)
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.glob("*.parquet")] == ["00000.parquet"]
    assert len(os.listdir(tmp_path)) == 2
    files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["00000.parquet"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_of_the_system_is_a_user_error(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    path.write_text('"old"')

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, step, refuse)
    with pytest.raises(UserError, match=r"cannot write .*a\.json \(No space left on device\)"):
        files.write_json_atomic("new", path)
    assert path.read_text() == '"old"'
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_line_that_cannot_be_synced_is_a_user_error(tmp_path, monkeypatch):
    path = tmp_path / "epochs.jsonl"
    path.write_text("")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(UserError, match=r"cannot write .*epochs\.jsonl"):
        files.append_jsonl({}, path)


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="make its folder writable"):
        files.write_bytes_atomic(b"", tmp_path / "file" / "below")
    with pytest.raises(UserError, match="make its folder writable"):
        files.append_jsonl({}, tmp_path / "file" / "below")


def test_a_damaged_json_file_is_named(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"a": ')
    with pytest.raises(UserError, match=r"run\.json is not valid JSON"):
        files.read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"run\.json is not valid JSON"):
        files.read_json(path)
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        files.read_json(tmp_path / "none.json")


def test_lines_come_back(tmp_path):
    path = tmp_path / "sub" / "epochs.jsonl"
    assert files.read_jsonl(path) == []
    for number in range(3):
        files.append_jsonl({"epoch": number}, path)
    assert files.read_jsonl(path) == [{"epoch": 0}, {"epoch": 1}, {"epoch": 2}]


@pytest.mark.parametrize("torn", ['{"epoch": 1, "lo', '{"epoch": 1}', '{"epo'])
def test_a_torn_last_line_is_dropped_and_the_next_one_is_complete(tmp_path, torn):
    path = tmp_path / "epochs.jsonl"
    files.append_jsonl({"epoch": 0}, path)
    with open(path, "a") as handle:
        handle.write(torn)
    assert files.read_jsonl(path) == [{"epoch": 0}]
    files.append_jsonl({"epoch": 1}, path)
    assert files.read_jsonl(path) == [{"epoch": 0}, {"epoch": 1}]


def test_a_file_of_one_torn_line_is_empty(tmp_path):
    path = tmp_path / "epochs.jsonl"
    path.write_text('{"epoch')
    assert files.read_jsonl(path) == []
    files.append_jsonl({"epoch": 1}, path)
    assert files.read_jsonl(path) == [{"epoch": 1}]


def test_a_torn_line_elsewhere_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "epochs.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": \n{"epoch": 3}\n')
    with pytest.raises(UserError, match=r"line 2 of .*epochs\.jsonl"):
        files.read_jsonl(path)


def test_numbers_that_json_lacks_come_back(tmp_path):
    path = tmp_path / "a.json"
    files.write_json_atomic({"x": float("inf")}, path)
    assert files.read_json(path) == {"x": float("inf")}
    assert json.loads(path.read_text())["x"] == float("inf")


def test_sha256_is_of_the_bytes(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert files.file_sha256(path).startswith("ba7816bf8f01cfea")
    with pytest.raises(UserError, match="cannot read"):
        files.file_sha256(tmp_path / "b")


def test_a_held_lock_is_refused_with_the_given_message(tmp_path):
    path = tmp_path / "a.lock"
    with (
        files.file_lock(path, wait_s=0, busy="unused"),
        pytest.raises(UserError, match=r"^it is taken$"),
        files.file_lock(path, wait_s=0.05, busy="it is taken"),
    ):
        pass
    with files.file_lock(path, wait_s=0, busy="it is free again"):
        pass

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("called", ["/home/me/harness/__main__.py", "/usr/bin/harness"])
def test_the_command_does_not_show_the_path_of_the_program(monkeypatch, called):
    monkeypatch.setattr(sys, "argv", [called, "run"])
    assert provenance.collect("cpu")["command"] == ["harness", "run"]


def test_what_is_collected_is_json(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["harness", "run", "--api-key", "abc"])
    facts = provenance.collect("cpu")
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["packages"]["torch"] == torch.__version__
    assert set(facts["packages"]) == set(provenance.PACKAGES)
    assert facts["device"].startswith("cpu (")
    assert facts["num_threads"] == torch.get_num_threads()
    assert facts["command"] == ["harness", "run", "--api-key", "***"]
    assert facts["collected_at"].endswith("+00:00")
    assert isinstance(facts["shims"], list)


def test_flags_follow_what_is_set():
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert provenance.collect("cpu")["precision"]["matmul"] == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = False
        assert provenance.collect("cpu")["precision"]["matmul"] == "ieee"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_a_package_that_is_not_installed_is_null(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package-at-all",))
    assert provenance.collect("cpu")["packages"] == {"no-such-package-at-all": None}


def test_commit_and_dirtiness(tmp_path):
    assert provenance.git_state(tmp_path) is None
    git(tmp_path, "init")
    assert provenance.git_state(tmp_path) == {"commit": None, "dirty": False}
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "new.py").write_text("1")
    assert provenance.git_state(tmp_path) == {"commit": commit, "dirty": True}
    (tmp_path / "new.py").unlink()
    (tmp_path / "a.py").write_text("2")
    assert provenance.git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_a_package_inside_another_checkout_has_no_commit(tmp_path):
    git(tmp_path, "init")
    inside = tmp_path / "environment" / "packages"
    inside.mkdir(parents=True)
    assert provenance.git_state(inside) is None


def test_no_git_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(tmp_path) is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--token", "abc", "next"], ["--token", "***", "next"]),
        (["--hf-token=abc"], ["--hf-token=***"]),
        (["--password", "-abc"], ["--password", "***"]),
        (["--password", "--seed", "3"], ["--password", "--seed", "3"]),
        (["WANDB_API_KEY=abc"], ["WANDB_API_KEY=***"]),
        (["--set", "data.secret=1"], ["--set", "data.secret=***"]),
        (["https://me:pw@example.org/x.pt"], ["https://***@example.org/x.pt"]),
        (["https://e.org/x?a=1&sig=zz&b=2"], ["https://e.org/x?a=1&sig=***&b=2"]),
        (["hf_" + "a" * 20], ["***"]),
        (["--author", "me", "--tokens", "5"], ["--author", "me", "--tokens", "5"]),
        (["--set", "training.lr=0.1", "a/b.pt"], ["--set", "training.lr=0.1", "a/b.pt"]),
        (["task-abcdefghijklmnopq", "a" * 64], ["task-abcdefghijklmnopq", "a" * 64]),
    ],
)
def test_credentials_are_masked_and_nothing_else(given, shown):
    assert provenance.without_credentials(given) == shown

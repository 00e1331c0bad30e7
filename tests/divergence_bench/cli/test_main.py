"""The verbs by name, and what a command loads before it answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from divergence_bench.cli.main import VERBS, command
from harness.store.database import Database
from leaderboards.printed import REPORTED_CSV

CALL = """if True:
    import sys
    from divergence_bench.cli.main import main
    try:
        main()
    except SystemExit as ended:
        assert not ended.code
    print(*sys.modules, file=sys.stderr)
"""


def loaded(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that it imports."""
    ended = subprocess.run(
        [sys.executable, "-c", CALL, *arguments], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, set(ended.stderr.splitlines()[-1].split())


def test_the_list_of_verbs_loads_none_of_them() -> None:
    text, modules = loaded("--help")
    _, _, listed = text.partition("Commands:\n")
    assert [line.split()[0] for line in listed.splitlines()] == list(VERBS)
    assert "..." not in listed
    heavy = {"torch", "pandas", "duckdb", "pyarrow", "scipy", "numpy", "pydantic", "methods"}
    assert not modules & heavy


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("list", "runs"), "no runs"),
        (("report", "--table", "2"), "Table 2: "),
        (("sql", "select count(*) from reported"), "1 row"),
    ],
)
def test_results_are_read_without_torch(
    arguments: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    Database(tmp_path).load_reported(REPORTED_CSV)
    printed, modules = loaded(*arguments, "--results", str(tmp_path))
    assert text in printed
    assert not modules & {"torch", "streamlit", "ray"}


def test_a_method_is_shown_without_what_takes_long_to_load() -> None:
    text, modules = loaded("show", "ikl")
    assert "IKL-AT" in text
    assert "torch" in modules
    assert not modules & {"torch._dynamo", "scipy", "streamlit", "ray", "robustbench", "timm"}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_what_it_does(name: str) -> None:
    assert command(name).help


@pytest.mark.parametrize("package", ["harness", "divergence_bench"])
def test_both_packages_are_the_same_command(package: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", package, "list", "rnus"], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: unknown listing 'rnus': did you mean runs?\n"

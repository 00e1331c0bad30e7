"""The verbs by name, and what a command loads before it answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from divergence_bench.cli.main import VERBS, command
from harness.store.database import Database
from leaderboards.printed import REPORTED_CSV

CALL = """if True:
    import json, sys
    from divergence_bench.cli.main import main
    for arguments in json.loads(sys.argv[1]):
        sys.argv = ["harness", *arguments]
        try:
            main()
        except SystemExit as ended:
            assert not ended.code
    print(*sys.modules, file=sys.stderr)
"""


def loaded(*commands: list[str]) -> tuple[str, set[str]]:
    """What the commands print in one new process, and the modules that they import."""
    code = [sys.executable, "-c", CALL, json.dumps(commands)]
    ended = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, set(ended.stderr.splitlines()[-1].split())


def test_the_list_of_verbs_loads_none_of_them() -> None:
    text, modules = loaded(["--help"])
    _, _, listed = text.partition("Commands:\n")
    assert [line.split()[0] for line in listed.splitlines()] == list(VERBS)
    assert "..." not in listed
    heavy = {"torch", "pandas", "duckdb", "pyarrow", "scipy", "numpy", "pydantic", "methods"}
    assert not modules & heavy


def test_results_are_read_without_torch(tmp_path: Path) -> None:
    Database(tmp_path).load_reported(REPORTED_CSV)
    query = ["sql", "select count(*) from reported"]
    commands = [["list", "runs"], ["report", "--table", "2"], query]
    printed, modules = loaded(*([*each, "--results", str(tmp_path)] for each in commands))
    assert all(text in printed for text in ("no runs", "Table 2: ", "1 row"))
    assert not modules & {"torch", "streamlit", "ray"}


def test_a_method_is_shown_without_what_takes_long_to_load() -> None:
    text, modules = loaded(["show", "ikl"])
    assert "IKL-AT" in text
    assert "torch" in modules
    assert not modules & {"torch._dynamo", "scipy", "streamlit", "ray", "robustbench", "timm"}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_what_it_does(name: str) -> None:
    assert command(name).help


def test_the_installed_package_is_the_same_command() -> None:
    command = [sys.executable, "-m", "divergence_bench", "list", "rnus"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: unknown listing 'rnus': did you mean runs?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--method", "tradse"], "unknown method 'tradse': did you mean trades"),
        (["run", "--method", "trades", "--recipe", "digit"], "did you mean digits"),
        (["run"], "give --method, or a --recipe"),
        (["run", "--recipe", "table2/ikl-a20-b5"], "or table2/ikl-a20-b4"),
        (["run", "--recipe", "digits"], "methods have a recipe 'digits', acat, at-awp"),
        (["run", "--method", "trades", "--dataset", "cifr10"], "did you mean cifar10"),
        (["run", "--method", "trades", "--arch", "resnet21"], "unknown architecture 'resnet21'"),
        (["run", "--method", "trades", "--eps=-1"], "no radius"),
        (["run", "--method", "trades", "--eps", ""], "no radius"),
        (["run", "--method", "trades", "--eps", "0.1", "--set", "evaluation.eps=0.2"], "leave one"),
        (["run", "--method", "trades", "--seed", str(2**63)], f"at most {2**63 - 1}"),
        (["run", "--method", "trades", "--train-limit", "2000"], "has 1437 images"),
        (["run", "--method", "trades", "--eps", "300/255"], "evaluation.eps"),
        (["run", "--method", "trades", "--eval-limit", "361"], "digits test has 360 images"),
        (
            ["run", "--method", "trades", "--set", "training.epoch=3"],
            "did you mean training.epochs",
        ),
        (["run", "--method", "trades", "--device", "tpu9"], "device"),
        (
            ["run", "--method", "trades", "--dataset", "cifar10", "--data-root", "/no/such"],
            "/no/such",
        ),
        (["evaluate", "no-such-run"], "no-such-run"),
        (["evaluate", "timm:no_such_model", "--dataset", "digits"], "no_such_model"),
        (["list", "method"], "did you mean methods"),
        (["show", "no-such-run"], "no-such-run"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    refused, arguments: list[str], message: str, tmp_path: Path
) -> None:
    assert message in refused(*arguments, "--results", str(tmp_path))
    statuses = [path.read_text() for path in tmp_path.rglob("run.json")]
    assert not any('"success"' in status for status in statuses)

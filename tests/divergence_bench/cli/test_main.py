"""The verbs by name, and what a command loads before it answers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from divergence_bench.cli import completion
from divergence_bench.cli.main import VERBS, command
from divergence_bench.cli.reference import commands
from harness import __version__
from harness.store.database import Database
from leaderboards import build
from leaderboards.printed import REPORTED_CSV
from leaderboards.render import report

CALL = """if True:
    import json, os, sys
    from divergence_bench.cli.main import main
    for arguments in json.loads(sys.argv[1]):
        sys.argv = ["harness", *arguments]
        os.environ["COLUMNS"] = "80"
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
    _, _, listed = text.partition("─ Commands ─")
    verbs = [line.split()[1] for line in listed.splitlines() if re.match("│ [a-z]", line)]
    assert verbs == list(VERBS)
    heavy = {"torch", "pandas", "duckdb", "pyarrow", "scipy", "numpy", "pydantic", "methods"}
    assert not modules & heavy


def test_the_help_of_every_verb_is_shown_without_what_takes_long_to_load() -> None:
    text, modules = loaded(*([*name.split(), "--help"] for name, _ in commands()))
    assert text.count("Usage: ") == len(list(commands()))
    assert not modules & {"torch", "pandas", "scipy", "streamlit", "ray", "timm", "robustbench"}
    assert max(map(len, text.splitlines())) <= 80


def test_every_option_of_a_verb_is_in_a_panel_with_a_meaning() -> None:
    for name, found in commands():
        options = [each for each in found.params if each.param_type_name == "option"]
        assert all(each.help for each in options)
        loose = {each.opts[0] for each in options if each.rich_help_panel is None}
        assert loose <= {"--json", "--csv", "--quiet", "--help"}, name


def test_results_are_read_without_torch(tmp_path: Path) -> None:
    Database(tmp_path).load_reported(REPORTED_CSV)
    query = ["sql", "select count(*) from reported"]
    commands = [["list", "runs"], ["report", "--table", "2"], query]
    printed, modules = loaded(*([*each, "--results", str(tmp_path)] for each in commands))
    assert all(text in printed for text in ("no runs", "Table 2: ", "1 row"))
    assert not modules & {"torch", "scipy.stats", "streamlit", "ray"}


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
        (["run", "--recipe", "digits"], "methods have a recipe 'digits' ("),
        (["run", "--method", "trades", "--dataset", "cifr10"], "did you mean cifar10"),
        (["run", "--method", "trades", "--arch", "resnet21"], "unknown architecture 'resnet21'"),
        (["run", "--method", "trades", "--eps=-1"], "not a radius"),
        (["run", "--method", "trades", "--eps", ""], "not a radius"),
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
        (["show", "IKL"], "no method or run 'IKL': did you mean ikl?"),
        (["run", "--method", "IKL"], "unknown method 'IKL': did you mean ikl?"),
        (["run", "--method", "ik1"], "did you mean ikl"),
        (["run", "--method", "kd", "--arch", "ResNet20"], "did you mean resnet20?"),
        (["run", "--method", "kl", "--attacks", "apgd_ce"], "did you mean apgd-ce"),
        (["run", "--method", "kl", "--norm", "linf"], "did you mean Linf?"),
        (["list", "runs", "--method", "IKL"], "did you mean ikl?"),
        (["compare", "--method-a", "IKL", "--method-b", "kl"], "did you mean ikl?"),
        (["db", "rebiuld"], "unknown command 'rebiuld': did you mean rebuild?"),
        (["show", "no-such-run"], "no-such-run"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    refused, arguments: list[str], message: str, tmp_path: Path
) -> None:
    assert message in refused(*arguments, "--results", str(tmp_path))
    statuses = [path.read_text() for path in tmp_path.rglob("run.json")]
    assert not any('"success"' in status for status in statuses)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Run"], "unknown command 'Run': did you mean run?"),
        (["run", "--epochs", "x"], "invalid value for '--epochs'"),
        (["run", "--method"], "'--method' requires an argument"),
        (["run", "--epoch", "3"], "--epochs"),
        (["decide", "a", "b", "--n-max", "0"], "invalid value for '--n-max'"),
        (["decide", "a:b", "a:c", "--dataset", "digits", "--alpha", "0"], "alpha is 0, not a"),
        (["evaluate"], "missing argument 'source'"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_too(
    refused, arguments: list[str], message: str
) -> None:
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--table", "2", "--out", "x"],
        ["report", "--all", "--out", "x", "--table", "2"],
        ["report", "--all", "--out", "x", "--format", "csv"],
        ["report", "--table", "2", "--json", "--format", "csv"],
        ["report", "--table", "2", "--printed-only", "--results", "."],
        ["compare", "a", "b", "--dataset", "digits"],
        ["list", "runs", "--table", "2"],
        ["list", "datasets", "--method", "ikl"],
        ["list", "recipes", "--zoo"],
        ["list", "methods", "--results", "."],
        ["show", "ikl", "--evaluation", "a"],
        ["show", "ikl", "--results", "."],
        ["sql", "--schema", "--results", "."],
        ["sql", "select 1", "--json", "--csv"],
        ["run", "--method", "kl", "--workers", "2", "--cluster", "local"],
        ["evaluate", "x.pt", "--dataset", "digits", "--workers", "2", "--cluster", "local"],
    ],
)
def test_an_option_without_effect_is_refused(refused, arguments: list[str]) -> None:
    assert re.search(r"--[a-z-]+ has no effect ", refused(*arguments))


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WORLD_SIZE", "two"), ("WORLD_SIZE", "0"), ("RANK", "x"), ("LOCAL_RANK", "-1")],
)
def test_a_process_number_that_is_none_is_refused(
    refused, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    message = f"error: the environment variable {variable} is {value!r}, not a number from "
    assert refused("run", "--method", "kl").startswith(message)


READING = [
    "list runs", "show x", "compare x y", "report --table 2", "sql select", "app", "corrupt x",
    "db rebuild", "db export --parquet x", "db delete x", "export-adversarial x --out x",
    "leaderboards export robustbench x --out x", "export x",
]  # fmt: skip


@pytest.mark.parametrize("command", READING)
def test_a_command_that_reads_refuses_a_mistyped_folder_and_does_not_make_it(
    refused, command: str, tmp_path: Path
) -> None:
    folder = tmp_path / "reslts"
    line = refused(*command.split(), "--results", str(folder))
    assert line == f"error: there is no results folder {folder}: check --results"
    assert not folder.exists()


def test_the_version_is_printed(call) -> None:
    assert call("--version").out == f"divergence-bench {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("r", {"run", "report"}),
        ("run --method tra", {"trades", "trades-awp"}),
        ("time --methods kd,rk", {"kd,rkd"}),
        ("run --dataset cifar", {"cifar10", "cifar100"}),
        ("run --arch vgg", {"vgg8", "vgg13"}),
        ("evaluate x --attacks apgd-", {"apgd-ce", "apgd-t"}),
        ("report --table field-", {"field-cifar10", "field-cifar100"}),
        ("report --format b", {"bibtex"}),
        ("list recipes --table ", set("123456789")),
        ("list d", {"datasets"}),
        ("show --results RESULTS my", {"my-run"}),
        ("db d", {"delete"}),
    ],
)
def test_a_shell_completes_names_without_torch(
    typed: str, expected: set[str], tmp_path: Path
) -> None:
    (tmp_path / "runs" / "my-run").mkdir(parents=True)
    line = f"divergence-bench {typed.replace('RESULTS', str(tmp_path))}"
    asked = {"_DIVERGENCE_BENCH_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    code = COMPLETE.replace("PLACE", str(tmp_path / "modules"))
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert set(re.findall(r'^[^"\n]*"([^"]+)"', ended.stdout, re.MULTILINE)) == expected
    assert not {"torch", "pandas"} & set((tmp_path / "modules").read_text().split())


COMPLETE = """if True:
    import atexit, sys
    from pathlib import Path
    from divergence_bench.cli.main import main
    atexit.register(lambda: Path("PLACE").write_text(" ".join(sys.modules)))
    sys.argv = ["divergence-bench"]
    main()
"""


def test_what_completes_without_import_is_what_there_is() -> None:
    assert completion.REPORT_FORMATS == report.FORMATS
    assert all(build.named(name) for name in completion.REPORTS)
    assert len(completion.REPORTS) == len(build.TABLES) + len(build.FIELDS) + 1
    assert completion.TABLES == tuple(map(str, build.TABLES))


def test_completion_is_installed_for_the_command_that_shells_know(refused) -> None:
    assert "call `divergence-bench --show-completion`" in refused("--show-completion")

"""Command lines of random options and values: status 0, 1 or 2, never a traceback, never a hang."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from forking import ForkServer
from fuzzing import HANGS_S, assert_ends_well, tries
from hypothesis import given
from hypothesis import strategies as st

from divergence_bench.cli.main import VERBS, command

pytestmark = pytest.mark.fuzz

# What ends every call of a verb that computes, so that it computes little.
SHORT = {
    "run": ["--epochs", "1", "--train-limit", "48", "--batch-size", "24", "--eval-limit", "4",
            "--attacks", "apgd-ce", "--workers", "1"],
    "evaluate": ["--eval-limit", "4", "--attacks", "apgd-ce", "--workers", "1"],
    "sweep": ["--dry-run"],
    "time": ["--repeats", "1", "--warmup", "0", "--batch-size", "2"],
    # Its runs take a minute.
    "check": ["--baseline", "missing.json"],
}  # fmt: skip
# What begins every call of a verb that does nothing without it; a later option of that name counts.
NEEDED = {"run": ["--method", "vanilla"], "report": ["--table", "1"]}
# It serves until it is stopped.
LEFT_OUT = ("app",)

WORDS = (
    "kl", "kll", "ikl,trades", "kd", "digits", "imagenet", "Digits", "resnet8", "table1/kl",
    "table1/*", "A", "runs", "methods", "datasets", "models", "recipes", "cpu", "cuda", "cuda:99",
    "mps", "meta", "Linf", "L2", "l2", "8/255", "0,2/255", "1e308", "-1", "nan", "apgd-ce",
    "apgd-ce,apgd-ce", "all", "standard", "none", "fog,snow", "1,2", "small", "float32", "json",
    "terminal", "html", "select 1", "SELECT * FROM runs", "drop table runs", "resnet56-resnet20",
    "cpus=1", "127.0.0.1:1", "timm:resnet18d", "json:dumps", "robustbench:Nope", "0.5;0.5",
    "dataset", "", " ", "-", "--", "é", "[/red]", "[bold", "%s", "{x}", "\\", "'", '"',
    "\x1b[31m", "\u202e", "\n", "a" * 300, "../x", "x/y/z", "*", "~", "0", "1", "3",
    "99999999999999999999", "1e5", "None", "true",
)  # fmt: skip
SETTINGS = (
    "training.epochs=1", "training.epochs=0", "training=5", "training.attack=null", "params=[]",
    "x=1", "params.x=1", "seed=-1", "seed=1e3", "data.name=cifar", "data.name=5",
    "data.val_size=10000", "=", "a", "a=", "=1", "evaluation.eps=[]", "evaluation.attacks=square",
    "eps=0.1", "method=kl", "a.b=1", "evaluation.budget.n_iter=2", "evaluation.budget={}",
    "evaluation.chunk_size=1", "model.arch=vgg8", "training.batchnorm_replicas=24",
    "training.optimizer.lr=Infinity", "teacher=1", "teacher.arch=x",
    "training.selection.rule=best-on-val", "training.precision=bf16", "device=meta", "results=x",
    "evaluation.norm=L2", "data.generated_fraction=0.5", "training.optimizer.milestones=[0,-1]",
    "evaluation.precision=bf16", "data.crop_padding=1000", "data.rotation=180",
)  # fmt: skip
# Relative to a folder of their own: nothing outside it is named.
PATHS = (
    "file.txt", "folder", "missing", "missing/deep", "", ".", "folder/inner", "loop", "results",
)  # fmt: skip
# Values that a parameter of that name takes, so that not all lines are refused at once.
SENSIBLE = {
    "run": ("A",), "runs": ("A",), "source": ("A", "timm:resnet18d"), "name": ("A", "kl"),
    "kind": ("runs", "methods", "datasets", "models", "recipes"), "table": ("1", "3", "9"),
    "method": ("vanilla",), "methods": ("vanilla,kl",), "recipe": ("digits",),
    "dataset": ("digits",), "arch": ("resnet8",), "seed": ("0", "3"), "seeds": ("1", "2"),
    "eps": ("0", "0.1", "0,0.1"), "norm": ("Linf",), "device": ("cpu",), "results": ("results",),
    "statement": ("SELECT * FROM runs", "SELECT 1 AS a, 1/0 AS b"), "limit": ("1", "5"),
    "format_": ("markdown", "latex", "csv", "html", "json"), "out": ("folder/new",),
    "parquet": ("folder/new",), "other": ("results", "folder"), "folder": ("folder",),
    "set_": SETTINGS[:1], "pair": ("resnet20-resnet8",), "file": ("file.txt",),
}  # fmt: skip
PLACES = "baseline data_root file folder generated keep other out parquet results weights".split()


def commands() -> list[tuple[tuple[str, ...], Any]]:
    """Every verb with its subcommands: the words that call it, and its options."""

    def below(words: tuple[str, ...], found: Any) -> list[tuple[tuple[str, ...], Any]]:
        if not hasattr(found, "commands"):
            return [(words, found)]
        return [
            leaf for name, each in found.commands.items() for leaf in below((*words, name), each)
        ]

    verbs = [verb for verb in VERBS if verb not in LEFT_OUT]
    return [leaf for verb in verbs for leaf in below((verb,), command(verb))]


COMMANDS = commands()


def values(parameter: Any, usual: bool) -> st.SearchStrategy[str]:
    pool = PATHS if parameter.name in PLACES else WORDS
    pool = SETTINGS if parameter.name == "set_" else pool
    return st.sampled_from(SENSIBLE.get(parameter.name, pool) if usual else pool)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    words, found = draw(st.sampled_from(COMMANDS))
    arguments, usual = [*words, *NEEDED.get(words[0], [])], draw(st.booleans())
    for parameter in found.params:
        if parameter.param_type_name == "argument":
            count = draw(st.integers(1, 3 if parameter.nargs == -1 else 1))
            arguments += [draw(values(parameter, usual)) for _ in range(count)]
    options = [each for each in found.params if each.param_type_name == "option"]
    if usual:
        options = [each for each in options if each.is_flag or each.name in SENSIBLE]
    chosen = draw(st.lists(st.sampled_from(options), max_size=4)) if options else []
    for option in chosen:
        arguments.append(draw(st.sampled_from(option.opts)))
        if not option.is_flag:
            arguments.append(draw(values(option, usual or draw(st.booleans()))))
    if draw(st.integers(0, 9)) == 0:
        arguments.insert(draw(st.integers(0, len(arguments))), draw(st.sampled_from(WORDS)))
    return [*arguments, *SHORT.get(words[0], [])]


@pytest.fixture(scope="module")
def place(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that commands are called in, with a finished run."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "folder" / "inner").mkdir(parents=True)
    (folder / "file.txt").write_text("methods: [kl]\n")
    (folder / "loop").symlink_to("loop")
    run = ["run", "--method", "vanilla", *SHORT["run"], "--results", str(folder / "results")]
    server.succeed(run)
    return folder


@given(arguments=lines())
@tries(300, shrink=False)
def test_command_lines(server, place, tmp_path_factory, tally, arguments) -> None:
    copy = tmp_path_factory.mktemp("copy") / "place"
    shutil.copytree(place, copy, symlinks=True)
    (run,) = (copy / "results" / "runs").iterdir()
    ended = server.run(
        [run.name if word == "A" else word for word in arguments],
        prepare=f"import os; os.chdir({str(copy)!r})",
        delay=HANGS_S,
        group=True,
    )
    verb = next((word for word in arguments if word in VERBS), "none")
    tally[f"command lines, {verb}"][assert_ends_well(ended)] += 1
    shutil.rmtree(copy.parent)

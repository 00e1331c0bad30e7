"""The layers of the code: which packages and folders may import which, and their size limits."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A place is a package or a folder of harness; "harness" stands for the modules in its root. Besides
# itself, a place may import the listed places, and single modules given by dotted names.
GROUND = {"harness", "harness/store", "harness/distributed"}
MODELS = GROUND | {"harness/data", "harness/models"}
GUARDS = {"harness.evaluation.guards"}
EVALUATION = {f"harness/evaluation{part}" for part in ("", "/speed", "/attack", "/analysis")}
ENGINE = MODELS | EVALUATION | {"harness/training", "harness/experiment"}
MAY_IMPORT = {
    "harness": set(),
    "harness/store": {"harness"},
    "harness/distributed": {"harness"},
    "harness/data": GROUND,
    "harness/models": MODELS,
    "harness/evaluation/speed": MODELS | GUARDS,
    "harness/evaluation/attack": MODELS | GUARDS | {"harness/evaluation/speed"},
    "harness/evaluation/analysis": GROUND | {"harness/data"},
    "harness/evaluation": MODELS | EVALUATION,
    "harness/training": MODELS,
    "harness/experiment": ENGINE,
    "methods": ENGINE,
    "leaderboards": {
        "harness.config",
        "harness.errors",
        "harness.registry",
        "harness/store",
        "harness/evaluation/analysis",
    },
    "app": ENGINE | {"leaderboards", "methods"},
    "divergence_bench": ENGINE | {"leaderboards", "methods", "app"},
    "benchmarks": ENGINE | {"leaderboards", "methods", "app", "divergence_bench"},
}
# The command `python -m harness`, and the batch class, which methods and data share.
EXCEPTIONS = {
    ("harness/__main__.py", "divergence_bench.cli.main"),
    ("harness/method.py", "harness.data.batch"),
}


def place_of(module: str) -> str | None:
    """The place of a module with this dotted name; None if it is not part of the project."""
    parts = module.split(".")
    places = ("/".join(parts[:length]) for length in (3, 2, 1))
    return next((place for place in places if place in MAY_IMPORT), None)


def imported_modules(path: Path, root: Path) -> Iterator[str]:
    """Dotted names of imports; a name imported from a package may be one of its modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(root).parts[: -node.level] if node.level else ()
            module = [*package, *filter(None, [node.module])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def wrong_imports(root: Path) -> list[str]:
    """Every import in the tree that violates the layers."""
    wrong = []
    for path in sorted(path for package in MAY_IMPORT for path in (root / package).glob("**/*.py")):
        file = path.relative_to(root).as_posix()
        here = place_of(".".join(path.relative_to(root).with_suffix("").parts))
        for module in imported_modules(path, root):
            there = place_of(module)
            allowed = MAY_IMPORT[here or ""] | {here, None}
            names = {name for name in (module, module.rpartition(".")[0]) if "." in name}
            exception = {(file, name) for name in names} & EXCEPTIONS
            if not (there in allowed or names & allowed or exception):
                wrong.append(f"{file} imports {module}")
    return list(dict.fromkeys(wrong))


def test_imports_follow_the_layers():
    assert not wrong_imports(ROOT)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("harness/errors.py", "from harness import data"),
        ("harness/config.py", "from harness.data.batch import Batch"),
        ("harness/store/files.py", "import harness.models.loading"),
        ("harness/data/loader.py", "from harness.models import build_model"),
        ("harness/models/zoos.py", "def load():\n    from harness.training.build import new_model"),
        ("harness/training/loop.py", "from harness.evaluation.clean import clean_accuracy"),
        ("harness/data/loader.py", "from ..models import build_model"),
        ("harness/data/loader.py", "from .. import training"),
        ("harness/evaluation/driver.py", "from harness.training.monitor import monitor_accuracy"),
        ("harness/evaluation/attack/job.py", "from harness.evaluation.driver import evaluate"),
        ("harness/evaluation/attack/job.py", "from harness.evaluation.analysis import flags"),
        ("harness/evaluation/analysis/flags.py", "from harness.evaluation.attack.job import Job"),
        ("harness/evaluation/speed/plan.py", "from harness.evaluation.attack.job import Job"),
        ("harness/experiment/runner.py", "from methods.losses import ikl_loss"),
        ("methods/kd.py", "from leaderboards.fill import fill"),
        ("leaderboards/results.py", "from harness.experiment.resolve import resolve"),
        ("leaderboards/results.py", "from harness.method import Method"),
        ("app/queries.py", "import divergence_bench"),
    ],
)
def test_a_wrong_import_is_found(file, line, tmp_path):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"import json\nfrom harness.errors import UserError\n{line}\n")
    (found,) = wrong_imports(tmp_path)
    assert found.startswith(f"{file} imports ")


def test_folders_and_files_stay_small():
    files = [path for package in MAY_IMPORT for path in (ROOT / package).glob("*.py")]
    assert len(list((ROOT / "harness").glob("*.py"))) <= 10
    for folder in {path.parent for path in files if path.is_relative_to(ROOT / "harness")}:
        assert len(list(folder.glob("*.py"))) <= 14, folder
    for package in {place.split("/")[0] for place in MAY_IMPORT}:
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_the_engine_names_no_method_and_no_table():
    methods = {
        path.stem.replace("_", "-")
        for path in (ROOT / "methods").rglob("*.py")
        if not path.stem.startswith("_") and path.parent.name != "losses"
    }
    methods.remove("ab")  # also a mode of a file
    tables = {f"table{number}" for number in range(1, 10)}
    for path in (ROOT / "harness").rglob("*.py"):
        texts = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not methods & texts, f"{path.relative_to(ROOT)} names {methods & texts}"
        named = {text for text in texts if text.split("/")[0] in tables}
        assert not named, f"{path.relative_to(ROOT)} names {named}"


def test_the_map_in_the_contributors_guide_names_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (`[\w`/, ]+/`) \| (.+?) \|", text, re.MULTILINE)
    assert len(rows) >= 8
    for folders, contents in rows:
        places = [ROOT / folder for folder in re.findall(r"`(.+?)`", folders)]
        for name in re.findall(r"`(.+?)`", contents):
            found = [place / end for place in places for end in (name, f"{name}.py")]
            assert any(path.exists() for path in found), (folders, name)
    for path in re.findall(r"`(\w+(?:/\w+)+\.py)`", text):
        assert (ROOT / path).exists() or path.endswith("my_loss.py"), path

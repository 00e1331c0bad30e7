"""Imports point one way: divergence_bench -> app -> leaderboards -> harness, methods -> harness."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "harness": {"harness"},
    "methods": {"methods", "harness"},
    "leaderboards": {"leaderboards", "harness"},
    "app": {"app", "leaderboards", "harness", "methods"},
    "divergence_bench": {"divergence_bench", "app", "leaderboards", "harness", "methods"},
    "benchmarks": {"benchmarks", "divergence_bench", "harness", "methods", "leaderboards", "app"},
}


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = {name for name in imported_modules(path) if name.split(".")[0] in MAY_IMPORT}
        wrong = {name for name in ours if name.split(".")[0] not in MAY_IMPORT[package]}
        if path == ROOT / "harness" / "__main__.py":
            wrong -= {"divergence_bench.cli.main"}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_leaderboards_read_the_harness_only_through_its_store() -> None:
    for path in (ROOT / "leaderboards").rglob("*.py"):
        ours = {name for name in imported_modules(path) if name.split(".")[0] == "harness"}
        allowed = (
            "harness.config",
            "harness.store",
            "harness.errors",
            "harness.evaluation.analysis",
        )
        wrong = {name for name in ours if not name.startswith(allowed)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_engine_names_no_method() -> None:
    methods = {
        path.stem
        for path in (ROOT / "methods").rglob("*.py")
        if not path.stem.startswith("_") and path.parent.name != "losses"
    }
    for path in (ROOT / "harness").rglob("*.py"):
        constants = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        named = {name for name in methods for text in constants if text.replace("-", "_") == name}
        assert not named, f"{path.relative_to(ROOT)} names {named}"

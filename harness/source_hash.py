"""Hashes of source code: of modules, and of classes and functions with everything they use."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any


def source_sha256(*modules: str) -> str:
    """The SHA-256 of imported modules' files and of the modules they use from the same package.

    It identifies code more exactly than a version does. Other packages are not included.
    """
    found: dict[str, bytes] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if module is None or name in found or path is None:
            continue
        found[name] = Path(path).read_bytes()
        used = {getattr(value, "__module__", None) for value in vars(module).values()}
        used |= {value.__name__ for value in vars(module).values() if isinstance(value, ModuleType)}
        used |= _homes_of_constants(module, found[name])
        todo += [str(other) for other in used if str(other).split(".")[0] == name.split(".")[0]]
    digest = hashlib.sha256()
    for name, content in sorted(found.items()):
        digest.update(f"{name}|{len(content)}|".encode() + content)
    return digest.hexdigest()


def _homes_of_constants(module: ModuleType, content: bytes) -> set[str]:
    """The modules from which a module imports values without a ``__module__``."""
    return {
        home
        for node in ast.walk(ast.parse(content))
        if isinstance(node, ast.ImportFrom)
        for home in [_imported_from(node, module)]
        for alias in node.names
        if not hasattr(getattr(sys.modules.get(home), alias.name, None), "__module__")
    }


def _imported_from(node: ast.ImportFrom, module: ModuleType) -> str:
    """The absolute name of the module of a ``from ... import``."""
    if not node.level:
        return node.module or ""
    package = str(module.__package__).split(".")
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def code_sha256(objects: Iterable[Any]) -> str:
    """The SHA-256 of the source of classes and functions and of everything they use by name.

    Names in the source are followed to other classes and functions, and to constants, whose values
    are hashed. The standard library, installed packages and this package are left out.
    """
    texts: dict[str, None] = {}
    todo, seen = list(objects), set()
    while todo:
        value = todo.pop()
        if isinstance(value, functools.partial):
            todo += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, MethodType):
            todo.append(value.__func__)
        elif _is_code(value) and id(value) not in seen and not _is_installed(value.__module__):
            seen.add(id(value))
            source = _source(value)
            texts[source] = None
            for name, used in _used_by(value, source).items():
                if _is_plain(used):
                    texts[f"{name} = {used!r}"] = None
                else:
                    todo.append(used)
    digest = hashlib.sha256()
    for text in sorted(texts):
        digest.update(text.encode())
    return digest.hexdigest()


def _is_code(value: Any) -> bool:
    return isinstance(value, type | FunctionType)


def _is_plain(value: Any) -> bool:
    """Whether a value consists of numbers and text only, so that its ``repr`` identifies it."""
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _is_installed(module: str | None) -> bool:
    """Whether a module belongs to the standard library, an installed package or this package."""
    name = str(module)
    path = getattr(sys.modules.get(name), "__file__", None)
    if name.split(".")[0] in ("harness", "divergence_bench", "torch", "builtins"):
        return True
    folders = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return path is not None and any(Path(path).is_relative_to(folder) for folder in folders)


def _source(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # defined without a file, for example by exec
        return str(value.__qualname__)


def _used_by(value: Any, source: str) -> dict[str, Any]:
    """The values of the names in a source: globals, closure variables, module attributes."""
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:  # a part of an expression, such as a lambda in a call
        tree = ast.Module([], [])
    known = dict(vars(sys.modules.get(value.__module__, sys)))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom) and value.__module__ in sys.modules:
            home = sys.modules.get(_imported_from(node, sys.modules[value.__module__]))
            known |= {a.asname or a.name: getattr(home, a.name, None) for a in node.names}
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = known.get(node.value.id)
            if isinstance(owner, ModuleType) and not _is_installed(owner.__name__):
                known[f"{node.value.id}.{node.attr}"] = getattr(owner, node.attr, None)
                names.add(f"{node.value.id}.{node.attr}")
    if isinstance(value, FunctionType):
        names |= set(value.__code__.co_names)
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            names.add(name)
            with contextlib.suppress(ValueError):  # a variable that has no value yet
                known[name] = cell.cell_contents
    return {name: known[name] for name in sorted(names) if name in known}

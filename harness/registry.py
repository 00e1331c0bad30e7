"""Typed registries whose entries are imported only when they are used.

An entry is a lazy target, ``"module:attribute"``. A registry may also discover one entry per file
in given packages (file ``my_loss.py`` is entry ``my-loss``), and entries that other distributions
declare under an entry-point group. Listing names imports no entry.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from harness.errors import UserError, first_line

if TYPE_CHECKING:
    from harness.method import Method

T = TypeVar("T")


class Registry(Generic[T]):
    """Names mapped to lazily imported objects of one kind.

    Args:
        kind: what an entry is, in the singular, for messages ("method").
        targets: entries known from the start, name to ``"module:attribute"``.
        packages: packages in which every module not starting with ``_`` is an entry.
        attribute: the attribute of a discovered module that holds its entry.
        entry_points: entry-point group through which other distributions add entries.
        members: attributes that every entry must have.
    """

    def __init__(
        self,
        kind: str,
        *,
        targets: Mapping[str, str] | None = None,
        packages: Sequence[str] = (),
        attribute: str = "",
        entry_points: str | None = None,
        members: Sequence[str] = (),
    ) -> None:
        """See the class."""
        self.kind = kind
        self._registered: dict[str, str | T] = dict(targets or {})
        self._packages = tuple(packages)
        self._attribute = attribute
        self._entry_points = entry_points
        self._members = tuple(members)

    def register(self, name: str, entry: str | T) -> None:
        """Add an entry, or a target that is imported when it is needed.

        Raises:
            UserError: the name is taken.
        """
        if name in self._targets:
            raise UserError(f"{self.kind} {name!r} exists already: choose another name")
        self._registered[name] = entry
        del self._targets

    @contextmanager
    def temporarily(self, name: str, entry: str | T) -> Iterator[None]:
        """Like ``register``, but only inside a ``with`` block."""
        self.register(name, entry)
        try:
            yield
        finally:
            del self._registered[name]
            self.__dict__.pop("_targets", None)

    def names(self) -> list[str]:
        """All names, sorted, without importing any entry.

        Raises:
            UserError: two entries have one name (the message names their files).
        """
        return sorted(self._targets)

    def __contains__(self, name: str) -> bool:
        """Whether the name is registered."""
        return name in self._targets

    def get(self, name: str) -> T:
        """The entry with that name.

        Raises:
            UserError: no entry has the name (the message lists the nearest ones), or the entry
                cannot be imported or is of the wrong type (the message names its file).
        """
        target = self._targets.get(name)
        if target is None:
            raise UserError(unknown_name(self.kind, name, self.names()))
        if not isinstance(target, str):
            return target
        module_name, _, attribute = target.partition(":")
        try:
            entry = getattr(importlib.import_module(module_name), attribute)
            self._check(attribute, entry)
            return cast(T, entry)
        except UserError:
            raise
        except Exception as error:  # a user's file can raise anything
            raise UserError(
                f"{self.kind} {name!r} cannot be loaded from {file_of(module_name)} "
                f"({first_line(error)}): fix or remove that file"
            ) from error

    def load_all(self) -> tuple[dict[str, T], dict[str, str]]:
        """The entries by name, and the error message of each entry that cannot be loaded."""
        loaded, broken = {}, {}
        for name in self.names():
            try:
                loaded[name] = self.get(name)
            except UserError as error:
                broken[name] = str(error)
        return loaded, broken

    def _check(self, attribute: str, entry: object) -> None:
        missing = [each for each in self._members if not hasattr(entry, each)]
        if missing:
            kind = type(entry).__name__
            raise TypeError(f"{attribute} is of type {kind}, without {', '.join(missing)}")

    @cached_property
    def _targets(self) -> dict[str, str | T]:
        targets = dict(self._registered)

        def add(name: str, target: str) -> None:
            if name in targets:
                raise UserError(
                    f"{self.kind} {name!r} is defined twice, in {_place(targets[name])} and "
                    f"{_place(target)}: rename or remove one"
                )
            targets[name] = target

        for package in self._packages:
            spec = importlib.util.find_spec(package)
            locations = spec.submodule_search_locations if spec else None
            for module in pkgutil.iter_modules(list(locations or [])):
                if not module.ispkg and not module.name.startswith("_"):
                    target = f"{package}.{module.name}:{self._attribute}"
                    add(module.name.replace("_", "-"), target)
        if self._entry_points:
            for point in importlib.metadata.entry_points(group=self._entry_points):
                add(point.name, point.value)
        return targets


def file_of(module_name: str) -> str:
    """The file of a module, importable or not; the module's name if no file is found."""
    try:
        spec = importlib.util.find_spec(module_name)
    except Exception:  # raised by the package that contains it
        spec = None
    return (spec and spec.origin) or module_name


def _place(target: object) -> str:
    """The file of a target, or the entry itself."""
    return file_of(target.partition(":")[0]) if isinstance(target, str) else repr(target)


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """At most three known names that are closest to a mistyped one, ignoring case."""
    lower = {each.lower(): each for each in known}
    if name.lower() in lower:
        return [lower[name.lower()]]
    return [lower[each] for each in difflib.get_close_matches(name.lower(), lower, cutoff=0.5)]


def suggestion(name: str, known: Sequence[str]) -> str:
    """The names nearest to a mistyped one as a question, or all known names if none is near."""
    near = nearest(name, known)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}."


def unknown_name(kind: str, name: str, known: Sequence[str]) -> str:
    """One sentence for an unknown name, with the nearest known names."""
    return f"unknown {kind} {name!r}: {suggestion(name, known)}"


METHODS: Registry[Method] = Registry(
    "method",
    packages=("methods", "methods.adversarial", "methods.distillation"),
    attribute="METHOD",
    entry_points="harness.methods",
    members=("card", "params", "task", "recipes"),
)

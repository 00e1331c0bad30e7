"""The Markdown reference of all commands and options in ``docs/commands.md``.

``python -m divergence_bench.cli.reference docs/commands.md`` rewrites it at the end of the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from divergence_bench.cli.main import VERBS, command
from divergence_bench.cli.tables import markdown_text

HEADING = "## Reference\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command, such as ``run`` or ``db merge``, by name with its Click command."""

    def within(name: str, found: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(found, TyperGroup):
            yield name, found
            return
        for each, inner in found.commands.items():
            yield from within(f"{name} {each}", inner)

    for verb in VERBS:
        yield from within(verb, command(verb))


def reference() -> str:
    """Return the reference: description, arguments and options of each command."""
    return "\n".join([HEADING, *(_section(name, found) for name, found in commands())])


def _section(name: str, found: Any) -> str:
    arguments = [each for each in found.params if each.param_type_name == "argument"]
    options = [each for each in found.params if each.param_type_name == "option"]
    shown = [each.metavar or each.name.upper() for each in arguments]
    usage = " ".join([name, *shown, *(_flag(each) for each in options if each.required)])
    rows = [(f"`{text}`", each.help) for text, each in zip(shown, arguments, strict=True)]
    rows += [(f"`{_flag(each)}`", _meaning(each)) for each in options if each.name != "help"]
    lines = [f"### `{usage}`", "", " ".join(found.help.split()), "", "| | |", "| --- | --- |"]
    lines += [f"| {title} | {markdown_text(text or '')} |" for title, text in rows]
    return "\n".join([*lines, ""])


def _flag(option: Any) -> str:
    return f"{'/'.join([*option.opts, *option.secondary_opts])} {option.metavar or ''}".rstrip()


def _meaning(option: Any) -> str:
    default = option.default
    known = default not in (None, False) and not callable(default)
    return f"{option.help} Default: {default}." if known else str(option.help)


def main(path: Path) -> None:
    """Replace the reference at the end of a file."""
    before, _, _ = path.read_text(encoding="utf-8").partition(HEADING)
    path.write_text(before + reference(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""docs/commands.md says what `--help` says."""

import re
import shlex
from pathlib import Path

import pytest

from divergence_bench.cli.reference import HEADING, commands, main, reference

DOCS = Path(__file__).parents[3] / "docs" / "commands.md"
EXAMPLES = re.findall(r"-m harness (.*?) *(?:#.*)?$", DOCS.read_text(), re.MULTILINE)
KNOWN = {
    name: {flag for option in found.params for flag in (*option.opts, *option.secondary_opts)}
    for name, found in commands()
}


def test_the_reference_is_that_of_these_options() -> None:
    _, heading, found = DOCS.read_text().partition(HEADING)
    assert heading + found == reference(), (
        "write it anew: python -m divergence_bench.cli.reference docs/commands.md"
    )


def test_the_reference_replaces_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "commands.md"
    path.write_text(f"# Commands\n\n{HEADING}\nold\n")
    main(path)
    assert path.read_text() == f"# Commands\n\n{reference()}"


@pytest.mark.parametrize("example", [text for text in EXAMPLES if "COMMAND" not in text])
def test_an_example_has_verbs_and_options_that_exist(example: str) -> None:
    words = shlex.split(example)
    (verb,) = [n for n in KNOWN if words[: len(n.split())] == n.split()]
    assert {word for word in words if word.startswith("--")} <= KNOWN[verb]


def test_every_verb_has_an_example() -> None:
    shown = {name for name in KNOWN for text in EXAMPLES if f"{text} ".startswith(f"{name} ")}
    assert shown == KNOWN.keys()

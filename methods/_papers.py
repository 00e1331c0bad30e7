"""Citations for method cards, read from ``papers.bib``.

The file has one field per line. A conference or journal is an ``@string`` named by its short form,
which the one-line citation shows; the BibTeX entry given to users has the full name.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TypedDict


class Citation(TypedDict):
    """The fields of ``MethodCard`` that cite a paper."""

    paper: str
    url: str
    bibtex: str


@cache
def bibliography() -> dict[str, Citation]:
    """All entries of ``papers.bib`` by key."""
    text = files("methods").joinpath("papers.bib").read_text("utf-8")
    venues = dict(re.findall(r'^@string\{(\w+) = "(.+)"\}$', text, re.MULTILINE))
    entries = re.findall(r"^(@\w+\{(\w+),\n(?:  .+\n)+\})$", text, re.MULTILINE)
    return {key: _citation(entry, venues) for entry, key in entries}


def cite(key: str) -> Citation:
    """Return the one-line citation, URL and BibTeX entry of a paper, to unpack into a card."""
    return bibliography()[key]


def _citation(entry: str, venues: dict[str, str]) -> Citation:
    fields: dict[str, str] = dict(re.findall(r"^  (\w+) = \{?(.+?)\}?,?$", entry, re.MULTILINE))
    authors = ", ".join(name.split(",")[0] for name in fields["author"].split(" and "))
    title = re.sub("[{}]", "", fields.get("shorttitle", fields["title"]))
    venue = fields.get("booktitle") or fields["journal"]
    if venue.startswith("arXiv"):
        venue = "arXiv"
    return {
        "paper": f"{authors}: {title}, {venue} {fields['year']}",
        "url": fields["url"],
        "bibtex": re.sub(rf"= {venue},", f"= {{{venues.get(venue, venue)}}},", entry),
    }

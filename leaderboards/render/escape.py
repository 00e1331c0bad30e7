"""Escape text for each format, since names of methods and files can contain anything."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

# Unicode categories that are not text: controls, surrogates, private use and unassigned.
_NO_TEXT = ("Cc", "Cs", "Co", "Cn")
# These reorder the text after them; other invisible characters, such as joiners, are kept.
_BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_ESCAPE_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")

# Markup of CommonMark, GitHub and Streamlit: anywhere, or only at the start of an entity, of an
# emoji's or a colour's name, or of a line.
_MARKDOWN = re.compile(
    r"[\\`*_{}\[\]<>|#~$]|!(?=\[)|&(?=[#\w])|:(?=[\w+/-])|^[-+=](?=\s|[-+=]|$)|(?<=^\d)[.)](?=\s|$)"
)
_MARKDOWN_NAMES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    # LaTeX would read a bracket or star after a line end as its argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # Two hyphens would be a dash.
    "-": "{-}",
    "\u0394": r"$\Delta$",
    "\u2113": r"$\ell$",
    "\u221e": r"$_\infty$",
    "\u2713": r"$\checkmark$",
    "\u2717": r"$\times$",
    "\u00d7": r"$\times$",
    "\u00b1": r"$\pm$",
    "\u2192": r"$\to$",
    "\u2190": r"$\leftarrow$",
    "\u2248": r"$\approx$",
    "\u2264": r"$\leq$",
    "\u2265": r"$\geq$",
    "\u2212": "$-$",
    "\u25b2": r"$\blacktriangle$",
    "\u25bc": r"$\blacktriangledown$",
    "\u2013": "--",
    "\u2014": "---",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
    "\u2026": r"\ldots{}",
    "\u00b7": r"$\cdot$",
    "\u00b0": r"$^\circ$",
    "\u00a0": "~",
    "\u00df": r"\ss{}",
    "\u00e6": r"\ae{}",
    "\u00c6": r"\AE{}",
    "\u00f8": r"\o{}",
    "\u00d8": r"\O{}",
    "\u0153": r"\oe{}",
    "\u0152": r"\OE{}",
    "\u0142": r"\l{}",
    "\u0141": r"\L{}",
    "\u0131": r"\i{}",
}
_LATEX_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
    "\u0328": "k",
}  # fmt: skip
# Greek capitals that look like Latin ones have no LaTeX command.
_LATIN_CAPITALS = dict(
    ALPHA="A", BETA="B", EPSILON="E", ZETA="Z", ETA="H", IOTA="I", KAPPA="K", MU="M", NU="N",
    OMICRON="O", RHO="P", TAU="T", CHI="X",
)  # fmt: skip
_GREEK = ("GAMMA", "DELTA", "THETA", "LAMDA", "XI", "PI", "SIGMA", "UPSILON", "PHI", "PSI", "OMEGA")
_ASCII = {
    "\u00b1": "+-",
    "\u0394": "Delta ",
    "\u03b5": "eps",
    "\u2713": "yes",
    "\u2717": "no",
    "\u00d7": "x",
    "\u2113\u221e": "Linf",
    "\u2248": "~",
    "\u25b2": "^",
    "\u25bc": "v",
    "\u2192": "->",
    "\u2013": "-",
    "\u2026": "...",
    "\u00b7": "-",
}


def one_line(text: str) -> str:
    """Return text on one line, without terminal controls and characters that reorder text."""
    text = _BIDIRECTIONAL.sub("", _ESCAPE_SEQUENCE.sub("", text))
    words = re.sub(r"[^\S ]+", " ", text).strip()
    return "".join(sign for sign in words if unicodedata.category(sign) not in _NO_TEXT)


def markdown(text: object) -> str:
    """Return text on one line, escaped for GitHub's and Streamlit's Markdown."""
    return _MARKDOWN.sub(
        lambda found: _MARKDOWN_NAMES.get(found[0], f"\\{found[0]}"), one_line(str(text))
    )


def latex(text: str) -> str:
    """Return text escaped for LaTeX, in ASCII, with commands for accents and Greek letters.

    A character without a command becomes its code point, such as ``[U+84B8]``.
    """
    composed = unicodedata.normalize("NFC", one_line(text))
    shown = "".join(_latex_sign(sign) for sign in composed)
    # Adjacent formulas are merged; a hyphen needs braces only next to another hyphen.
    return re.sub(r"(?<!-\})\{-\}(?!\{-\})", "-", shown).replace("$$", "")


def csv(value: Any) -> Any:
    """Return a value for CSV: 1 for True, and text that spreadsheets do not take for a formula."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str):
        return value
    text = one_line(value)
    return f"'{text}" if text[:1] in tuple("=+-@") else text


def ascii_only(text: str) -> str:
    """Return text in ASCII; a character without a spelling becomes a question mark."""
    for sign, word in _ASCII.items():
        text = text.replace(sign, word)
    spelled = "".join(_greek_name(sign) or sign for sign in text)
    return spelled.encode("ascii", "replace").decode()


def _latex_sign(sign: str) -> str:
    if sign in _LATEX:
        return _LATEX[sign]
    if sign.isascii():
        return sign
    if unicodedata.category(sign) == "Cf":
        return ""
    name = unicodedata.name(sign, "")
    if name.startswith("GREEK") and (letter := _greek_name(sign)):
        small = letter.lower()
        if name.startswith("GREEK CAPITAL") and small.upper() in _LATIN_CAPITALS:
            return f"$\\mathrm{{{_LATIN_CAPITALS[small.upper()]}}}$"
        return "$\\mathit{o}$" if letter == "omicron" else f"$\\{letter}$"
    base, *marks = list(unicodedata.normalize("NFD", sign))
    if marks and base.isascii() and all(mark in _LATEX_ACCENTS for mark in marks):
        for mark in marks:
            base = f"\\{_LATEX_ACCENTS[mark]}{{{base}}}"
        return base
    return f"{{[}}U+{ord(sign):04X}{{]}}"


def _greek_name(sign: str) -> str:
    """Return ``alpha`` or ``Omega``; empty for anything but a plain Greek letter."""
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(sign, ""))
    if found is None or found[2] not in (*_LATIN_CAPITALS, *_GREEK):
        return ""
    name = found[2].replace("LAMDA", "LAMBDA")
    return name.lower() if found[1] == "SMALL" else name.capitalize()

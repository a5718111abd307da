"""BibTeX of citations: entries with keys of their own, in LaTeX that every BibTeX program reads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import ascii_lowercase
from types import MappingProxyType
from unicodedata import combining, normalize
from urllib.parse import quote

from stockpot.methods.declare import Citation

__all__ = ["bibliography", "latex", "link_of"]

_COMMANDS = MappingProxyType(
    {
        "\\": r"\textbackslash{}",
        "{": r"\textbraceleft{}",  # BibTeX counts \{ as a brace, so it could not stand alone
        "}": r"\textbraceright{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: "\\" + sign for sign in "&%$#_"},
        **dict(zip("–—‘’“”", ("--", "---", "`", "'", "``", "''"), strict=True)),
        **{
            letter: f"{{\\{name}}}"
            for letter, name in zip("łŁøØıđĐ", ("l", "L", "o", "O", "i", "dj", "DJ"), strict=True)
        },
        **{letter: f"{{\\{name}}}" for letter, name in zip("ßæÆœŒ", ("ss", "ae", "AE", "oe", "OE"), strict=True)},
    }
)
_ACCENTS = MappingProxyType(
    dict(
        zip(
            "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327\u0328",
            "`'^~=u.\"rHvck",
            strict=True,
        )
    )
)
"""Combining marks → LaTeX's accents: grave, acute, circumflex, tilde, macron, breve, dot, …"""


def bibliography(citations: Iterable[Citation]) -> dict[Citation, str]:
    """Citation → its BibTeX entry.

    Keys are first author and year, ``yadav2023``; where several papers share one, a, b, … follow in the order of
    their titles. Two citations of one paper have one entry.
    """
    wanted = list(citations)
    papers: dict[tuple[str, str], Citation] = {}
    for citation in wanted:
        papers.setdefault(_paper(citation), citation)
    entries: dict[tuple[str, str], str] = {}
    for paper, citation in papers.items():
        alike = sorted(title for key, title in papers if key == paper[0])
        suffix = _letters(alike.index(paper[1])) if len(alike) > 1 else ""
        entries[paper] = _entry(citation, paper[0] + suffix)
    return {citation: entries[_paper(citation)] for citation in wanted}


def link_of(citation: Citation) -> str | None:
    """Address of a paper on arXiv, of a DOI, or of a page; None for places in print.

    >>> link_of(Citation("", "", 2023, "arXiv:2306.01708", ""))
    'https://arxiv.org/abs/2306.01708'
    """
    kind, colon, rest = citation.place.partition(":")
    address = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/", "http": "http:", "https": "https:"}
    if not colon or kind not in address:
        return None
    return quote(address[kind] + rest, safe="/:?#[]@!$&'*+,;=%~-._")


def latex(text: str) -> str:
    r"""Unicode as LaTeX: special characters are escaped, accents spelled out, white space is single.

    Letters that LaTeX has no command for stay as they are.

    >>> latex("Łukasz & José")
    "{\\L}ukasz \\& Jos{\\'{e}}"
    """
    return "".join(_letter(letter) for letter in normalize("NFC", " ".join(text.split())))


def _letter(letter: str) -> str:
    if letter in _COMMANDS or letter.isascii():
        return _COMMANDS.get(letter, letter)
    plain, *marks = tuple(normalize("NFD", letter))
    if not (plain.isascii() or plain in _COMMANDS) or not all(mark in _ACCENTS for mark in marks):
        return letter
    told = _COMMANDS.get(plain, plain)
    for mark in marks:
        told = f"{{\\{_ACCENTS[mark]}{{{told}}}}}"
    return told


def _paper(citation: Citation) -> tuple[str, str]:
    """What makes two citations one paper: key without suffix, and title."""
    bare = "".join(c for c in normalize("NFD", citation.surnames[0]) if not combining(c))
    surname = re.sub("[^a-z]", "", latex(bare).lower())
    return f"{surname or 'anonymous'}{citation.year}", " ".join(citation.title.casefold().split())


def _letters(index: int) -> str:
    """A, b, …, z, aa, ab, …, in small letters."""
    before = _letters(index // 26 - 1) if index >= 26 else ""
    return before + ascii_lowercase[index % 26]


def _entry(citation: Citation, key: str) -> str:
    fields = {
        "author": _authors(citation.authors),
        "title": f"{{{latex(citation.title)}}}",  # in braces, so that styles keep its capitals
        "year": str(citation.year),
        **_place(citation),
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{key},\n{body}\n}}"


def _authors(names: str) -> str:
    """In LaTeX; braces around names stay where they are balanced."""
    text = names.replace(" et al.", " and others")
    if not re.fullmatch(r"([^{}]|\{[^{}]*\})*", text):
        return latex(text)
    return "".join(part if part in ("{", "}") else _inner(part) for part in re.split(r"([{}])", text))


def _inner(part: str) -> str:
    """``latex`` of a piece of text: the spaces at its ends count."""
    left, right = " " * part[:1].isspace(), " " * part[-1:].isspace()
    return f"{left}{latex(part)}{right}" if part.strip() else left


def _place(citation: Citation) -> dict[str, str]:
    link = link_of(citation)
    if link is None:
        return {"howpublished": latex(citation.place)}
    kind, _, number = citation.place.partition(":")
    if kind == "arXiv":
        return {"eprint": latex(number), "archivePrefix": "arXiv", "url": link}
    return {"doi": latex(number), "url": link} if kind == "doi" else {"howpublished": f"\\url{{{link}}}", "url": link}

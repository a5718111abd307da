"""References are BibTeX that BibTeX can read: checked by a small parser of its own."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stockpot as sp
from stockpot.methods.bibtex import bibliography, latex, link_of
from stockpot.methods.declare import Citation
from stockpot.methods.registry import METHODS

MARKS = dict(
    zip("`'^~=u.\"rHvck", "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327\u0328", strict=True)
)
LETTERS = {"l": "ł", "L": "Ł", "o": "ø", "O": "Ø", "i": "ı", "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ"}
LETTERS |= {"dj": "đ", "DJ": "Đ"}
NAMED = {"textbackslash": "\\", "textbraceleft": "{", "textbraceright": "}"}
NAMED |= {"textasciitilde": "~", "textasciicircum": "^"}


def parse(text):
    """BibTeX's grammar: {key: (type, {field: value})}; every brace counts, also one after a backslash."""
    entries = {}
    at = 0
    while at < len(text):
        head = re.compile(r"\s*@(\w+)\{([A-Za-z0-9]+),\s*").match(text, at)
        assert head, text[at : at + 60]
        kind, key = head.groups()
        assert key not in entries, f"key {key} stands twice"
        fields, at = {}, head.end()
        while text[at] != "}":
            name = re.compile(r"(\w+)\s*=\s*\{").match(text, at)
            assert name, text[at : at + 60]
            start, depth, at = name.end(), 1, name.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
            assert name[1] not in fields
            fields[name[1]] = text[start : at - 1]
            at = re.compile(r",?\s*").match(text, at).end()
        entries[key] = (kind, fields)
        at = re.compile(r"\s*").match(text, at + 1).end()
    return entries


def typeset(text):
    """What LaTeX makes of a value; fails at characters that LaTeX takes for something else."""
    out, at = "", 0
    token = re.compile(r"\\(text\w+)\{\}|\\([&%$#_])|\{\\([A-Za-z]+)\}|\{\\([`'^~=.\"a-zA-Z])\{", re.ASCII)
    while at < len(text):
        found = token.match(text, at)
        if found is None:
            assert text[at] not in "\\&%$#_~^", f"{text[at]!r} is not escaped in {text!r}"
            out += "" if text[at] in "{}" else text[at]
            at += 1
            continue
        name, sign, letter, accent = found.groups()
        at = found.end()
        if accent:
            stop, depth = at, 1
            while depth:
                depth += {"{": 1, "}": -1}.get(text[stop], 0)
                stop += 1
            assert text[stop] == "}"
            out += unicodedata.normalize("NFC", typeset(text[at : stop - 1]) + MARKS[accent])
            at = stop + 1
        else:
            out += NAMED[name] if name else sign or LETTERS[letter]
    return out


def clean(text):
    """White space as LaTeX sees it."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


TEXT = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="–—‘’“”"), max_size=30)
NAMES = st.lists(
    st.sampled_from(["Ana Łoś", "Bo Li", "Li Bo", "X. Ångström", "李雷", "{The & Group}", "Dé"]), min_size=1
)
PLACES = st.sampled_from(["arXiv:2306.01708", "https://a.org/x_y?p=%20{1}", "doi:10.1145/a_b", "Proc. A & B", ""])
CITATIONS = st.builds(
    Citation, NAMES.map(" and ".join), TEXT, st.integers(1901, 1903), PLACES, st.sampled_from(["eq. 1", "eq. 2"])
)


def test_the_registry_parses():
    """Every reference of the registry, all in one file; papers are as many as keys."""
    entries = bibliography(m.cites for m in METHODS.values())
    parsed = parse("\n\n".join(dict.fromkeys(entries.values())))
    assert len(parsed) == len({m.cites.title for m in METHODS.values()})
    for citation in entries:
        (_, fields) = next(iter(parse(entries[citation]).values()))
        assert typeset(fields["title"]) == clean(citation.title)
        assert fields["year"] == str(citation.year)


@given(st.lists(CITATIONS, max_size=6))
def test_any_citations_parse(citations):
    """Whatever titles and names contain: braces balance, keys are unique, LaTeX reads back the same text."""
    entries = bibliography(citations)
    assert set(entries) == set(citations)
    parsed = parse("\n\n".join(dict.fromkeys(entries.values())))
    for citation, entry in entries.items():
        ((key, (kind, fields)),) = parse(entry).items()
        assert parsed[key] == (kind, fields)
        assert kind == "misc"
        assert typeset(fields["title"]).casefold() == clean(citation.title).casefold()
        ((_, (_, alone)),) = parse(citation.bibtex).items()
        assert typeset(alone["author"]) == citation.authors.replace("{", "").replace("}", "")
        assert not set(fields.get("url", "")) & set("{}\\ ")


@given(TEXT)
def test_latex_says_the_same(text):
    """LaTeX typesets the text that went in, for every character that has a glyph."""
    assert typeset(latex(text)) == clean(text)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("50% of R&D_x #1 $2", r"50\% of R\&D\_x \#1 \$2"),
        ("a~b^c\\d", r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}d"),
        ("{", r"\textbraceleft{}"),
        ("Yağız Şahin", r"Ya{\u{g}}{\i}z {\c{S}}ahin"),
        ("Ǿ", r"{\'{{\O}}}"),
        ("Voß – “so”", "Vo{\\ss} -- ``so''"),
        ("e\u0301  é\n", r"{\'{e}} {\'{e}}"),
        ("李", "李"),
    ],
)
def test_special_characters(text, written):
    """Signs are escaped, accents are commands, what LaTeX has no command for stays."""
    assert latex(text) == written


def cite(authors, title, year=2022, place="", equation=""):
    return Citation(authors, title, year, place, equation)


def keys(*citations):
    """The key of each citation, in order."""
    entries = bibliography(citations)
    return [re.match(r"@misc\{(.*),", entries[c])[1] for c in citations]


def test_keys_of_one_author_and_year_have_letters_by_title():
    """A, b, … follow the titles, not the order of the citations; a paper alone has no letter."""
    soups, wise = cite("Mitchell Wortsman", "Model soups"), cite("Mitchell Wortsman and A", "Robust")
    assert keys(wise, soups) == ["wortsman2022b", "wortsman2022a"]
    assert keys(wise) == ["wortsman2022"]
    assert keys(wise, replace(soups, year=2023)) == ["wortsman2022", "wortsman2023"]
    many = [cite("A", f"{i:03}") for i in range(28)]
    assert keys(*many)[-3:] == ["a2022z", "a2022aa", "a2022ab"]


def test_one_paper_has_one_entry():
    """Two equations of a paper, or two spellings of its authors, are one entry."""
    first = cite("Prateek Yadav and Derek Tam", "TIES", equation="1")
    citations = [
        first,
        replace(first, equation="2"),
        replace(first, authors="Yadav et al."),
        replace(first, title="ties"),
    ]
    assert len(set(bibliography(citations).values())) == 1
    assert keys(*citations) == ["yadav2022"] * 4


@pytest.mark.parametrize(
    ("authors", "key", "written", "short"),
    [
        ("Yadav et al.", "yadav2022", "Yadav and others", "Yadav et al."),
        (
            "Prateek Yadav and Derek Tam and others",
            "yadav2022",
            "Prateek Yadav and Derek Tam and others",
            "Yadav et al.",
        ),
        ("Yadav, Prateek and Tam, Derek", "yadav2022", "Yadav, Prateek and Tam, Derek", "Yadav and Tam"),
        ("Ken Shoemake", "shoemake2022", "Ken Shoemake", "Shoemake"),
        ("Aleksandra Çelik-Łoś", "celiklos2022", r"Aleksandra {\c{C}}elik-{\L}o{\'{s}}", "Çelik-Łoś"),
        ("{The R&D Group} and Bo Li", "therdgroup2022", r"{The R\&D Group} and Bo Li", "The R&D Group and Li"),
        ("A } B", "b2022", r"A \textbraceright{} B", "B"),
        ("李雷", "anonymous2022", "李雷", "李雷"),
    ],
)
def test_authors(authors, key, written, short):
    """All forms of names give a key of ASCII letters, an author field BibTeX can split, and surnames for people."""
    citation = cite(authors, "T")
    ((found, (_, fields)),) = parse(citation.bibtex).items()
    assert (found, fields["author"], citation.short) == (key, written, short)


@pytest.mark.parametrize(
    ("place", "link", "fields"),
    [
        ("arXiv:2306.01708", "https://arxiv.org/abs/2306.01708", {"eprint": "2306.01708", "archivePrefix": "arXiv"}),
        ("doi:10.1/a_b", "https://doi.org/10.1/a_b", {"doi": r"10.1/a\_b"}),
        ("https://a.org/x_(1)", "https://a.org/x_%281%29", {"howpublished": r"\url{https://a.org/x_%281%29}"}),
        ("SIGGRAPH 19(3)", None, {"howpublished": "SIGGRAPH 19(3)"}),
        ("In: Proc. of A & B", None, {"howpublished": r"In: Proc. of A \& B"}),
    ],
)
def test_places(place, link, fields):
    """Papers on arXiv, DOIs and pages have an address; journals do not."""
    citation = cite("A", "T", place=place)
    assert link_of(citation) == link
    ((_, (_, found)),) = parse(citation.bibtex).items()
    assert found == {"author": "A", "title": "{T}", "year": "2022", **fields, **({"url": link} if link else {})}


def test_functions_cite_themselves():
    """Entries of different methods can stand in one file: their keys are those of the whole registry."""
    entries = {getattr(sp, name).citation() for name in METHODS}
    assert entries == set(bibliography(m.cites for m in METHODS.values()).values())
    parse("\n".join(entries))
    own = replace(METHODS["ties"], cites=cite("Own", "Own work"))
    assert "own2022" in type(sp.ties)(own).citation()

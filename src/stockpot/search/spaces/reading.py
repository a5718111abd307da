"""Holes as they are written → what may stand in them; every hole is checked by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Table
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from itertools import pairwise

from stockpot.recipe.findings import Findings
from stockpot.recipe.holes import FORMS, Found, found_in
from stockpot.recipe.known import nearest
from stockpot.recipe.scalars import flag_of, integer_of, number_of, plain
from stockpot.recipe.scope import Scope
from stockpot.recipe.shapes import check_section
from stockpot.recipe.yaml_nodes import Mapping, Node, Scalar, Sequence, line_breaks, line_of
from stockpot.search.spaces.dimensions import Dimension, Value, same_value
from stockpot.search.spaces.flow import comments_in
from stockpot.search.spaces.writing import word_text

__all__ = ["REST", "Blank", "Open", "blanks_of"]

_MOST = 100
"""Most values to choose from, each of which is tried before a search begins."""

REST = "rest"
"""What stands among ``filters`` for the tensors of no other filter."""


@dataclass(frozen=True)
class Open:
    """What may stand in a hole.

    Args:
        like: A dimension without a name: one number or choice of it.
        texts: The choices as they are written into the recipe; none for numbers.
        name: By which other holes take the same value.
        groups: Of layers, each with a value of its own; None for one value.
        filters: Each with a value of its own; empty for one value.
    """

    like: Dimension
    texts: tuple[str, ...] = ()
    name: str | None = None
    groups: int | None = None
    filters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Blank:
    """A hole in the text.

    Args:
        found: Where it is written.
        places: All places that it stands at, which are several where aliases repeat it.
        open: What may stand there.
        first: Whether its dimensions are its own, and not those of the hole that ``same`` refers to.
        after: What follows its value, so that lines keep their numbers and comments.
    """

    found: Found
    places: tuple[Found, ...]
    open: Open
    first: bool = True
    after: str = ""

    @property
    def line(self) -> int:
        """Of the recipe."""
        return self.found.node.line


def blanks_of(documents: Iterable[Node], text: str, findings: Findings) -> list[Blank]:
    """The holes of a recipe in the order of its text, but for slices whose layers are searched.

    ``same`` is what it refers to.
    """
    grouped: dict[int, list[Found]] = {}
    for found in found_in(tuple(documents)):
        grouped.setdefault(id(found.node), []).append(found)
    groups = sorted(grouped.values(), key=lambda group: group[0].node.span)
    _check_apart([group[0] for group in groups if group[0].form in FORMS], findings)
    opened: dict[int, Open] = {}
    named: dict[str, tuple[Open, int]] = {}
    for first, *_ in (group for group in groups if group[0].form in ("search", "choice")):
        read = _read(first.node, first.form, text, findings)
        if read is not None:
            read = replace(read, like=replace(read.like, key=first.key))
            opened[id(first.node)] = read
            _name(read, first.node.line, named, findings)
    for first, *_ in (group for group in groups if group[0].form == "same"):
        read = _same(first.node, named, findings)
        if read is not None:
            opened[id(first.node)] = read
    long = any(line_breaks(text[slice(*group[0].node.span)]) for group in groups)
    comments = comments_in(text) if long else {}
    return [
        Blank(
            group[0], tuple(group), opened[id(group[0].node)], group[0].form != "same", _after(group[0], text, comments)
        )
        for group in groups
        if id(group[0].node) in opened
    ]


def _after(found: Found, text: str, comments: Table[int, str]) -> str:
    """The ends of the lines that a hole takes, with their comments; what follows it does not begin its line."""
    start, end = found.node.span
    lines = range(line_of(text, start), line_of(text, end))
    ends = "".join(f"  {comments[line]}\n" if line in comments else "\n" for line in lines)
    return ends + ("  " if ends and text[end:].partition("\n")[0].strip() else "")


def _check_apart(holes: Many[Found], findings: Findings) -> None:
    """No hole is written inside another, as with an anchor in what ``<<`` takes over."""
    for outer, inner in pairwise(holes):
        if inner.node.span[0] < outer.node.span[1]:
            findings.problem("a hole is written inside another", inner.node.line, "write it before, and its alias here")


def _name(read: Open, line: int, named: dict[str, tuple[Open, int]], findings: Findings) -> None:
    if read.name is None:
        return
    if read.name in named:
        message = f"two holes are called {read.name!r}, on lines {named[read.name][1]} and {line}"
        findings.problem(message, line, f"write {{same: {read.name}}} here, or give it another name")
    named.setdefault(read.name, (read, line))


def _same(node: Mapping, named: dict[str, tuple[Open, int]], findings: Findings) -> Open | None:
    if not _well_formed(node, "same", findings):
        return None
    name = _word(node, "same") or ""
    if name in named:
        return named[name][0]
    near = nearest(name, named)
    hint = f"did you mean {near}? " if near else ""
    fix = f"{hint}give the hole that is meant a name: {{search: [0, 1], name: {name}}}"
    findings.problem(f"same: no hole is called {name!r}", node.line, fix)
    return None


def _read(node: Mapping, form: str, text: str, findings: Findings) -> Open | None:
    """The range or choice; None when it is wrong, which is told."""
    if not _well_formed(node, form, findings):
        return None
    told = len(findings.problems)
    read = _range(node, findings) if form == "search" else _choice(node, text, findings)
    filters = tuple(_words(node, "filters"))
    _check_filters(filters, node.line, findings)
    groups = node.get("groups")
    found = replace(
        read,
        name=_word(node, "name"),
        groups=None if groups is None else integer_of(groups.value),
        filters=filters,
    )
    return found if len(findings.problems) == told else None


def _well_formed(node: Mapping, form: str, findings: Findings) -> bool:
    """Whether keys and their values are what they should be; tells what is not."""
    told = len(findings.problems)
    check_section(node, FORMS[form], Scope(replace(findings, lenient=False)))
    return len(findings.problems) == told


def _range(node: Mapping, findings: Findings) -> Open:
    ends = [float(number_of(item) or 0.0) for item in _items(node, "search")]
    whole, log, step = _flag(node, "int"), _flag(node, "log"), _number(node, "step")
    wrong = list(_wrong_range(ends, whole, log, step))
    for message, fix in wrong:
        findings.problem(message, node.line, fix)
    if wrong:
        return Open(Dimension("", node.line, "float", 0.0, 1.0))
    low, high = ends
    like = Dimension("", node.line, "int" if whole else "float", low, high, log, step)
    given = _number(node, "start")
    if given is None:
        return Open(replace(like, start=like.at(0.5)))
    if not low <= given <= high:
        findings.problem(f"start: {given!r} is not in [{low!r}, {high!r}]", node.line, "start inside the range")
    elif abs(float(like.nearest(given)) - given) > 1e-9 * max(abs(low), abs(high)):
        findings.problem(f"start: {given!r} is no value of the range", node.line, f"start: {like.nearest(given)!r}")
    return Open(replace(like, start=like.nearest(given)))


def _wrong_range(ends: list[float], whole: bool, log: bool, step: float | None) -> Iterator[tuple[str, str]]:
    if len(ends) != 2:
        yield f"search has {len(ends)} values, not two", "search: [lowest, highest]; choice: […] takes any number"
        return
    low, high = ends
    if not low < high:
        fix = f"search: [{high!r}, {low!r}]" if low > high else "write the value itself: one value is no range"
        yield f"search: [{low!r}, {high!r}] is not from low to high", fix
        return
    if log and low <= 0.0:
        yield f"log needs a range above 0, not [{low!r}, {high!r}]", "raise the lowest value, or leave log out"
    if whole and not (low.is_integer() and high.is_integer()):
        yield f"int needs whole ends, not [{low!r}, {high!r}]", "whole numbers, or leave int out"
    if step is not None and (not 0.0 < step <= high - low or log or (whole and not step.is_integer())):
        why = "log has no steps" if log else f"a {'whole ' * whole}step is above 0 and at most {high - low!r}"
        yield f"step: {step!r} does not fit the range", f"{why}; or leave step out"


def _choice(node: Mapping, text: str, findings: Findings) -> Open:
    values: list[Value] = []
    texts: list[str] = []
    items = _items(node, "choice")
    if len(items) > _MOST:
        findings.problem(
            f"choice has {len(items)} values, more than {_MOST}", node.line, "search: [low, high] for numbers"
        )
    for item in items[:_MOST]:
        wrong = _wrong_choice(item, node, text)
        if wrong is not None:
            findings.problem(*wrong)
            continue
        value = _value(item, text)
        if any(same_value(value, other) for other in values):
            findings.problem(f"choice: {value!r} is given twice", item.line, "give each value once")
        values.append(value)
        texts.append(_text(item, node, text))
    start: Value = values[0] if values else ""
    given = node.get("start")
    if given is not None and values:
        start = _value(given.value, text)
        if not any(same_value(start, value) for value in values):
            findings.problem(f"start: {start!r} is none of the choices", given.line, f"start: {texts[0]}")
    last = max(len(values) - 1.0, 0.0)
    return Open(Dimension("", node.line, "choice", high=last, choices=tuple(values), start=start), tuple(texts))


def _wrong_choice(item: Node, hole: Mapping, text: str) -> tuple[str, int, str] | None:
    """Problem, line and fix of a value that cannot be chosen."""
    if isinstance(item, Scalar) and item.tag == "null":
        return "choice: one of the values is empty", item.line, "write every value, or remove it from the list"
    inner = next(found_in((Sequence((item,), item.line),)), None)
    if inner is not None:
        fix = "write out the values to choose from, or two holes beside each other"
        return "a hole stands inside a choice", inner.node.line, fix
    if line_breaks(text[slice(*item.span)]):
        return "a value of a choice stands on several lines", item.line, "write it on one line, with brackets: {…}, […]"
    if not isinstance(item, Scalar) and not _inside(item, hole):
        return "an alias of a list or mapping stands in a choice", item.line, "write it out here"
    return None


def _inside(item: Node, hole: Mapping) -> bool:
    return hole.span[0] <= item.span[0] < hole.span[1]


def _value(item: Node, text: str) -> Value:
    """A choice as programs see it."""
    if not isinstance(item, Scalar):
        return text[slice(*item.span)]
    value: Value = plain(item)
    return value


def _text(item: Node, hole: Mapping, text: str) -> str:
    """A choice as it is written, quotes included."""
    if isinstance(item, Scalar) and not _inside(item, hole):
        return word_text(item.text) if item.tag == "text" else item.text
    return text[slice(*item.span)]


def _check_filters(filters: tuple[str, ...], line: int, findings: Findings) -> None:
    if len(set(filters)) != len(filters):
        findings.problem("filters: one of them is given twice", line, "give each filter once")
    elif REST in filters[:-1]:
        findings.problem("filters: rest stands before others, which it hides", line, "put rest last")


def _items(node: Mapping, key: str) -> tuple[Node, ...]:
    entry = node.get(key)
    return entry.value.items if entry is not None and isinstance(entry.value, Sequence) else ()


def _words(node: Mapping, key: str) -> list[str]:
    return [item.text for item in _items(node, key) if isinstance(item, Scalar)]


def _word(node: Mapping, key: str) -> str | None:
    entry = node.get(key)
    return entry.value.text if entry is not None and isinstance(entry.value, Scalar) else None


def _number(node: Mapping, key: str) -> float | None:
    entry = node.get(key)
    return None if entry is None else number_of(entry.value)


def _flag(node: Mapping, key: str) -> bool:
    entry = node.get(key)
    return entry is not None and flag_of(entry.value) is True

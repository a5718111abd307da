"""YAML text → a frozen tree of nodes that know their line and their characters.

Only plain data is read: PyYAML's safe resolver decides what a word is, nothing is ever constructed.
Scalars keep their text, so a model named ``0.5``, ``1e5``, ``on`` or ``2024-01-01`` stays what was
written. Size, depth and the expansion of aliases are limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from stockpot.errors import Problem, RecipeError

__all__ = [
    "MAX_CHARACTERS",
    "Entry",
    "Mapping",
    "Node",
    "Scalar",
    "Sequence",
    "Span",
    "compose",
    "line_breaks",
    "line_of",
]

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 60
MAX_NODES = 100_000

Tag = Literal["text", "int", "float", "bool", "null"]
Span = tuple[int, int]
"""The first character of a node, and the one after its last; anchor and tag are left out. An alias has its anchor's."""

_TAGS: dict[str, Tag] = {
    "str": "text",
    "timestamp": "text",
    "value": "text",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "null": "null",
}
_PREFIX = "tag:yaml.org,2002:"
_PROPERTY = re.compile(r"[&!]\S*\s*(?:#.*\s+)*")
_BREAK = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")

_FIXES = (
    (
        "mapping values are not allowed",
        "check the indentation; a list needs a key of its own above it (models:), and "
        "a value that contains ': ' needs quotes",
    ),
    (r"'\t'", "indent with spaces, not with tabs"),
    (
        " escape ",
        "in double quotes a backslash starts an escape: use single quotes, or / in paths",
    ),
    ("cannot start any token", "put the value in quotes"),
    ("undefined alias", "an alias (*name) needs its anchor (&name) earlier in the same document"),
    ("unexpected end of stream", "a quote or bracket is not closed"),
    (
        "expected <block end>",
        "check the indentation: entries of one list or mapping start in the same column",
    ),
    ("could not find expected ':'", "a key is followed by a colon and a space"),
    ("expected ',' or", "a bracket [ or { is not closed"),
)


@dataclass(frozen=True, eq=False)
class Scalar:
    """One word or number: its text as written, and what YAML takes it for."""

    text: str
    tag: Tag
    line: int
    span: Span = (0, 0)


@dataclass(frozen=True, eq=False)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    line: int
    span: Span = (0, 0)


@dataclass(frozen=True, eq=False)
class Entry:
    """One ``key: value`` of a mapping; ``line`` is that of the key."""

    key: str
    value: Node
    line: int


@dataclass(frozen=True, eq=False)
class Mapping:
    """Keys with values, in the order written; every key once."""

    entries: tuple[Entry, ...]
    line: int
    span: Span = (0, 0)

    def get(self, key: str) -> Entry | None:
        """The entry of ``key``; None when it is absent or its value is empty."""
        for entry in self.entries:
            if entry.key == key:
                empty = isinstance(entry.value, Scalar) and entry.value.tag == "null"
                return None if empty else entry
        return None


Node = Scalar | Sequence | Mapping


def compose(text: str) -> tuple[tuple[Node, ...], tuple[Problem, ...]]:
    """The documents in ``text``, and what is wrong with them without making them unreadable.

    Raises:
        RecipeError: when the text is not YAML, or is too large or too deep.

    >>> documents, problems = compose("dtype: bfloat16")
    >>> documents[0].entries[0].key, documents[0].entries[0].line
    ('dtype', 1)
    """
    if len(text) > MAX_CHARACTERS:
        message = f"the recipe has {len(text)} characters; at most {MAX_CHARACTERS} are read"
        raise RecipeError(Problem(message, fix="is this the right file?"))
    try:
        composer = _Composer(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not a text file: character U+{int(error.character):04X} is not allowed"
        raise RecipeError(Problem(message, line=line, fix="save it as UTF-8 text")) from None
    try:
        documents = tuple(composer.documents())
    except yaml.MarkedYAMLError as error:
        raise RecipeError(_syntax(error)) from None
    except (ValueError, OverflowError):  # of PyYAML: "\UFFFFFFFF" is no character, and %YAML takes any digits
        message = "not valid YAML: an escape or a version with an impossible number"
        raise RecipeError(Problem(message, line=composer.line)) from None
    return documents, tuple(composer.problems)


def line_breaks(text: str) -> int:
    """How many lines end in ``text``, as YAML counts them."""
    return len(_BREAK.findall(text))


def line_of(text: str, at: int) -> int:
    """The line of a character, counted from 1; that of a node may be its anchor's."""
    return 1 + line_breaks(text[:at])


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = " ".join(part for part in (error.problem, error.context) if part)
    fix = next((fix for sign, fix in _FIXES if sign in what), None)
    return Problem(f"not valid YAML: {what}", line=mark.line + 1 if mark else None, fix=fix)


class _Composer:
    """Turns PyYAML's events into nodes, one document after the other."""

    def __init__(self, text: str) -> None:
        self.problems: list[Problem] = []
        self._text = text
        self._loader: Any = yaml.SafeLoader(text)  # its stubs leave events untyped
        self._end = 0
        self._anchors: dict[str, tuple[Node | None, int]] = {}
        self._count = 0

    @property
    def line(self) -> int:
        """The line that is being read."""
        return int(self._loader.line) + 1

    def documents(self) -> Iterator[Node]:
        """Each document in turn."""
        self._loader.get_event()
        while not self._loader.check_event(yaml.StreamEndEvent):
            self._loader.get_event()
            self._anchors = {}
            yield self._node(0)
            self._loader.get_event()
        self._loader.dispose()

    def _node(self, depth: int) -> Node:
        event = self._loader.get_event()
        line = event.start_mark.line + 1
        self._end = event.end_mark.index
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), line)
        if depth > MAX_DEPTH:
            raise RecipeError(Problem(f"nested more than {MAX_DEPTH} levels deep", line=line))
        before = self._count
        self._grow(1, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = (None, 0)
        node = self._build(event, line, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, self._count - before)
        return node

    def _build(self, event: Any, line: int, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line)
        self._own_tag(event.tag, line)
        start = self._start(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not self._loader.check_event(yaml.SequenceEndEvent):
                items.append(self._node(depth + 1))
            return Sequence(tuple(items), line, self._closed(start))
        entries = self._entries(line, depth)
        return Mapping(entries, line, self._closed(start))

    def _start(self, event: Any) -> int:
        """Where a node begins, after its anchor and tag."""
        at = int(event.start_mark.index)
        for _ in range((event.anchor is not None) + (event.tag is not None)):
            found = _PROPERTY.match(self._text, at)
            at = at if found is None else found.end()
        return at

    def _whole(self, event: Any) -> Span:
        end = int(event.end_mark.index)
        return min(self._start(event), end), end

    def _closed(self, start: int) -> Span:
        """Where a collection lies; one without brackets ends with what is last in it, not where the next begins."""
        event = self._loader.get_event()
        if self._text[start : start + 1] in ("[", "{"):
            self._end = event.end_mark.index
        return start, self._end

    def _entries(self, line: int, depth: int) -> tuple[Entry, ...]:
        own: dict[str, Entry] = {}
        merged: list[Mapping] = []
        while not self._loader.check_event(yaml.MappingEndEvent):
            key_line, key = self._key(depth)
            value = self._node(depth + 1)
            if key is None:
                merged.extend(self._merge(value, key_line))
            elif key in own:
                self._duplicate(key, own[key].line, key_line)
            else:
                own[key] = Entry(key, value, key_line)
        inherited = {e.key: e for mapping in reversed(merged) for e in mapping.entries if e.key not in own}
        self._grow(len(inherited), line)
        return (*inherited.values(), *own.values())

    def _key(self, depth: int) -> tuple[int, str | None]:
        """Line and text of a key; None for the merge key ``<<``."""
        event = self._loader.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            self._loader.get_event()
            return line, None
        node = self._node(depth + 1)
        if isinstance(node, Scalar):
            return line, node.text
        raise RecipeError(
            Problem(
                "a key is a list or mapping",
                line=line,
                fix="braces and brackets need quotes: '{...}'",
            )
        )

    def _merge(self, value: Node, line: int) -> list[Mapping]:
        candidates = value.items if isinstance(value, Sequence) else (value,)
        found = [c for c in candidates if isinstance(c, Mapping)]
        if len(found) != len(candidates):
            self.problems.append(Problem("<< takes a mapping or a list of mappings", line=line))
        return found

    def _duplicate(self, key: str, first: int, second: int) -> None:
        self.problems.append(
            Problem(
                f"key {key!r} is given twice, on lines {first} and {second}",
                line=second,
                fix="keep one; if these are two recipes, put a line with --- between them",
            )
        )

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        kind = _TAGS.get(tag.removeprefix(_PREFIX)) if tag != _PREFIX + "merge" else "text"
        if kind is None:
            self._own_tag(tag, line)
        return Scalar(event.value, kind or "text", line, self._whole(event))

    def _own_tag(self, tag: str | None, line: int) -> None:
        if tag in (None, "!", _PREFIX + "map", _PREFIX + "seq"):
            return
        self.problems.append(Problem(f"tag {tag!r} means nothing in a recipe", line=line, fix="leave it out"))

    def _alias(self, name: str, line: int) -> Node:
        if name not in self._anchors:
            fix = dict(_FIXES)["undefined alias"]
            raise RecipeError(Problem(f"alias *{name} has no anchor", line=line, fix=fix))
        node, size = self._anchors[name]
        if node is None:
            raise RecipeError(Problem(f"alias *{name} stands inside what it refers to", line=line))
        self._grow(size, line)
        return node

    def _grow(self, nodes: int, line: int) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            message = f"more than {MAX_NODES} nodes, aliases written out"
            raise RecipeError(Problem(message, line=line, fix="use fewer aliases"))

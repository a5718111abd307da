"""A part of a recipe written anew in flow style: every key on the line it had, comments kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import yaml

from stockpot.recipe.yaml_nodes import Mapping as Keys
from stockpot.recipe.yaml_nodes import Node, Scalar, Sequence, line_breaks, line_of
from stockpot.search.spaces.writing import scalar_text, word_text

__all__ = ["Change", "anchors_in", "comments_in", "in_flow"]

_TRAILING = re.compile(r"[ ]+(?=\n)")

Change = Callable[[Node], "tuple[Node, ...] | None"]
"""What stands for an item of a list: other items; None keeps it."""


@dataclass
class _Writer:
    """Collects words; a word of a later line is put on that line, behind the comments of those between."""

    line: int
    indent: str
    comments: Mapping[int, str]
    words: list[str] = field(default_factory=list)

    def put(self, line: int, *words: str) -> None:
        self.to(line)
        self.words += words

    def to(self, line: int) -> None:
        while self.line < line:
            comment = self.comments.get(self.line)
            self.words += [f"  {comment}" if comment else "", "\n", self.indent]
            self.line += 1


def in_flow(text: str, node: Sequence, change: Change, comments: Mapping[int, str]) -> str:
    """The text of the list ``node``, which lies in ``text``, as a list in brackets over the same lines.

    Args:
        text: The whole recipe.
        node: The list, in block or flow style, without anchors in it.
        change: What stands for each item of this list and of those in it.
        comments: Those of the recipe, by line.
    """
    start, end = node.span
    column = start - (text.rfind("\n", 0, start) + 1)
    writer = _Writer(line_of(text, start), " " * (column + 2), comments)
    writer.put(node.line, "" if column else " ")
    _write(node, writer, change)
    writer.to(line_of(text, end))
    written = _TRAILING.sub("", "".join(writer.words))
    return written if text[end:].partition("\n")[0].strip() else written.rstrip(" ")


def anchors_in(text: str, node: Node) -> tuple[str, ...]:
    """The names of the anchors that are given in the text of ``node``."""
    start, end = node.span
    tokens = yaml.scan(text, yaml.SafeLoader)
    return tuple(t.value for t in tokens if isinstance(t, yaml.AnchorToken) and start <= t.start_mark.index < end)


def _write(node: Node, writer: _Writer, change: Change) -> None:
    if isinstance(node, Scalar):
        writer.put(node.line, scalar_text(node))
    elif isinstance(node, Sequence):
        items = [new for item in node.items for new in _changed(item, change)]
        writer.put(node.line, "[")
        for index, item in enumerate(items):
            writer.put(writer.line, ", " if index else "")
            _write(item, writer, change)
        writer.put(writer.line, "]")
    else:
        _write_keys(node, writer, change)


def _changed(item: Node, change: Change) -> tuple[Node, ...]:
    found = change(item)
    return (item,) if found is None else found


def _write_keys(node: Keys, writer: _Writer, change: Change) -> None:
    writer.put(node.line, "{")
    for index, entry in enumerate(node.entries):
        writer.put(writer.line, ", " if index else "")
        writer.put(entry.line, word_text(entry.key), ": ")
        _write(entry.value, writer, change)
    writer.put(writer.line, "}")


def comments_in(text: str) -> dict[int, str]:
    """The comments of a recipe by line: what follows a # outside all words."""
    tokens = yaml.scan(text, yaml.SafeLoader)
    words = [(t.start_mark.index, t.end_mark.index) for t in tokens if isinstance(t, yaml.ScalarToken)]
    found: dict[int, str] = {}
    at, line = 0, 1
    for first, last in [*words, (len(text), len(text))]:
        for number, row in enumerate(text[at:first].splitlines()):
            if "#" in row:
                found[line + number] = row[row.index("#") :].rstrip()
        line += line_breaks(text[at:last])
        at = last
    return found

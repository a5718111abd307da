"""Ancestors as a tree of text and as a mermaid graph; and strangers' text in markdown, where it commands nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stockpot.printable import printable, redacted
from stockpot.provenance.ancestry import Ancestor

__all__ = ["code_block", "code_span", "mermaid", "text_tree"]

_PLAIN = frozenset(" ._/-@+,:=()→")
"""What needs no escape in a quoted label of mermaid, beside letters and digits."""

_MAX_LABEL = 80


def text_tree(root: Ancestor) -> str:
    """One line for each model, what it was merged from below it.

    >>> print(text_tree(Ancestor("out", tool="stockpot", methods=("ties",), parents=(Ancestor("a"), Ancestor("b")))))
    out  ← ties
    ├── a
    └── b
    """
    return "\n".join([_told(root), *_branches(root, "")])


def _branches(node: Ancestor, lead: str) -> Iterator[str]:
    for number, parent in enumerate(node.parents, 1):
        last = number == len(node.parents)
        yield f"{lead}{'└── ' if last else '├── '}{_told(parent)}"
        yield from _branches(parent, lead + ("    " if last else "│   "))


def _told(node: Ancestor) -> str:
    where = f"{node.hub}@{node.revision}" if node.hub and node.revision else node.hub or node.revision
    parts = [node.label if where is None or where == node.label else f"{node.label}  [{where}]"]
    if node.tool is not None:
        parts.append(f"← {_made(node)}")
    parts.extend(f"({told})" for told in (node.licence, node.note) if told)
    return " ".join(_one_line("  ".join(parts)).split("\n"))


def _made(node: Ancestor) -> str:
    made = ", ".join(node.methods) or "a merge"
    return made if node.tool == "stockpot" else f"{made}, by {node.tool}"


def mermaid(root: Ancestor) -> str:
    """A mermaid flow chart, from ancestors down to the model; one of the hub is drawn once for each revision."""
    nodes: dict[object, str] = {}
    lines = ["flowchart TD"]

    def place(node: Ancestor) -> str:
        key: object = node if node.hub is not None and node.revision is not None else object()
        if key in nodes:
            return nodes[key]
        name = nodes[key] = f"n{len(nodes)}"
        lines.append(f'    {name}["{_label(node)}"]')
        above = [place(parent) for parent in node.parents]
        lines.extend(f"    {parent} --> {name}" for parent in above)
        return name

    place(root)
    return "\n".join(lines)


def _label(node: Ancestor) -> str:
    name = node.hub or node.label or "?"
    told = _escaped(name if node.revision is None else f"{name}@{node.revision[:8]}")
    return told if node.tool is None else f"{told}<br/>{_escaped(_made(node))}"


def _escaped(text: str) -> str:
    """``text`` with everything that mermaid or HTML could take for syntax as a numeric character."""
    shown = _one_line(text)
    shown = shown if len(shown) <= _MAX_LABEL else shown[: _MAX_LABEL - 1] + "…"
    return "".join(c if c.isalnum() or c in _PLAIN else f"#{ord(c)};" for c in shown)


def code_span(text: str) -> str:
    """``text`` as code within a line of markdown, whatever it holds.

    >>> code_span("a`b")
    '``a`b``'
    """
    shown = _one_line(text)
    fence = "`" * (_longest_run(shown) + 1)
    pad = " " if shown[:1] in ("`", " ") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{shown or ' '}{pad}{fence}"


def code_block(text: str, language: str) -> list[str]:
    """``text`` as lines of a fenced block of markdown, which nothing in it can end."""
    shown = "\t".join(printable(part) for part in redacted(text).replace("\r\n", "\n").split("\t"))
    fence = "`" * max(3, _longest_run(shown) + 1)
    return [fence + language, *shown.rstrip().split("\n"), fence]


def _one_line(text: str) -> str:
    return printable(redacted(text)).replace("\n", "\\n")


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)

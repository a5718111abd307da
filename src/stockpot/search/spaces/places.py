"""Where holes stand: their names in words, and whether a value for each group of layers or filter can stand there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stockpot.recipe.holes import Path
from stockpot.recipe.yaml_nodes import Mapping, Node, Scalar
from stockpot.recipe.yaml_nodes import Sequence as Items

__all__ = ["Role", "label", "node_at", "role"]

Role = Literal["value", "case", "anchor", "other"]
"""Of a place: a parameter's whole value, the value of one filter, a number in a gradient, anything else."""


def node_at(documents: Sequence[Node], path: Path) -> Node:
    """The node that ``path`` leads to."""
    node = documents[int(path[0])]
    for part in path[1:]:
        if isinstance(node, Items):
            node = node.items[int(part)]
        elif isinstance(node, Mapping):
            node = next(entry.value for entry in node.entries if entry.key == part)
    return node


def role(path: Path) -> Role:
    """What a value at ``path`` is to a parameter."""
    if _is_parameter(path):
        return "value"
    if _is_case(path):
        return "case"
    if isinstance(path[-1], int) and (_is_parameter(path[:-1]) or _is_case(path[:-1])):
        return "anchor"
    return "other"


def _is_parameter(path: Path) -> bool:
    """Whether ``path`` ends with a parameter's name: of a method, or of a step of a chain."""
    if len(path) < 3 or not isinstance(path[-1], str):
        return False
    return path[-2] == "parameters" or (len(path) > 4 and path[-4] == "steps" and isinstance(path[-3], int))


def _is_case(path: Path) -> bool:
    """Whether ``path`` is the ``value`` of one of a parameter's cases, or of its only one."""
    return path[-1:] == ("value",) and (_is_parameter(path[:-1]) or _is_parameter(path[:-2]))


def label(documents: Sequence[Node], path: Path) -> str:
    """The place in words: ``models[1].weight``, ``parameters.t[mlp]``, with the name of its document in front.

    Items of lists are counted from 0; a value of a filter is called after the filter.
    """
    words: list[str] = []
    for at, part in enumerate(path[1:], 1):
        if _is_case(path[: at + 1]):
            case = node_at(documents, path[:at])
            where = case.get("filter") if isinstance(case, Mapping) else None
            told = where.value.text if where is not None and isinstance(where.value, Scalar) else "rest"
            words[-1] = words[-1].removesuffix(f"[{path[at - 1]}]") + f"[{told}]"
        elif isinstance(part, int):
            words[-1:] = [f"{words[-1] if words else ''}[{part}]"]
        elif part != "parameters" or not words:
            words.append(part)
    document = documents[int(path[0])]
    name = document.get("name") if isinstance(document, Mapping) and len(documents) > 1 else None
    front = f"{name.value.text}: " if name is not None and isinstance(name.value, Scalar) else ""
    return front + ".".join(words)

"""What a YAML scalar says: a number, a truth value, a word; and how errors speak of a node."""

from __future__ import annotations

import math
from typing import Any

import yaml

from stockpot.recipe.yaml_nodes import Mapping, Node, Scalar, Sequence

__all__ = ["describe", "flag_of", "integer_of", "number_of", "plain", "value_of"]

_TRUE = frozenset({"yes", "true", "on"})
_FALSE = frozenset({"no", "false", "off"})
_SHOWN = 40


def number_of(node: Node) -> float | None:
    """The number that ``node`` is, also as text (``1e-5`` in YAML 1.1); None when it is none.

    A number too large for a float is infinite; one with colons is a time, not a number.
    """
    if not isinstance(node, Scalar) or node.tag in ("bool", "null") or ":" in node.text:
        return None
    try:
        if node.tag == "int":
            return float(_integer(node.text))
        if node.tag == "float":
            return float(yaml.constructor.SafeConstructor().construct_yaml_float(_as_yaml(node.text)))
        return float(node.text) if "_" not in node.text else None
    except OverflowError:
        return math.inf
    except ValueError:
        return math.inf if node.tag == "int" and node.text.strip("+-").isdigit() else None


def integer_of(node: Node) -> int | None:
    """The whole number that ``node`` is; None when it is none."""
    number = number_of(node)
    if number is None or not math.isfinite(number) or number != int(number):
        return None
    return _integer(node.text) if isinstance(node, Scalar) and node.tag == "int" else int(number)


def flag_of(node: Node) -> bool | None:
    """True or False in any of YAML 1.1's spellings (true, yes, on, …); None for anything else."""
    if not isinstance(node, Scalar) or node.tag != "bool":
        return None
    word = node.text.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def value_of(node: Node) -> float | bool | None:
    """A parameter value: a number or a truth value; None for anything else."""
    flag = flag_of(node)
    return number_of(node) if flag is None else flag


def plain(node: Node) -> Any:
    """The node as JSON-able data."""
    if isinstance(node, Mapping):
        return {entry.key: plain(entry.value) for entry in node.entries}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    if node.tag == "null":
        return None
    value = value_of(node) if node.tag != "text" else None
    if value is None or (not isinstance(value, bool) and not math.isfinite(value)):
        return node.text
    whole = integer_of(node) if node.tag == "int" else None
    return value if whole is None else whole


def describe(node: Node) -> str:
    """How an error speaks of ``node``."""
    if isinstance(node, Mapping):
        return "a mapping (key: value)"
    if isinstance(node, Sequence):
        return "a list"
    if node.tag == "null":
        return "empty"
    text = node.text if len(node.text) <= _SHOWN else node.text[: _SHOWN - 1] + "…"
    return repr(text)


def _integer(text: str) -> int:
    return int(yaml.constructor.SafeConstructor().construct_yaml_int(_as_yaml(text)))


def _as_yaml(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("", text)

"""Parameter values in a recipe: YAML nodes → :class:`stockpot.settings.Setting`."""

from __future__ import annotations

import math
from functools import cache

from stockpot.recipe.findings import Findings
from stockpot.recipe.known import declared_parameters
from stockpot.recipe.scalars import describe, value_of
from stockpot.recipe.scope import Scope
from stockpot.recipe.yaml_nodes import Entry, Mapping, Node, Scalar, Sequence
from stockpot.settings import Case, Setting

__all__ = ["FORMS", "known_words", "setting_of", "settings_of"]

Value = float | bool | str | tuple[float, ...]

FORMS = "a number, a list of numbers (gradient over depth), or a list of {filter: …, value: …}"


@cache
def known_words() -> dict[str, tuple[str, ...]]:
    """Parameter name → the words that it may be in some method, for every parameter that is a choice somewhere."""
    found: dict[str, tuple[str, ...]] = {}
    for _, p in declared_parameters():
        if p.kind == "choice":
            found[p.name] = tuple(dict.fromkeys((*found.get(p.name, ()), *p.choices)))
    return found


def settings_of(node: Node | None, scope: Scope) -> dict[str, Setting]:
    """Every value in a ``parameters`` section, companions left out; one that cannot be read has no cases."""
    if not isinstance(node, Mapping):
        return {}
    return {entry.key: setting_of(entry) for entry in node.entries if not scope.is_companion(entry.key)}


def setting_of(entry: Entry, findings: Findings | None = None) -> Setting:
    """The setting that ``entry`` writes; without cases when it cannot be read.

    Args:
        entry: Name and value.
        findings: Where problems go; None when they were reported before.
    """
    node = entry.value
    if isinstance(node, Sequence) and node.items and all(isinstance(i, Mapping) for i in node.items):
        cases = [_case(entry, item, findings) for item in node.items]
    elif isinstance(node, Mapping):
        cases = [_case(entry, node, findings)]
    else:
        value = _value(entry, node, findings)
        cases = [None if value is None else Case(None, value)]
    return Setting(tuple(c for c in cases if c is not None), entry.line)


def _case(entry: Entry, node: Node, findings: Findings | None) -> Case | None:
    assert isinstance(node, Mapping)
    written = node.get("value")
    where = node.get("filter")
    if written is None or (where is not None and not isinstance(where.value, Scalar)):
        return None
    value = _value(Entry(entry.key, written.value, written.line), written.value, findings)
    name = where.value.text if where is not None and isinstance(where.value, Scalar) else None
    return None if value is None else Case(name, value)


def _value(entry: Entry, node: Node, findings: Findings | None) -> Value | None:
    if isinstance(node, Scalar) and node.tag == "text" and entry.key in known_words() and value_of(node) is None:
        return node.text
    if isinstance(node, Sequence) and node.items:
        numbers = [_number(entry, item, findings) for item in node.items]
        return None if None in numbers else tuple(float(n) for n in numbers if n is not None)
    return _number(entry, node, findings)


def _number(entry: Entry, node: Node, findings: Findings | None) -> float | bool | None:
    value = value_of(node)
    if value is not None and math.isfinite(value):
        return value
    if findings is not None:
        what = "is empty" if describe(node) == "empty" else f"is {describe(node)}, which is not a parameter value"
        findings.problem(f"{entry.key} {what}", max(entry.line, node.line), FORMS)
    return None

"""``steps:`` of a recipe: a method written as a chain of pieces."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field

from stockpot.errors import ExpressionError
from stockpot.methods.declare import Method
from stockpot.methods.pieces import PIECES, Piece, Use, chain_of
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import STEPS, Known, nearest
from stockpot.recipe.parameters import setting_of
from stockpot.recipe.scalars import describe
from stockpot.recipe.yaml_nodes import Entry, Mapping, Node, Scalar, Sequence
from stockpot.settings import Setting

__all__ = ["Chosen", "check_steps", "chosen"]

Check = Callable[[Entry], None]

_EXAMPLE = "steps: [{trim: {density: 0.2}}, elect, mean]"


@dataclass(frozen=True)
class Chosen:
    """The method of a merge.

    Args:
        method: None when it is missing, unknown or a chain that cannot be read.
        uses: The steps of a chain.
        given: Values that stand in the steps, by the names of the chain's parameters.
    """

    method: Method | None
    uses: tuple[Use, ...] = ()
    given: MappingOf[str, Setting] = field(default_factory=dict)


def chosen(node: Mapping, known: Known) -> Chosen:
    """The method that ``node``, a merge, asks for; silent where :func:`check_steps` reports."""
    entry, steps = node.get("merge_method"), node.get(STEPS)
    name = entry.value.text if entry is not None and isinstance(entry.value, Scalar) else ""
    if name != STEPS:
        return Chosen(known.method(name))
    items = steps.value.items if steps is not None and isinstance(steps.value, Sequence) else ()
    uses = [_use(item) for item in items]
    found = tuple(use for use in uses if use is not None)
    if not found or len(found) != len(uses):
        return Chosen(None)
    try:
        method, given = chain_of(found)
    except ExpressionError:
        return Chosen(None)
    return Chosen(method, found, given)


def check_steps(entry: Entry, findings: Findings, check_value: Check) -> None:
    """Report all that is wrong with the list of steps, each with its line; ``check_value`` does so for a value."""
    node = entry.value
    if not isinstance(node, Sequence):
        findings.problem(f"steps is {describe(node)}, not a list of steps", entry.line, _EXAMPLE)
        return
    if not node.items:
        findings.problem("steps is an empty list", entry.line, _EXAMPLE)
    for item in node.items:
        _check_step(item, findings, check_value)
    uses = [_use(item) for item in node.items]
    if uses and all(uses):
        try:
            chain_of([use for use in uses if use is not None])
        except ExpressionError as error:
            findings.adopt(error.problems)


def _check_step(item: Node, findings: Findings, check_value: Check) -> None:
    name, values = _parts(item)
    if name is None:
        findings.problem(f"a step is {describe(item)}, not a name or one name with values", item.line, _EXAMPLE)
        return
    if name not in PIECES:
        near = nearest(name, PIECES)
        hint = f"did you mean {near}? " if near else ""
        findings.problem(f"unknown step {name!r}", item.line, f"{hint}known steps: {', '.join(PIECES)}")
        return
    if isinstance(values, Mapping):
        for own in values.entries:
            _check_value(PIECES[name], own, findings, check_value)
    elif values is not None:
        message = f"the values of step {name} are {describe(values)}, not a mapping"
        findings.problem(message, item.line, f"{name}: {{parameter: value}}, or {name} alone")


def _check_value(piece: Piece, entry: Entry, findings: Findings, check_value: Check) -> None:
    names = [p.name for p in piece.parameters]
    if entry.key in names:
        check_value(entry)
        return
    near = nearest(entry.key, names)
    fix = f"did you mean {near}?" if near else f"{piece.name} takes: {', '.join(names) or 'no parameters'}"
    findings.unknown(f"unknown parameter {entry.key!r} of step {piece.name}", entry.line, fix)


def _use(item: Node) -> Use | None:
    """The step that ``item`` writes; parameters that it has not are left out."""
    name, values = _parts(item)
    if name is None or name not in PIECES or not (values is None or isinstance(values, Mapping)):
        return None
    piece = PIECES[name]
    names = {p.name for p in piece.parameters}
    entries = values.entries if values is not None else ()
    return Use(piece, {e.key: setting_of(e) for e in entries if e.key in names}, item.line)


def _parts(item: Node) -> tuple[str | None, Node | None]:
    """Name and values of a step; no name when ``item`` is neither a word nor a mapping of one key."""
    if isinstance(item, Scalar) and item.tag != "null":
        return item.text, None
    if not isinstance(item, Mapping) or len(item.entries) != 1:
        return None, None
    (entry,) = item.entries
    empty = isinstance(entry.value, Scalar) and entry.value.tag == "null"
    return entry.key, None if empty else entry.value

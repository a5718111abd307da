"""Expressions as plain data, and back: a list of nodes, each made of nodes before it, the result last.

One form serves recipes and Python. Every node stands once however often it is used, so the data grows with
the recipe and not with its repetitions, and a circle cannot be written down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stockpot.errors import CheckpointError, Problem, StockpotError, UnsupportedError
from stockpot.expression import Expression, Leaf
from stockpot.provenance.nodes import KINDS, Kind, Nodes, Record
from stockpot.provenance.shape import Misshapen, record, text

__all__ = ["as_records", "methods_in", "rebuilt"]

_LEAF = record({"leaf": text}, {})
_MAX_NODES = 100_000
_MAX_DEPTH = 400
_MAX_SIZE = 1_000_000
"""Nodes when each is counted as often as it is used: planning walks them so."""


def as_records(expression: Expression, label: Callable[[Leaf], str]) -> list[Record]:
    """``expression`` as JSON data.

    Args:
        expression: Any tree.
        label: The name under which a leaf's checkpoint stands among the inputs.
    """
    records: list[Record] = []
    places: dict[int, int] = {}
    leaves: dict[str, int] = {}

    def place(node: Expression) -> int:
        found = places.get(id(node))
        if found is None and isinstance(node, Leaf):
            found = leaves.get(label(node))
        if found is None:
            written = _written(node, place, label)
            found = len(records)
            records.append(written)
            if isinstance(node, Leaf):
                leaves[label(node)] = found
        places[id(node)] = found
        return found

    place(expression)
    return records


def _written(node: Expression, place: Callable[[Expression], int], label: Callable[[Leaf], str]) -> Record:
    if isinstance(node, Leaf):
        return {"leaf": label(node)}
    return next(kind.write(node, place) for kind in KINDS.values() if isinstance(node, kind.node))


def methods_in(records: Any) -> tuple[str, ...]:
    """What made the result, outermost first: methods, chains, ``stack``, ``moe``.

    Where there is none of these it is ``transplant``, ``sum`` or ``adapter``. Lenient: what is no record is left out.
    """
    nodes = [r for r in reversed(records) if isinstance(r, dict)] if isinstance(records, list) else []
    found: dict[str, None] = {}
    for node in nodes:
        moved = "moe" if "mixture" in node else "stack" if "stack" in node and "layers" not in node else None
        name = node.get("apply", moved)
        if isinstance(name, str):
            found.setdefault(name)
    for name, kind in (("transplant", "transplant"), ("sum", "sum"), ("adapter", "adapted")):
        if not found and any(kind in node for node in nodes):
            return (name,)
    return tuple(found)


def rebuilt(records: Any, leaves: Mapping[str, Leaf], file: str) -> Expression:
    """The expression that ``records`` describe.

    Args:
        records: What :func:`as_records` gave; checked, as it may have been changed.
        leaves: Label → the leaf to put there.
        file: Name of the receipt, for errors.

    Raises:
        CheckpointError: when they describe none.
        UnsupportedError: for methods of the user's own, which a receipt cannot hold, by name.
    """
    try:
        nodes = _rebuilt(records, leaves)
    except UnsupportedError as error:
        raise UnsupportedError(*(Problem(p.message, file=file, fix=p.fix) for p in error.problems)) from None
    except (Misshapen, StockpotError, RecursionError, ArithmeticError) as error:
        message = f"the receipt's expression cannot be built: {str(error)[:500]}"
        raise CheckpointError(
            Problem(message, file=file, fix="get the receipt again from where it came from")
        ) from None
    return nodes[-1]


def _rebuilt(records: Any, leaves: Mapping[str, Leaf]) -> list[Expression]:
    if not isinstance(records, list) or not 0 < len(records) <= _MAX_NODES:
        raise Misshapen(f"it has no list of 1 to {_MAX_NODES} nodes")
    nodes: list[Expression] = []
    depths: list[int] = []
    sizes: list[int] = []
    for number, data in enumerate(records):
        name = next((k for k in (*KINDS, "leaf") if isinstance(data, dict) and k in data), None)
        if name is None:
            raise Misshapen(f"node {number} is of no kind that is known")
        kind = KINDS.get(name)
        (_LEAF if kind is None else kind.check)(data, f"node {number}")
        below = [] if kind is None else kind.below(data)
        if any(i >= number for i in below):
            raise Misshapen(f"node {number} is made of a node that does not come before it")
        depths.append(1 + max((depths[i] for i in below), default=0))
        sizes.append(1 + sum(sizes[i] for i in below))
        if depths[-1] > _MAX_DEPTH or sizes[-1] > _MAX_SIZE:
            raise Misshapen(f"node {number} is nested too deeply")
        nodes.append(_leaf(data, leaves) if kind is None else _node(kind, data, nodes))
    if _is_adapter(nodes[-1]):
        raise Misshapen("an adapter stands where a model is needed")
    return nodes


def _node(kind: Kind, data: Record, nodes: Nodes) -> Expression:
    adapters = {data[key] for key in kind.adapters}
    if any(_is_adapter(nodes[i]) for i in kind.below(data) if i not in adapters):
        raise Misshapen("an adapter stands where a model is needed")
    return kind.read(data, nodes)


def _is_adapter(node: Expression) -> bool:
    return isinstance(node, Leaf) and node.adapter


def _leaf(data: Record, leaves: Mapping[str, Leaf]) -> Leaf:
    if data["leaf"] not in leaves:
        raise Misshapen("it uses an input that is not among the inputs")
    return leaves[data["leaf"]]

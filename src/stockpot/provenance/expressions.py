"""Expressions as plain data, and back: a list of nodes, each made of nodes before it, the result last.

One form serves recipes and Python. Every node stands once however often it is used, so the data grows with
the recipe and not with its repetitions, and a circle cannot be written down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.architecture.mixtures import LAYOUTS
from stockpot.checkpoint.dtypes import dtype_named
from stockpot.errors import CheckpointError, Problem, StockpotError, UnsupportedError
from stockpot.expression import Adapted, Apply, Cast, Expert, Expression, Layers, Leaf, Linear, Mixture, Stack, Term
from stockpot.methods.declare import Blockwise, Method
from stockpot.methods.pieces import Use, chain_of, piece_named, steps_of
from stockpot.methods.registry import METHODS
from stockpot.provenance.shape import (
    Check,
    Misshapen,
    anything,
    list_of,
    map_of,
    natural,
    optional,
    real,
    record,
    text,
)
from stockpot.settings import Setting, as_plain, as_setting

__all__ = ["as_records", "methods_in", "rebuilt"]

Record = dict[str, Any]

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
    if isinstance(node, Adapted):
        return {"adapted": place(node.of), "adapter": place(node.adapter), **_line(node.line)}
    if isinstance(node, Layers | Stack | Cast):
        return _moved(node, place)
    if isinstance(node, Linear):
        return {"sum": [{"times": as_plain(t.coefficient), "of": place(t.of)} for t in node.terms]}
    if isinstance(node, Mixture):
        return _mixture_written(node, place)
    assert isinstance(node, Apply)
    return _applied_written(node, place)


def _moved(node: Layers | Stack | Cast, place: Callable[[Expression], int]) -> Record:
    if isinstance(node, Layers):
        stack = {"stack": node.stack} if node.stack is not None else {}
        return {"layers": place(node.of), "start": int(node.start), "stop": int(node.stop), **stack, **_line(node.line)}
    if isinstance(node, Stack):
        return {"stack": [place(part) for part in node.parts], **_line(node.line)}
    return {"cast": place(node.of), "dtype": node.dtype}


def _applied_written(node: Apply, place: Callable[[Expression], int]) -> Record:
    data: Record = {"apply": node.method.name, **_origin(node.method), "inputs": [place(i) for i in node.inputs]}
    data["one"] = _settings(node.one)
    data["each"] = [_settings(own) for own in node.each]
    if node.variant is not None:
        data["variant"] = node.variant
    if node.compat:
        data["compat"] = True
    if node.companions:
        data["companions"] = {name: [place(c) for c in group] for name, group in node.companions.items()}
    return {**data, **_line(node.line)}


def _mixture_written(node: Mixture, place: Callable[[Expression], int]) -> Record:
    experts = [{"of": place(e.of), "noise": float(e.noise), "residual": float(e.residual)} for e in node.all_experts]
    return {
        "mixture": place(node.of),
        "experts": experts[: len(node.experts)],
        "shared": experts[len(node.experts) :],
        "router": place(node.router),
        "layout": node.layout,
        "per_token": int(node.per_token),
        **_line(node.line),
    }


def _line(line: int | None) -> Record:
    return {} if line is None else {"line": line}


def _settings(settings: Mapping[str, tuple[Setting, ...]]) -> Record:
    return {name: [as_plain(setting) for setting in written] for name, written in settings.items()}


def _origin(method: Method) -> Record:
    """What a method is made of when the registry does not have it."""
    steps = steps_of(method)
    if steps is not None:
        return {"steps": [{"step": name, "given": list(given)} for name, given in steps]}
    if METHODS.get(method.name) == method:
        return {}
    file = method.family.file if isinstance(method.family, Blockwise) else None
    return {"own": {"file": file, "sha256": _sha256(file)}}


def _sha256(file: str | None) -> str | None:
    """Of the file that a user's method stands in; None when there is none, as for one typed at a prompt."""
    if file is None:
        return None
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None


def methods_in(records: Any) -> tuple[str, ...]:
    """What made the result, outermost first: methods, chains, ``stack``, ``moe``; else ``sum`` or ``adapter``.

    Lenient: what is no record is left out.
    """
    nodes = [r for r in reversed(records) if isinstance(r, dict)] if isinstance(records, list) else []
    found: dict[str, None] = {}
    for node in nodes:
        moved = "moe" if "mixture" in node else "stack" if "stack" in node and "layers" not in node else None
        name = node.get("apply", moved)
        if isinstance(name, str):
            found.setdefault(name)
    for name, kind in (("sum", "sum"), ("adapter", "adapted")):
        if not found and any(kind in node for node in nodes):
            return (name,)
    return tuple(found)


_NODES = list_of(natural)
_SETTINGS = map_of(list_of(anything))
_EXPERTS = list_of(record({"of": natural, "noise": real, "residual": real}, {}))
_KINDS: Mapping[str, Check] = {
    "leaf": record({"leaf": text}, {}),
    "adapted": record({"adapted": natural, "adapter": natural}, {"line": natural}),
    "layers": record({"layers": natural, "start": natural, "stop": natural}, {"line": natural, "stack": text}),
    "stack": record({"stack": _NODES}, {"line": natural}),
    "cast": record({"cast": natural, "dtype": text}, {}),
    "mixture": record(
        {
            "mixture": natural,
            "experts": _EXPERTS,
            "shared": _EXPERTS,
            "router": natural,
            "layout": text,
            "per_token": natural,
        },
        {"line": natural},
    ),
    "sum": record({"sum": list_of(record({"times": anything, "of": natural}, {}))}, {}),
    "apply": record(
        {"apply": text, "inputs": _NODES, "one": _SETTINGS, "each": list_of(_SETTINGS)},
        {
            "steps": list_of(record({"step": text, "given": list_of(text)}, {})),
            "own": record({"file": optional(text), "sha256": optional(text)}, {}),
            "variant": text,
            "companions": map_of(_NODES),
            "line": natural,
        },
    ),
}


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
        kind = next((k for k in _KINDS if isinstance(data, dict) and k in data), None)
        if kind is None:
            raise Misshapen(f"node {number} is of no kind that is known")
        _KINDS[kind](data, f"node {number}")
        below = _below(kind, data)
        if any(i >= number for i in below):
            raise Misshapen(f"node {number} is made of a node that does not come before it")
        depths.append(1 + max((depths[i] for i in below), default=0))
        sizes.append(1 + sum(sizes[i] for i in below))
        if depths[-1] > _MAX_DEPTH or sizes[-1] > _MAX_SIZE:
            raise Misshapen(f"node {number} is nested too deeply")
        nodes.append(_node(kind, data, nodes, leaves))
    if isinstance(nodes[-1], Leaf) and nodes[-1].adapter:
        raise Misshapen("an adapter stands where a model is needed")
    return nodes


def _below(kind: str, data: Record) -> list[int]:
    if kind == "sum":
        return [term["of"] for term in data["sum"]]
    if kind == "apply":
        return [*data["inputs"], *(i for group in data.get("companions", {}).values() for i in group)]
    if kind == "leaf":
        return []
    if kind == "mixture":
        return [data["mixture"], *(e["of"] for e in (*data["experts"], *data["shared"])), data["router"]]
    if kind == "adapted":
        return [data["adapted"], data["adapter"]]
    return list(data["stack"]) if kind == "stack" else [data[kind]]


def _models(kind: str, data: Record) -> list[int]:
    """The nodes below one that must be models."""
    return [data["adapted"]] if kind == "adapted" else _below(kind, data)


def _node(kind: str, data: Record, nodes: Sequence[Expression], leaves: Mapping[str, Leaf]) -> Expression:
    line = data.get("line")
    if kind == "leaf":
        if data["leaf"] not in leaves:
            raise Misshapen("it uses an input that is not among the inputs")
        return leaves[data["leaf"]]
    if any(isinstance(node, Leaf) and node.adapter for node in (nodes[i] for i in _models(kind, data))):
        raise Misshapen("an adapter stands where a model is needed")
    if kind == "adapted":
        return _adapted(nodes[data["adapted"]], nodes[data["adapter"]], line)
    if kind == "layers":
        return Layers(nodes[data["layers"]], data["start"], data["stop"], line, data.get("stack"))
    if kind == "stack":
        return Stack(tuple(nodes[i] for i in data["stack"]), line)
    if kind == "cast":
        dtype_named(data["dtype"])
        return Cast(nodes[data["cast"]], data["dtype"])
    if kind == "mixture":
        return _mixture(data, nodes, line)
    if kind == "sum":
        return _linear([(as_setting(term["times"]), nodes[term["of"]]) for term in data["sum"]])
    return _applied(data, nodes, line)


def _applied(data: Record, nodes: Sequence[Expression], line: int | None) -> Apply:
    one, each = _read(data["one"]), tuple(_read(own) for own in data["each"])
    inputs = tuple(nodes[i] for i in data["inputs"])
    if len(each) not in (0, len(inputs)):
        raise Misshapen("a method has other inputs than values for them")
    companions = {name: tuple(nodes[i] for i in group) for name, group in data.get("companions", {}).items()}
    return Apply(_method(data), inputs, one, each, data.get("variant"), data.get("compat") is True, line, companions)


def _mixture(data: Record, nodes: Sequence[Expression], line: int | None) -> Mixture:
    router = nodes[data["router"]]
    if not isinstance(router, Leaf) or len(data["shared"]) > 1 or data["layout"] not in LAYOUTS:
        raise Misshapen("a mixture has no router, several shared experts or an unknown layout")
    experts, shared = (
        tuple(Expert(nodes[e["of"]], e["noise"], e["residual"]) for e in data[key]) for key in ("experts", "shared")
    )
    return Mixture(
        nodes[data["mixture"]], experts, router, data["layout"], data["per_token"], shared[0] if shared else None, line
    )


def _adapted(of: Expression, adapter: Expression, line: int | None) -> Adapted:
    if not isinstance(adapter, Leaf):
        raise Misshapen("a model stands where an adapter is needed")
    return Adapted(of, adapter, line)


def _linear(terms: Sequence[tuple[Setting, Expression]]) -> Linear:
    if not terms or any(isinstance(value, str) for coefficient, _ in terms for value in coefficient.values()):
        raise Misshapen("a sum has no terms, or a term has no number")
    return Linear(tuple(Term(coefficient, of) for coefficient, of in terms))


def _read(settings: Record) -> dict[str, tuple[Setting, ...]]:
    return {name: tuple(as_setting(value) for value in written) for name, written in settings.items()}


def _method(data: Record) -> Method:
    name = data["apply"]
    if "steps" in data:
        uses = [Use(piece_named(step["step"]), dict.fromkeys(step["given"])) for step in data["steps"]]
        return chain_of(uses)[0]
    if "own" in data:
        file = data["own"]["file"] or "a Python session"
        fix = "merge again as the model was made: stockpot merge RECIPE OUT --allow-code, or the same Python program"
        raise UnsupportedError(Problem(f"the method {name!r} is code of its user's own, of {file}", fix=fix))
    if name not in METHODS:
        raise Misshapen(f"the method {name!a} is not known to this version")
    return METHODS[name]

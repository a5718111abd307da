"""The kinds of nodes of an expression, each as data: how it is written, checked, and read again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.architecture.mixtures import LAYOUTS
from stockpot.arrangements import Assembled, Cast, Expert, Layers, Mixture, Stack, Transplant
from stockpot.checkpoint.dtypes import dtype_named
from stockpot.checkpoint.places import cannot_read
from stockpot.errors import Problem, UnsupportedError
from stockpot.expression import Adapted, Apply, Expression, Leaf, Linear, Term
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
from stockpot.tokens import Retokenized, TokenSource

__all__ = ["KINDS", "Kind", "Nodes", "Record"]

Record = dict[str, Any]
Place = Callable[[Expression], int]
"""The number of a node, which is written first."""

Nodes = Sequence[Expression]
"""Those that were read before."""


@dataclass(frozen=True)
class Kind:
    """How nodes of a class stand in data: as a record that has a key of the kind's name.

    Args:
        node: The class.
        check: What a record must be like.
        write: Node → record.
        below: Record → numbers of the nodes that it is made of.
        read: Record → node.
        adapters: Keys whose nodes are adapters; all others are models.
    """

    node: type[Expression]
    check: Check
    write: Callable[[Any, Place], Record]
    below: Callable[[Record], list[int]]
    read: Callable[[Record, Nodes], Expression]
    adapters: tuple[str, ...] = ()


def _adapted(node: Adapted, place: Place) -> Record:
    return {"adapted": place(node.of), "adapter": place(node.adapter), **_line(node.line)}


def _read_adapted(data: Record, nodes: Nodes) -> Adapted:
    adapter = nodes[data["adapter"]]
    if not isinstance(adapter, Leaf):
        raise Misshapen("a model stands where an adapter is needed")
    return Adapted(nodes[data["adapted"]], adapter, data.get("line"))


def _transplant(node: Transplant, place: Place) -> Record:
    how = {"method": node.method, "k": int(node.k)}
    return {"transplant": place(node.of), "tokenizer": place(node.tokenizer), **how, **_line(node.line)}


def _read_transplant(data: Record, nodes: Nodes) -> Transplant:
    tokenizer = nodes[data["tokenizer"]]
    if not isinstance(tokenizer, Leaf):
        raise Misshapen("something computed stands where the model with the tokenizer is needed")
    return Transplant(nodes[data["transplant"]], tokenizer, data["method"], data["k"], data.get("line"))


def _layers(node: Layers, place: Place) -> Record:
    how: Record = {"start": int(node.start), "stop": int(node.stop)}
    how |= {"stack": node.stack} if node.stack is not None else {}
    how |= {"identity": True} if node.identity else {}
    how |= {"module": node.module} if node.module is not None else {}
    return {"layers": place(node.of), **how, **_line(node.line)}


def _read_layers(data: Record, nodes: Nodes) -> Layers:
    identity, stack, module = data.get("identity") is True, data.get("stack"), data.get("module")
    return Layers(nodes[data["layers"]], data["start"], data["stop"], data.get("line"), stack, identity, module)


def _stack(node: Stack, place: Place) -> Record:
    return {"stack": [place(part) for part in node.parts], **_line(node.line)}


def _read_stack(data: Record, nodes: Nodes) -> Stack:
    return Stack(tuple(nodes[i] for i in data["stack"]), data.get("line"))


def _modules(node: Assembled, place: Place) -> Record:
    parts = [{"module": name, "of": place(of)} for name, of in node.parts]
    return {"modules": parts, "rest": place(node.rest), **_line(node.line)}


def _read_modules(data: Record, nodes: Nodes) -> Assembled:
    parts = tuple((part["module"], nodes[part["of"]]) for part in data["modules"])
    return Assembled(parts, nodes[data["rest"]], data.get("line"))


def _cast(node: Cast, place: Place) -> Record:
    return {"cast": place(node.of), "dtype": node.dtype}


def _read_cast(data: Record, nodes: Nodes) -> Cast:
    dtype_named(data["dtype"])
    return Cast(nodes[data["cast"]], data["dtype"])


def _retokenized(node: Retokenized, place: Place) -> Record:
    data: Record = {"retokenized": place(node.of)}
    data |= {"model": place(node.source)} if isinstance(node.source, Expression) else {"source": node.source}
    if node.base is not None:
        data["base"] = place(node.base)
    data["tokens"] = {
        text: {
            **({} if token.model is None else {"model": place(token.model)}),
            **({} if token.token is None else {"id" if isinstance(token.token, int) else "token": token.token}),
            **({"force": True} if token.force else {}),
            **_line(token.line),
        }
        for text, token in node.tokens.items()
    }
    if node.pad_to_multiple_of is not None:
        data["multiple"] = int(node.pad_to_multiple_of)
    return {**data, **_line(node.line)}


def _below_retokenized(data: Record) -> list[int]:
    """What is merged, and the models that tokens are taken of."""
    named = [data.get("base"), data.get("model"), *(token.get("model") for token in data["tokens"].values())]
    return [data["retokenized"], *(number for number in named if number is not None)]


def _read_retokenized(data: Record, nodes: Nodes) -> Retokenized:
    tokens: dict[str, TokenSource] = {}
    for token, own in data["tokens"].items():
        model = nodes[own["model"]] if "model" in own else None
        tokens[token] = TokenSource(model, own.get("token", own.get("id")), own.get("force") is True, own.get("line"))
    source = nodes[data["model"]] if "model" in data else data.get("source", "union")
    base = nodes[data["base"]] if "base" in data else None
    return Retokenized(nodes[data["retokenized"]], source, base, tokens, data.get("multiple"), data.get("line"))


def _mixture(node: Mixture, place: Place) -> Record:
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


def _below_mixture(data: Record) -> list[int]:
    return [data["mixture"], *(e["of"] for e in (*data["experts"], *data["shared"])), data["router"]]


def _read_mixture(data: Record, nodes: Nodes) -> Mixture:
    router = nodes[data["router"]]
    if not isinstance(router, Leaf) or len(data["shared"]) > 1 or data["layout"] not in LAYOUTS:
        raise Misshapen("a mixture has no router, several shared experts or an unknown layout")
    experts, shared = (
        tuple(Expert(nodes[e["of"]], e["noise"], e["residual"]) for e in data[key]) for key in ("experts", "shared")
    )
    first = shared[0] if shared else None
    of, layout, per_token = nodes[data["mixture"]], data["layout"], data["per_token"]
    return Mixture(of, experts, router, layout, per_token, first, data.get("line"))


def _sum(node: Linear, place: Place) -> Record:
    return {"sum": [{"times": as_plain(t.coefficient), "of": place(t.of)} for t in node.terms]}


def _read_sum(data: Record, nodes: Nodes) -> Linear:
    terms = [(as_setting(term["times"]), nodes[term["of"]]) for term in data["sum"]]
    if not terms or any(isinstance(value, str) for coefficient, _ in terms for value in coefficient.values()):
        raise Misshapen("a sum has no terms, or a term has no number")
    return Linear(tuple(Term(coefficient, of) for coefficient, of in terms))


def _apply(node: Apply, place: Place) -> Record:
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


def _below_apply(data: Record) -> list[int]:
    return [*data["inputs"], *(i for group in data.get("companions", {}).values() for i in group)]


def _read_apply(data: Record, nodes: Nodes) -> Apply:
    one, each = _read(data["one"]), tuple(_read(own) for own in data["each"])
    inputs = tuple(nodes[i] for i in data["inputs"])
    if len(each) not in (0, len(inputs)):
        raise Misshapen("a method has other inputs than values for them")
    companions = {name: tuple(nodes[i] for i in group) for name, group in data.get("companions", {}).items()}
    how = (data.get("variant"), data.get("compat") is True, data.get("line"))
    return Apply(_method(data), inputs, one, each, *how, companions)


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
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise cannot_read(Path(file), error) from error


_NODES = list_of(natural)
_SETTINGS = map_of(list_of(anything))
_EXPERTS = list_of(record({"of": natural, "noise": real, "residual": real}, {}))

KINDS: Mapping[str, Kind] = {
    "adapted": Kind(
        Adapted,
        record({"adapted": natural, "adapter": natural}, {"line": natural}),
        _adapted,
        lambda data: [data["adapted"], data["adapter"]],
        _read_adapted,
        ("adapter",),
    ),
    "transplant": Kind(
        Transplant,
        record({"transplant": natural, "tokenizer": natural, "method": text, "k": natural}, {"line": natural}),
        _transplant,
        lambda data: [data["transplant"], data["tokenizer"]],
        _read_transplant,
    ),
    "layers": Kind(
        Layers,
        record(
            {"layers": natural, "start": natural, "stop": natural},
            {"line": natural, "stack": text, "identity": anything, "module": text},
        ),
        _layers,
        lambda data: [data["layers"]],
        _read_layers,
    ),
    "stack": Kind(
        Stack, record({"stack": _NODES}, {"line": natural}), _stack, lambda data: list(data["stack"]), _read_stack
    ),
    "modules": Kind(
        Assembled,
        record({"modules": list_of(record({"module": text, "of": natural}, {})), "rest": natural}, {"line": natural}),
        _modules,
        lambda data: [*(part["of"] for part in data["modules"]), data["rest"]],
        _read_modules,
    ),
    "retokenized": Kind(
        Retokenized,
        record(
            {
                "retokenized": natural,
                "tokens": map_of(record({}, {"model": natural, "token": text, "id": natural, "line": natural})),
            },
            {"source": text, "model": natural, "base": natural, "multiple": natural, "line": natural},
        ),
        _retokenized,
        _below_retokenized,
        _read_retokenized,
    ),
    "cast": Kind(Cast, record({"cast": natural, "dtype": text}, {}), _cast, lambda data: [data["cast"]], _read_cast),
    "mixture": Kind(
        Mixture,
        record(
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
        _mixture,
        _below_mixture,
        _read_mixture,
    ),
    "sum": Kind(
        Linear,
        record({"sum": list_of(record({"times": anything, "of": natural}, {}))}, {}),
        _sum,
        lambda data: [term["of"] for term in data["sum"]],
        _read_sum,
    ),
    "apply": Kind(
        Apply,
        record(
            {"apply": text, "inputs": _NODES, "one": _SETTINGS, "each": list_of(_SETTINGS)},
            {
                "steps": list_of(record({"step": text, "given": list_of(text)}, {})),
                "own": record({"file": optional(text), "sha256": optional(text)}, {}),
                "variant": text,
                "companions": map_of(_NODES),
                "line": natural,
            },
        ),
        _apply,
        _below_apply,
        _read_apply,
    ),
}
"""Every kind but leaves, by the key that tells it."""

"""Checks a document against the table of keys: everything that needs no method to be known."""

from __future__ import annotations

import math

from stockpot.checkpoint.dtypes import DTYPES, dtype_named
from stockpot.errors import CheckpointError
from stockpot.recipe.keys import (
    CHAT_TEMPLATES,
    PLACES,
    Choice,
    Flag,
    Integer,
    ListOf,
    MapOf,
    Named,
    Number,
    Place,
    Section,
    Shape,
    Text,
)
from stockpot.recipe.known import nearest
from stockpot.recipe.parameters import setting_of
from stockpot.recipe.references import parted
from stockpot.recipe.scalars import describe, flag_of, integer_of, number_of
from stockpot.recipe.scope import Scope
from stockpot.recipe.steps import chosen
from stockpot.recipe.suggest import unknown_key_fix
from stockpot.recipe.yaml_nodes import Entry, Mapping, Node, Scalar, Sequence

__all__ = ["check_section", "check_value", "is_merge"]

_MERGE_KEYS = ("merge_method", "models", "slices", "modules")
_JINJA_LENGTH = 20


def is_merge(node: Node) -> bool:
    """Whether a mapping that stands for a model is a nested merge."""
    return isinstance(node, Mapping) and any(entry.key in _MERGE_KEYS for entry in node.entries)


def check_section(node: Node, place: Place, scope: Scope, line: int | None = None) -> None:
    """Report all of ``node`` that does not fit ``place``; ``line`` is where it is asked for."""
    if not isinstance(node, Mapping):
        names = ", ".join(k.name for k in place.keys)
        scope.findings.problem(f"{place.title} is {describe(node)}, not a mapping", line or node.line, f"keys: {names}")
        return
    if place.key("merge_method") is not None:
        scope = scope.within(chosen(node, scope.known).method)
    meant = {_check_entry(entry, place, scope) for entry in node.entries}
    for key in place.keys:
        if key.required and key.name not in meant:
            empty = next((e for e in node.entries if e.key == key.name), None)
            message = f"{key.name} is empty" if empty else f"{place.title} needs {key.name}"
            scope.findings.problem(message, empty.line if empty else line or node.line, f"{key.name}: {key.doc}")


def _check_entry(entry: Entry, place: Place, scope: Scope) -> str | None:
    """Check one entry; the name of the key that it gives, or was meant to give."""
    key = place.key(entry.key)
    if key is None:
        fix, meant = unknown_key_fix(entry.key, place, scope.known)
        scope.findings.unknown(f"unknown key {entry.key!r} in {place.title}", entry.line, fix)
        return None if scope.findings.lenient else meant
    if isinstance(entry.value, Scalar) and entry.value.tag == "null":
        return None
    _check(entry, key.shape, scope)
    return key.name


def _check(entry: Entry, shape: Shape, scope: Scope) -> None:
    node = entry.value
    if isinstance(shape, Section):
        check_section(
            node,
            PLACES[shape.place],
            scope,
            node.line if isinstance(node, Mapping) else entry.line,
        )
    elif isinstance(shape, ListOf):
        _check_list(entry, shape, scope)
    elif isinstance(shape, MapOf):
        _check_map(entry, shape, scope)
    elif isinstance(shape, Named):
        _NAMED[shape.form](entry, scope)
    else:
        wanted = _scalar_mismatch(node, shape)
        if wanted is not None:
            scope.findings.problem(f"{entry.key} is {describe(node)}, not {wanted}", entry.line)


def _scalar_mismatch(node: Node, shape: Text | Number | Flag | Integer | Choice) -> str | None:
    """What was wanted, when ``node`` does not fit."""
    if isinstance(shape, Text):
        return None if isinstance(node, Scalar) else "a text"
    if isinstance(shape, Number):
        number = number_of(node)
        return None if number is not None and math.isfinite(number) else "a finite number"
    if isinstance(shape, Flag):
        return None if flag_of(node) is not None else "true or false"
    if isinstance(shape, Choice):
        fits = isinstance(node, Scalar) and node.text in shape.words
        return None if fits else f"one of {', '.join(shape.words)}"
    whole = integer_of(node)
    if whole is not None and whole >= shape.low and (shape.high is None or whole <= shape.high):
        return None
    return f"a whole number from {shape.low}" + (f" to {shape.high}" if shape.high is not None else "")


def _check_list(entry: Entry, shape: ListOf, scope: Scope) -> None:
    node = entry.value
    if not isinstance(node, Sequence):
        fix = "write one item a line, each after a dash: - …"
        scope.findings.problem(f"{entry.key} is {describe(node)}, not a list of {shape.what}", entry.line, fix)
        return
    if len(node.items) < shape.at_least:
        scope.findings.problem(f"{entry.key} is an empty list", entry.line, f"list at least {shape.at_least}")
    for item in node.items:
        _check(Entry(entry.key, item, item.line), shape.of, scope)


def _check_map(entry: Entry, shape: MapOf, scope: Scope) -> None:
    if not isinstance(entry.value, Mapping):
        scope.findings.problem(f"{entry.key} is {describe(entry.value)}, not a mapping of {shape.what}", entry.line)
        return
    for item in entry.value.entries:
        _check(item, shape.of, scope)


def _check_model(entry: Entry, scope: Scope) -> None:
    node = entry.value
    if isinstance(node, Scalar):
        _check_reference(node, entry, scope)
    elif isinstance(node, Sequence):
        fix = "one entry for each model" if entry.key == "model" else None
        scope.findings.problem(f"{entry.key} is a list, not one model", entry.line, fix)
    elif is_merge(node):
        check_section(node, PLACES["merge"], scope)
    elif _is_placeholder(node):
        name = node.entries[0].key
        scope.findings.problem(
            f"{{{name}}} is a placeholder that was not filled in",
            entry.line,
            "put the path or hub id in its place",
        )
    else:
        check_section(node, PLACES["path" if node.get("path") else "reference"], scope)


def _check_reference(node: Scalar, entry: Entry, scope: Scope) -> None:
    if not node.text.strip():
        scope.findings.problem(f"{entry.key} is empty", entry.line, "a path, a hub id, or the name of a document")
    elif parted(node.text.strip(), scope.folder) is None:
        fix = f"if it is a path with + in it, write {{path: {node.text}}}"
        scope.findings.problem(f"{node.text!r} has more than one +, which adds an adapter to a model", entry.line, fix)


def _check_path(entry: Entry, scope: Scope) -> None:
    if not isinstance(entry.value, Scalar):
        check_section(entry.value, PLACES["path"], scope, entry.line)
    elif not entry.value.text.strip():
        scope.findings.problem(f"{entry.key} is empty", entry.line, "a path or a hub id")


def _is_placeholder(node: Mapping) -> bool:
    return (
        len(node.entries) == 1
        and isinstance(node.entries[0].value, Scalar)
        and (node.entries[0].value.tag == "null" and PLACES["reference"].key(node.entries[0].key) is None)
    )


def _check_method(entry: Entry, scope: Scope) -> None:
    node = entry.value
    if not isinstance(node, Scalar):
        scope.findings.problem(f"merge_method is {describe(node)}, not the name of a method", entry.line)
        return
    names = scope.known.names
    if node.text not in names and scope.known.complete:
        near = nearest(node.text, names)
        hint = f"did you mean {near}? " if near else ""
        fix = f"{hint}known methods: {', '.join(sorted(names))}"
        scope.findings.problem(f"unknown method {node.text!r}", entry.line, fix)


def _check_method_file(entry: Entry, scope: Scope) -> None:
    if not isinstance(entry.value, Scalar):
        check_section(entry.value, PLACES["method_file"], scope, entry.line)
    elif not entry.value.text.strip():
        scope.findings.problem("method_file is empty", entry.line, "the path of a Python file")


def _check_dtype(entry: Entry, scope: Scope) -> None:
    names = ", ".join(d.torch_name for d in DTYPES.values() if d.is_float)
    try:
        known = isinstance(entry.value, Scalar) and dtype_named(entry.value.text).is_float
    except CheckpointError:
        known = False
    if not known:
        scope.findings.problem(
            f"{entry.key} is {describe(entry.value)}, not a dtype of weights",
            entry.line,
            f"one of {names}",
        )


def _check_parameters(entry: Entry, scope: Scope) -> None:
    node = entry.value
    if not isinstance(node, Mapping):
        scope.findings.problem(
            f"parameters is {describe(node)}, not a mapping",
            entry.line,
            "parameters: {name: value}",
        )
        return
    if scope.method is None and not scope.known.complete:
        return  # a method of the user's own may mean anything by any name
    for own in node.entries:
        if scope.is_companion(own.key):
            _check_companion(own, scope)
        elif own.key in scope.known.parameters:
            check_value(own, scope)


def check_value(entry: Entry, scope: Scope) -> None:
    """A number, a gradient, or values by filter."""
    cases = entry.value.items if isinstance(entry.value, Sequence) else (entry.value,)
    if all(isinstance(case, Mapping) for case in cases):
        for case in cases:
            check_section(case, PLACES["case"], scope)
    setting_of(entry, scope.findings)


def _check_companion(entry: Entry, scope: Scope) -> None:
    """A checkpoint under ``parameters``: a model in any form, but no bare number, which is meant as a value."""
    node = entry.value
    if isinstance(node, Scalar) and node.tag in ("int", "float", "bool"):
        fix = f"a path, a hub id, or the name of a document; {{path: {node.text}}} if it is a path"
        scope.findings.problem(f"{entry.key} is {describe(node)}, not a checkpoint", entry.line, fix)
    elif isinstance(node, Scalar) and node.tag == "null":
        scope.findings.problem(f"{entry.key} is empty", entry.line, "a path, a hub id, or the name of a document")
    else:
        _check_model(entry, scope)


def _check_layer_range(entry: Entry, scope: Scope) -> None:
    items = entry.value.items if isinstance(entry.value, Sequence) else ()
    bounds = [integer_of(item) for item in items]
    fix = "[first, last + 1], counted from 0: [0, 16] is the first 16 layers"
    if len(bounds) != 2 or None in bounds:
        scope.findings.problem(f"layer_range is {_list_text(entry.value)}, not two whole numbers", entry.line, fix)
    elif not 0 <= (bounds[0] or 0) < (bounds[1] or 0):
        scope.findings.problem(f"layer_range [{bounds[0]}, {bounds[1]}] has no layers", entry.line, fix)


def _list_text(node: Node) -> str:
    if isinstance(node, Sequence) and all(isinstance(i, Scalar) for i in node.items):
        return "[" + ", ".join(i.text for i in node.items if isinstance(i, Scalar)) + "]"
    return describe(node)


def _check_chat_template(entry: Entry, scope: Scope) -> None:
    node = entry.value
    if not isinstance(node, Scalar):
        scope.findings.problem(f"chat_template is {describe(node)}, not a text", entry.line)
    elif node.text not in CHAT_TEMPLATES and ("{" not in node.text or len(node.text) < _JINJA_LENGTH):
        fix = f"one of {', '.join(CHAT_TEMPLATES)}, or a Jinja template"
        scope.findings.problem(f"unknown chat template {describe(node)}", entry.line, fix)


def _check_token_source(entry: Entry, scope: Scope) -> None:
    if isinstance(entry.value, Mapping) and any(e.key == "kind" for e in entry.value.entries):
        check_section(entry.value, PLACES["token_source"], scope, entry.line)
    else:
        _check_model(entry, scope)


def _check_nothing(entry: Entry, scope: Scope) -> None:
    """Values of parameters are checked with their name, steps with their method, others by whoever reads them."""


_NAMED = {
    "model": _check_model,
    "path": _check_path,
    "method": _check_method,
    "method_file": _check_method_file,
    "steps": _check_nothing,
    "later": _check_nothing,
    "dtype": _check_dtype,
    "parameters": _check_parameters,
    "gradient": _check_nothing,
    "layer_range": _check_layer_range,
    "chat_template": _check_chat_template,
    "token_source": _check_token_source,
}

"""The JSON Schema of recipes, read off the table of keys and the registry of methods."""

from __future__ import annotations

from typing import Any

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.methods.declare import Parameter
from stockpot.methods.registry import METHODS
from stockpot.recipe.keys import (
    CHAT_TEMPLATES,
    PLACES,
    Choice,
    Flag,
    Integer,
    Key,
    ListOf,
    MapOf,
    Named,
    Number,
    Place,
    Section,
    Shape,
)
from stockpot.recipe.known import PENDING, known_parameters, known_words

__all__ = ["json_schema"]

_NUMERIC = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_WORD = {"type": ["string", "number", "boolean"]}


def json_schema() -> dict[str, Any]:
    """A schema (draft 2020-12) of one recipe document, for editors: completion, docs and checks.

    >>> json_schema()["$defs"]["case"]["required"]
    ['value']
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stockpot recipe",
        "description": "One document of a recipe; mergekit's YAML with additions.",
        "type": "object",
        "if": {"anyOf": [{"required": ["experts"]}, {"required": ["gate_mode"]}]},
        "then": {"$ref": "#/$defs/experts"},
        "else": {"$ref": "#/$defs/recipe"},
        "$defs": {name: _place(place) for name, place in PLACES.items()} | _forms(),
    }


def _place(place: Place) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "title": place.title,
        "type": "object",
        "properties": {key.name: _key(key) for key in place.keys},
        "required": [key.name for key in place.keys if key.required],
        "additionalProperties": False,
    }
    inputs = [name for name in ("models", "slices", "modules") if place.key(name) is not None]
    if inputs:
        schema["oneOf"] = [{"required": [name]} for name in inputs]
    return schema


def _key(key: Key) -> dict[str, Any]:
    shape = _shape(key.shape)
    if not key.required:
        shape = {"anyOf": [shape, {"type": "null"}]}
    return {"description": key.doc, **shape}


def _shape(shape: Shape) -> dict[str, Any]:
    match shape:
        case Section(place):
            return {"$ref": f"#/$defs/{place}"}
        case ListOf(of, _, at_least):
            return {"type": "array", "items": _shape(of), "minItems": at_least}
        case MapOf(of, _):
            return {"type": "object", "additionalProperties": _shape(of)}
        case Named(form):
            return {"$ref": f"#/$defs/form_{form}"}
        case Choice(words):
            return {"enum": list(words)}
        case Integer(low, high):
            bound = {} if high is None else {"maximum": high}
            return {"type": "integer", "minimum": low, **bound}
        case Flag():
            return {"type": "boolean"}
        case Number():
            return {"type": "number"}
    return dict(_WORD)


def _forms() -> dict[str, Any]:
    model = [{"type": ["string", "number"]}, *({"$ref": f"#/$defs/{p}"} for p in _MODEL_FORMS)]
    forms = {
        "model": {"anyOf": model},
        "path": {"anyOf": [{"type": ["string", "number"]}, {"$ref": "#/$defs/path"}]},
        "method": _methods(),
        "dtype": {"enum": _dtypes()},
        "parameters": _parameters(),
        "gradient": _value({}),
        "layer_range": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0},
            "minItems": 2,
            "maxItems": 2,
        },
        "chat_template": {"anyOf": [{"enum": list(CHAT_TEMPLATES)}, {"type": "string", "minLength": 20}]},
        "token_source": {"anyOf": [{"$ref": "#/$defs/token_source"}, {"$ref": "#/$defs/form_model"}]},
    }
    return {f"form_{name}": schema for name, schema in forms.items()}


_MODEL_FORMS = ("path", "reference", "merge")


def _methods() -> dict[str, Any]:
    """Names, aliases and methods still to come, each with its line."""
    docs = {name: method.summary for name, method in METHODS.items()}
    docs |= {alias: f"{m.name}: {m.summary}" for m in METHODS.values() for alias in m.aliases}
    docs |= dict.fromkeys(PENDING, "not yet supported")
    return {"enum": list(docs), "enumDescriptions": list(docs.values())}


def _dtypes() -> list[str]:
    floats = [d for d in DTYPES.values() if d.is_float]
    names = [name for d in floats for name in (*d.names, d.code)]
    return [*names, *(f"torch.{d.torch_name}" for d in floats)]


def _parameters() -> dict[str, Any]:
    properties = {name: {"description": doc, **_setting(_values(name))} for name, doc in known_parameters().items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _values(name: str) -> dict[str, Any]:
    """What ``name`` may be: words, where some method takes them; numbers, unless all do."""
    words = known_words().get(name)
    numbers = _value(_bounds(name))
    if words is None:
        return numbers
    kinds = {p.kind for m in METHODS.values() for p in m.parameters if p.name == name}
    return {"anyOf": [{"enum": list(words)}, *(numbers["anyOf"] if kinds != {"choice"} else [])]}


def _bounds(name: str) -> dict[str, float]:
    """The range of ``name``, when every method that takes it agrees on one."""
    found = [_range(p) for m in METHODS.values() for p in m.parameters if p.name == name]
    return found[0] if found and all(r == found[0] for r in found) else {}


def _range(parameter: Parameter) -> dict[str, float]:
    bounds: dict[str, float] = {}
    if parameter.low is not None:
        bounds["exclusiveMinimum" if parameter.open_low else "minimum"] = parameter.low
    if parameter.high is not None:
        bounds["maximum"] = parameter.high
    if parameter.kind == "int":
        bounds["multipleOf"] = 1
    return bounds


def _value(bounds: dict[str, float]) -> dict[str, Any]:
    """A number (also as text, which 1e-5 is to YAML 1.1), or a gradient of numbers."""
    number = {"type": ["number", "boolean", "string"], "pattern": _NUMERIC, **bounds}
    return {"anyOf": [number, {"type": "array", "items": number, "minItems": 1}]}


def _setting(value: dict[str, Any]) -> dict[str, Any]:
    properties = {"value": value, "filter": {"anyOf": [_WORD, {"type": "null"}]}}
    case = {
        "type": "object",
        "properties": properties,
        "required": ["value"],
        "additionalProperties": False,
    }
    return {"anyOf": [*value["anyOf"], case, {"type": "array", "items": case, "minItems": 1}]}

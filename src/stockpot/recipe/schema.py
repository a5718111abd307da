"""The JSON Schema of recipes, read off the table of keys and the registry of methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stockpot.checkpoint.dtypes import DTYPES
from stockpot.methods.declare import Parameter
from stockpot.methods.pieces import PIECES, Piece
from stockpot.methods.registry import METHODS
from stockpot.recipe.holes import FORMS, LAYERS
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
from stockpot.recipe.known import STEPS, declared_parameters, known_parameters

__all__ = ["json_schema"]

_NUMERIC = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_WORD = {"type": ["string", "number", "boolean"]}


def json_schema(*, search: bool = False) -> dict[str, Any]:
    """A schema (draft 2020-12) of one recipe document, for editors: completion, docs and checks.

    Args:
        search: Whether values may be left open, for ``stockpot search``.

    >>> json_schema()["$defs"]["case"]["required"]
    ['value']
    """
    defs = {name: _place(place) for name, place in PLACES.items()} | _forms()
    if search:
        defs = _with_holes(defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Stockpot recipe",
        "description": "One document of a recipe; mergekit's YAML with additions.",
        "type": "object",
        "if": {"anyOf": [{"required": ["experts"]}, {"required": ["gate_mode"]}]},
        "then": {"$ref": "#/$defs/experts"},
        "else": {
            "if": {"required": ["method_file"], "properties": {"method_file": {"not": {"type": "null"}}}},
            "then": {"$ref": "#/$defs/own_recipe"},
            "else": {"$ref": "#/$defs/recipe"},
        },
        "$defs": defs | _of_your_own(defs),
    }


def _with_holes(defs: dict[str, Any]) -> dict[str, Any]:
    """The same where any value may be a hole, and a slice may have its layers searched."""
    opened = {name: _opened(schema) for name, schema in defs.items()}
    doc = "layers: each layer of the range is in or out"
    opened["slice"]["properties"]["search"] = {"description": doc, "const": LAYERS}
    holes = {f"hole_{name}": _place(place) for name, place in FORMS.items()}
    holes["hole_search"]["properties"]["search"] |= {"minItems": 2, "maxItems": 2}
    holes["hole_choice"]["properties"]["choice"] |= {"items": {}}
    return opened | holes | {"hole": {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in holes]}}


def _opened(schema: Any) -> Any:
    """``schema`` where each value of a key and each item of a list may be a hole."""
    if isinstance(schema, list):
        return [_opened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: _or_hole(_opened(own)) for name, own in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            found[key] = _or_hole(_opened(value))
        else:
            found[key] = value if key in ("if", "then", "else") else _opened(value)
    return found


def _or_hole(schema: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in schema.items() if key == "description"}
    own = {key: value for key, value in schema.items() if key != "description"}
    return told | {"anyOf": [own, {"$ref": "#/$defs/hole"}]}


def _of_your_own(defs: dict[str, Any]) -> dict[str, Any]:
    """The same for documents with a method file, whose methods and parameters have names of the user's choice."""
    own = {f"own_{name}": _renamed(schema) for name, schema in defs.items()}
    own["own_form_method"] = {"anyOf": [own["own_form_method"], {"type": "string"}]}
    parameters, anything = own["own_form_parameters"], _setting(_value({}))
    parameters["additionalProperties"] = anything
    for schema in parameters["properties"].values():
        schema["anyOf"] = [*schema["anyOf"], *anything["anyOf"]]
    return own


def _renamed(schema: Any) -> Any:
    """``schema`` with references to the definitions of documents with a method file."""
    if isinstance(schema, list):
        return [_renamed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.replace("#/$defs/", "#/$defs/own_") if key == "$ref" else _renamed(value)
        for key, value in schema.items()
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
    if place.key(STEPS) is not None:
        schema["if"] = {"properties": {"merge_method": {"const": STEPS}}, "required": ["merge_method"]}
        schema["then"] = {"properties": {STEPS: {"type": "array"}}, "required": [STEPS]}
        schema["else"] = {"properties": {STEPS: {"type": "null"}}}
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
        "method_file": {"anyOf": [_WORD, {"$ref": "#/$defs/method_file"}]},
        "steps": {"type": "array", "items": _step(), "minItems": 1},
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
_CHECKPOINT = [{"type": "string"}, *({"$ref": f"#/$defs/{place}"} for place in _MODEL_FORMS)]


def _methods() -> dict[str, Any]:
    """Names and aliases, each with its line."""
    docs = {name: method.summary for name, method in METHODS.items()}
    docs |= {alias: f"{m.name}: {m.summary}" for m in METHODS.values() for alias in m.aliases}
    docs[STEPS] = "A chain of steps, written under steps."
    return {"enum": list(docs), "enumDescriptions": list(docs.values())}


def _step() -> dict[str, Any]:
    """A name, or one name with values."""
    names = {"enum": list(PIECES), "enumDescriptions": [piece.doc for piece in PIECES.values()]}
    mapping = {
        "type": "object",
        "properties": {name: {"description": p.doc, **_values_of(p)} for name, p in PIECES.items()},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [names, mapping]}


def _values_of(piece: Piece) -> dict[str, Any]:
    properties = {p.name: {"description": p.doc, **_setting(_values([p]))} for p in piece.parameters}
    section = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"anyOf": [section, {"type": "null"}]}


def _dtypes() -> list[str]:
    floats = [d for d in DTYPES.values() if d.is_float]
    names = [name for d in floats for name in (*d.names, d.code)]
    return [*names, *(f"torch.{d.torch_name}" for d in floats)]


def _parameters() -> dict[str, Any]:
    """Values of parameters, and companions, which are models."""
    every = declared_parameters()
    properties = {
        name: {"description": doc, **_setting(_values([p for _, p in every if p.name == name]))}
        for name, doc in known_parameters().items()
    }
    for method in METHODS.values():
        for companion in method.companions:
            doc = f"{method.name}: {companion.doc}"
            properties[companion.name] = {"description": doc, "anyOf": _CHECKPOINT}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _values(declared: Sequence[Parameter]) -> dict[str, Any]:
    """What a parameter may be: words, where some method takes them; numbers, unless all do."""
    ranges = [_range(p) for p in declared]
    numbers = _value(ranges[0] if ranges and all(r == ranges[0] for r in ranges) else {})
    words = list(dict.fromkeys(word for p in declared for word in p.choices))
    if not words:
        return numbers
    only = all(p.kind == "choice" for p in declared)
    return {"anyOf": [{"enum": words}, *([] if only else numbers["anyOf"])]}


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

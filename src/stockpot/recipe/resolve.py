"""A recipe as plain data, defaults made explicit; as YAML documents, it parses to itself."""

from __future__ import annotations

from typing import Any

from stockpot.methods.declare import REQUIRED
from stockpot.methods.registry import method_named
from stockpot.recipe.known import known_parameters
from stockpot.recipe.library import Library
from stockpot.recipe.records import Merge, Model, Settings, Slice, Source
from stockpot.settings import Case, Setting

__all__ = ["resolved"]


def resolved(library: Library, seed: int) -> dict[str, Any]:
    """``{"documents": […]}``: each document as data, the result last, defaults written out."""
    others = [merge for merge in library.merges if merge is not library.result]
    documents = [_merge(merge) for merge in others]
    last = _merge(library.result)
    last["seed"] = seed
    return {"documents": [*documents, last]}


def _merge(merge: Merge) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if merge.names:
        data |= dict(zip(("name", "out_path"), merge.names, strict=False))
    method = method_named(merge.method or "")
    data["merge_method"] = method.name
    if merge.base is not None:
        data["base_model"] = _model(merge.base)
    body: dict[str, Any]
    if merge.sliced:
        body = {"slices": [_slice(piece) for piece in merge.slices]}
    else:
        body = {"models": [_source(source) for piece in merge.slices for source in piece.sources]}
    if merge.module is not None:
        name, parameters = merge.module
        data["modules"] = {name: body | _parameters(parameters)}
    else:
        data |= body
    data["parameters"] = _settings(merge.parameters) | _defaults(merge)
    data |= merge.dtypes
    if merge.variant is not None:
        data["variant"] = merge.variant
    if merge.compat is not None:
        data["compat"] = "mergekit" if merge.compat else "none"
    if merge.seed is not None:
        data["seed"] = merge.seed
    data |= merge.extra
    return data


def _defaults(merge: Merge) -> dict[str, Any]:
    """Settings of the whole merge that end in the method's defaults."""
    method = method_named(merge.method or "")
    defaults = {p.name: p.default for p in method.parameters if p.default is not REQUIRED}
    if method.scaled:
        defaults.setdefault("lambda", 1.0)
    found = {}
    for name, default in defaults.items():
        written = merge.parameters.get(name)
        cases = () if written is None else written.cases
        if all(case.filter not in (None, "*") for case in cases):
            found[name] = _setting(Setting((*cases, Case(None, default))))
    return found


def _slice(piece: Slice) -> dict[str, Any]:
    data: dict[str, Any] = {"sources": [_source(source) for source in piece.sources]}
    if piece.base is not None:
        data["base_model"] = _model(piece.base)
    return data | _parameters(piece.parameters)


def _source(source: Source) -> dict[str, Any]:
    data: dict[str, Any] = {"model": _model(source.model)}
    if source.layer_range is not None:
        data["layer_range"] = list(source.layer_range)
    return data | _parameters(source.parameters)


def _model(model: Model) -> Any:
    if isinstance(model, Merge):
        return _merge(model)
    if not set("+@") & set(model.path):
        return str(model)
    return {"path": model.path} | ({} if model.revision is None else {"revision": model.revision})


def _parameters(settings: Settings) -> dict[str, Any]:
    return {"parameters": _settings(settings)} if settings else {}


def _settings(settings: Settings) -> dict[str, Any]:
    known = known_parameters()
    return {name: _setting(setting) for name, setting in settings.items() if name in known}


def _setting(setting: Setting) -> Any:
    cases = [
        {"value": list(case.value) if isinstance(case.value, tuple) else case.value}
        | ({} if case.filter is None else {"filter": case.filter})
        for case in setting.cases
    ]
    return cases[0]["value"] if len(cases) == 1 and "filter" not in cases[0] else cases

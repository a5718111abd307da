"""A recipe as plain data, defaults made explicit; as YAML documents, it parses to itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stockpot.methods.declare import REQUIRED, Method
from stockpot.methods.pieces import Use
from stockpot.recipe.known import STEPS, takes
from stockpot.recipe.library import Library
from stockpot.recipe.records import Merge, Model, Parameters, Slice, Source
from stockpot.settings import Case, Setting, as_plain

__all__ = ["resolved"]


def resolved(library: Library, seed: int) -> dict[str, Any]:
    """``{"documents": […]}``: each document as data, the result last, defaults written out."""
    others = [merge for merge in library.merges if merge is not library.result]
    documents = [_merge(merge) for merge in others]
    last = _merge(library.result)
    last["seed"] = seed
    return {"documents": [*documents, last]}


def _merge(merge: Merge) -> dict[str, Any]:
    method = merge.method
    assert method is not None
    data: dict[str, Any] = dict(zip(("name", "out_path"), merge.names, strict=False))
    if merge.file is not None:
        data["method_file"] = {"path": merge.file.path, "sha256": merge.file.sha256}
    data["merge_method"] = method.name
    if merge.uses:
        data[STEPS] = [_step(use) for use in merge.uses]
    if merge.base is not None:
        data["base_model"] = _model(merge.base)
    data |= _inputs(merge)
    data["parameters"] = _values(merge.parameters, merge) | _defaults(merge, method)
    data |= merge.dtypes
    if merge.variant is not None:
        data["variant"] = merge.variant
    if merge.compat is not None:
        data["compat"] = "mergekit" if merge.compat else "none"
    if merge.seed is not None:
        data["seed"] = merge.seed
    return {**data, **merge.extra}


def _step(use: Use) -> Any:
    values = {name: as_plain(setting) for name, setting in use.given.items()}
    return {use.piece.name: values} if values else use.piece.name


def _inputs(merge: Merge) -> dict[str, Any]:
    """``models``, ``slices`` or ``modules``."""
    if merge.modules:
        parts = [next(iter(_inputs(module)["modules"].items())) for module in merge.modules]
        return {"modules": dict(parts)}
    body: dict[str, Any]
    if merge.sliced:
        body = {"slices": [_slice(piece, merge) for piece in merge.slices]}
    else:
        body = {"models": [_source(source, merge) for piece in merge.slices for source in piece.sources]}
    if merge.module is None:
        return body
    name, parameters = merge.module
    return {"modules": {name: body | _parameters(parameters, merge)}}


def _defaults(merge: Merge, method: Method) -> dict[str, Any]:
    """Settings of the whole merge that end in the method's defaults."""
    names = takes(method, merge.given)
    defaults = {p.name: p.default for p in method.parameters if p.default is not REQUIRED and p.name in names}
    if method.scaled:
        defaults.setdefault("lambda", 1.0)
    found = {}
    for name, default in defaults.items():
        written = merge.parameters.settings.get(name)
        cases = () if written is None else written.cases
        if all(case.filter not in (None, "*") for case in cases):
            found[name] = as_plain(Setting((*cases, Case(None, default))))
    return found


def _slice(piece: Slice, merge: Merge) -> dict[str, Any]:
    data: dict[str, Any] = {"sources": [_source(source, merge) for source in piece.sources]}
    if piece.base is not None:
        data["base_model"] = _model(piece.base)
    return data | _parameters(piece.parameters, merge)


def _source(source: Source, merge: Merge) -> dict[str, Any]:
    data: dict[str, Any] = {"model": _model(source.model)}
    if source.layer_range is not None:
        data["layer_range"] = list(source.layer_range)
    if source.stack is not None:
        data["stack"] = source.stack
    if source.identity:
        data["identity"] = True
    return data | _parameters(source.parameters, merge)


def _model(model: Model) -> Any:
    if isinstance(model, Merge):
        return _merge(model)
    if model.lora is not None:
        plain = _model(replace(model, lora=None))
        return {"model": plain if isinstance(plain, dict) else {"path": plain}, "lora": _word(model.lora)}
    if not set("+@") & set(model.path):
        return str(model)
    return {"path": model.path} | ({} if model.revision is None else {"revision": model.revision})


def _word(adapter: str) -> Any:
    return {"path": adapter} if "+" in adapter else adapter


def _parameters(section: Parameters, merge: Merge) -> dict[str, Any]:
    return {"parameters": _values(section, merge)} if section else {}


def _values(section: Parameters, merge: Merge) -> dict[str, Any]:
    """Values of parameters that some method has, and the companions that this one reads."""
    own = {c.name for c in merge.method.companions} if merge.method is not None else set()
    settings = {n: as_plain(s) for n, s in section.settings.items() if n in merge.known.parameters}
    return settings | {n: _model(m) for n, m in section.companions.items() if n in own}

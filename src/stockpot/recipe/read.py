"""YAML nodes → records; silent where the shape is wrong, which :mod:`.shapes` has reported."""

from __future__ import annotations

from dataclasses import replace

from stockpot.checkpoint.dtypes import dtype_named
from stockpot.errors import CheckpointError
from stockpot.methods.declare import Base
from stockpot.recipe.findings import Findings
from stockpot.recipe.known import STEPS
from stockpot.recipe.method_files import MethodFile
from stockpot.recipe.parameters import settings_of
from stockpot.recipe.records import Merge, Model, Parameters, Reference, Slice, Source
from stockpot.recipe.references import parted
from stockpot.recipe.scalars import flag_of, integer_of, plain
from stockpot.recipe.scope import Scope
from stockpot.recipe.shapes import check_value, is_merge
from stockpot.recipe.steps import check_steps, chosen
from stockpot.recipe.tokenizers import read_tokenizer
from stockpot.recipe.yaml_nodes import Entry, Mapping, Node, Scalar, Sequence

__all__ = ["read_merge", "read_model"]

_INPUTS = ("models", "slices", "modules")
_EXTRA = ("tokenizer_source", "tokenizer", "chat_template", "mismatched", "quantize")


def read_merge(node: Mapping, scope: Scope, file: MethodFile | None = None) -> Merge:
    """The merge that ``node`` writes; reports what is missing or given twice among its inputs and steps."""
    choice = chosen(node, scope.known)
    scope = scope.within(choice.method)
    modules = _modules(node)
    holders = [entry.value for entry in modules if isinstance(entry.value, Mapping)] or [node]
    _one_input(node, holders, scope.findings)
    _steps_or_method(node, scope)
    whole = Merge(
        method=choice.method,
        method_line=(node.get("merge_method") or node).line,
        uses=choice.uses,
        given=choice.given,
        known=scope.known,
        file=file,
        base=_base(node, scope),
        slices=(),
        sliced=False,
        module=None,
        parameters=_parameters(node, scope),
        dtype=_dtype(node, "out_dtype") or _dtype(node, "dtype"),
        dtypes={k: v for k in ("dtype", "out_dtype") if (v := _dtype(node, k)) is not None},
        variant=_text(node, "variant"),
        compat=_compat(node),
        seed=_seed(node),
        names=tuple(n for k in ("name", "out_path") if (n := _text(node, k))),
        tokenizer=read_tokenizer(node, lambda entry: _named(entry, scope), scope.findings),
        chat_template=_text(node, "chat_template"),
        origin=id(node),
        extra={k: plain(e.value) for k in _EXTRA if (e := node.get(k)) is not None},
        line=node.line,
    )
    if not modules:
        return _filled(whole, node, scope)
    parts = tuple(
        replace(_filled(whole, of, scope), module=(entry.key, _parameters(of, scope)))
        for entry, of in zip(modules, holders, strict=False)
    )
    if len(parts) == 1:
        return parts[0]
    each = (
        replace(part, tower=part.module[0], names=(), seed=None, origin=id(of))
        for part, of in zip(parts, holders, strict=True)
        if part.module is not None
    )
    return replace(whole, modules=tuple(each))


def _filled(merge: Merge, holder: Mapping, scope: Scope) -> Merge:
    """``merge`` with the models or slices that stand in ``holder``."""
    return replace(merge, slices=_slices(holder, scope), sliced=bool(_items(holder, "slices")))


def _base(node: Mapping, scope: Scope) -> Model | None:
    """What ``base_model`` says; of a method that needs one where none is named, the origin of the scope."""
    named = _model(node.get("base_model"), scope)
    needed = scope.method is not None and scope.method.base is Base.REQUIRED
    return Reference(scope.origin) if named is None and needed and scope.origin is not None else named


def read_model(node: Mapping, key: str, scope: Scope) -> Model | None:
    """The model under ``key``; None where there is none, or none that can be read."""
    return _model(node.get(key), scope)


def _steps_or_method(node: Mapping, scope: Scope) -> None:
    """``steps:`` stands with ``merge_method: steps``, and with nothing else."""
    method, steps = node.get("merge_method"), node.get(STEPS)
    chain = _text(node, "merge_method") == STEPS
    if steps is not None and (chain or method is None):
        check_steps(steps, scope.findings, lambda value: check_value(value, scope))
    elif steps is not None:
        fix = "write merge_method: steps, or leave the steps out"
        if scope.method is not None and any(p.name == STEPS for p in scope.method.parameters):
            fix = "it is a parameter: indent it under parameters (parameters: {steps: …})"
        message = f"steps belong to merge_method: steps, not to {_text(node, 'merge_method')}"
        scope.findings.problem(message, steps.line, fix)
    elif chain and method is not None:
        fix = "steps: [{trim: {density: 0.2}}, elect, mean]"
        scope.findings.problem("merge_method: steps needs its steps", method.line, fix)


def _modules(node: Mapping) -> list[Entry]:
    """The modules, each with a mapping that holds models or slices."""
    entry = node.get("modules")
    if entry is None or not isinstance(entry.value, Mapping):
        return []
    return [module for module in entry.value.entries if isinstance(module.value, Mapping)]


def _one_input(node: Mapping, holders: list[Mapping], findings: Findings) -> None:
    """Exactly one of models, slices and modules; in a module, one of models and slices."""
    given = [key for key in _INPUTS if node.get(key) is not None]
    line = node.line
    if not given:
        fix = "models: a list of entries with model: and, perhaps, parameters:"
        findings.problem("there is nothing to merge: no models, slices or modules", line, fix)
    elif len(given) > 1:
        second = node.get(given[1])
        where = second.line if second is not None else line
        findings.problem(f"{' and '.join(given)} are given, of which one is wanted", where, "keep one")
    for holder in holders if len(given) == 1 else ():
        if holder is not node and bool(holder.get("models")) == bool(holder.get("slices")):
            findings.problem("a module has either models or slices", holder.line, "keep one")


def _slices(holder: Mapping, scope: Scope) -> tuple[Slice, ...]:
    pieces = _items(holder, "slices")
    if not pieces:
        models = _sources(holder, "models", scope)
        return (Slice(models, None, Parameters(), holder.line),) if models else ()
    return tuple(
        Slice(
            _sources(p, "sources", scope),
            _model(p.get("base_model"), scope),
            _parameters(p, scope),
            p.line,
        )
        for p in pieces
    )


def _sources(holder: Mapping, key: str, scope: Scope) -> tuple[Source, ...]:
    found = []
    for item in _items(holder, key):
        model = _model(item.get("model"), scope, item)
        if model is not None:
            span, stack, identity = _layer_range(item), _text(item, "stack"), _flag(item, "identity")
            found.append(Source(model, span, _parameters(item, scope), item.line, stack, identity))
    return tuple(found)


def _items(holder: Mapping, key: str) -> tuple[Mapping, ...]:
    entry = holder.get(key)
    if entry is None or not isinstance(entry.value, Sequence):
        return ()
    return tuple(item for item in entry.value.items if isinstance(item, Mapping))


def _model(entry: Entry | None, scope: Scope, beside: Mapping | None = None) -> Model | None:
    """The model that ``entry`` names; ``beside`` may add ``revision`` and ``lora``."""
    if entry is None:
        return None
    node = entry.value
    if isinstance(node, Mapping) and is_merge(node):
        if beside is not None and beside.get("lora") is not None:
            fix = "write the merge as a document with a name, and NAME+ADAPTER here"
            scope.findings.problem("an adapter beside a merge that stands in place", entry.line, fix)
        return read_merge(node, scope)
    reference = _reference(node, entry.line, scope)
    if reference is None or beside is None:
        return reference
    revision, lora = _text(beside, "revision"), _adapter(beside, scope)
    if lora is not None and reference.lora is not None:
        scope.findings.problem(f"two adapters: {reference} and lora: {lora}", entry.line, "name one of them")
    return Reference(reference.path, revision or reference.revision, lora or reference.lora, entry.line)


def _named(entry: Entry | None, scope: Scope) -> Reference | None:
    """The checkpoint or document that ``entry`` names; a merge that stands in place has no name to be known by."""
    if entry is not None and isinstance(entry.value, Mapping) and is_merge(entry.value):
        fix = "write it as a document with a name, and name that"
        scope.findings.problem(f"{entry.key} is a merge, not the name of a model", entry.line, fix)
        return None
    return None if entry is None else _reference(entry.value, entry.line, scope)


def _reference(node: Node, line: int, scope: Scope) -> Reference | None:
    if isinstance(node, Scalar):
        parts = parted(node.text.strip(), scope.folder)
        if not node.text.strip() or parts is None:
            return None
        return _at(parts[0], line, parts[1])
    if not isinstance(node, Mapping):
        return None
    path = _text(node, "path")
    if path:
        return Reference(path, _text(node, "revision"), None, line)
    inner = node.get("model")
    if inner is None:
        return None
    if isinstance(inner.value, Scalar):
        return _at(inner.value.text.strip(), line, _adapter(node, scope)) if inner.value.text.strip() else None
    found = _reference(inner.value, line, scope)
    return None if found is None else Reference(found.path, found.revision, _adapter(node, scope), line)


def _at(text: str, line: int, lora: str | None) -> Reference:
    """``path@revision``; an @ at the very start, or a second one, belongs to the path."""
    path, _, revision = text.rpartition("@")
    return Reference(path, revision, lora, line) if path and revision else Reference(text, None, lora, line)


def _adapter(node: Mapping, scope: Scope) -> str | None:
    """The adapter under ``lora``, as one word."""
    entry = node.get("lora")
    if entry is None:
        return None
    found = _reference(entry.value, entry.line, scope)
    if found is None or found.lora is not None:
        scope.findings.problem("lora is not the name of one adapter", entry.line, "a path or a hub id")
        return None
    return str(found)


def _parameters(node: Mapping, scope: Scope) -> Parameters:
    entry = node.get("parameters")
    if entry is None or not isinstance(entry.value, Mapping):
        return Parameters()
    named = [e for e in entry.value.entries if scope.is_companion(e.key)]
    models = {e.key: _model(e, scope) for e in named}
    return Parameters(settings_of(entry.value, scope), {name: m for name, m in models.items() if m is not None})


def _layer_range(node: Mapping) -> tuple[int, int] | None:
    entry = node.get("layer_range")
    if entry is None or not isinstance(entry.value, Sequence) or len(entry.value.items) != 2:
        return None
    first, last = (integer_of(item) for item in entry.value.items)
    return (first, last) if first is not None and last is not None and 0 <= first < last else None


def _text(node: Mapping, key: str) -> str | None:
    entry = node.get(key)
    return entry.value.text if entry is not None and isinstance(entry.value, Scalar) else None


def _flag(node: Mapping, key: str) -> bool:
    entry = node.get(key)
    return entry is not None and flag_of(entry.value) is True


def _dtype(node: Mapping, key: str) -> str | None:
    text = _text(node, key)
    if text is None:
        return None
    try:
        found = dtype_named(text)
    except CheckpointError:
        return None
    return found.torch_name if found.is_float else None


def _compat(node: Mapping) -> bool | None:
    text = _text(node, "compat")
    return None if text is None else text == "mergekit"


def _seed(node: Mapping) -> int | None:
    entry = node.get("seed")
    return None if entry is None else integer_of(entry.value)

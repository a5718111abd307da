"""Expressions as models: which tensors they have, and how each is computed.

A view lists tensor names with dtype and shape and lowers one name at a time to an operand. Views of
layers and stacks rename; views of methods and sums compare their inputs. All problems are collected,
none is raised, so that a plan reports everything at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from stockpot.architecture.layers import layer_counts, parse_layer, position, recomputed_buffer
from stockpot.architecture.tied import embedding_of, is_head, ties_embeddings
from stockpot.checkpoint.dtypes import DType, dtype_named
from stockpot.checkpoint.model import Checkpoint
from stockpot.errors import Problem
from stockpot.expression import Apply, Cast, Expression, Layers, Leaf, Linear, Stack
from stockpot.methods.declare import REQUIRED, Parameter, Resolved
from stockpot.planning.model import Compute, Operand, Read
from stockpot.settings import Setting, first_value

__all__ = ["Context", "Meta", "View", "apart", "build_view"]


@dataclass(frozen=True)
class Meta:
    """Dtype and shape of a tensor."""

    dtype: DType
    shape: tuple[int, ...]


@dataclass
class Context:
    """What building views shares: opened checkpoints, the seed, and the problems found so far."""

    checkpoints: Mapping[tuple[str, str | None, int], Checkpoint]
    seed: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    cache: dict[int, View] = field(default_factory=dict)

    def problem(self, message: str, **where: Any) -> None:
        """Remember one problem, once."""
        found = Problem(message, **where)
        if found not in self.problems:
            self.problems.append(found)

    def note(self, message: str, **where: Any) -> None:
        """Remember something worth telling, once."""
        found = Problem(message, **where)
        if found not in self.notes:
            self.notes.append(found)


class View(Protocol):
    """An expression seen as a set of named tensors."""

    @property
    def label(self) -> str:
        """How the user wrote it."""

    @property
    def names(self) -> Mapping[str, Meta]:
        """Name → dtype and shape, in order."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The config that goes with it."""

    @property
    def sliced(self) -> str | None:
        """The stack that layers were taken from; None for a whole model."""

    def lower(self, name: str) -> Operand:
        """How tensor ``name`` is computed."""

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        """Config of the (first) checkpoint that tensor ``name`` comes from, and its name there."""


def build_view(expression: Expression, context: Context) -> View:
    """The view of ``expression``; the same node gives the same view."""
    found = context.cache.get(id(expression))
    if found is None:
        found = _build(expression, context)
        context.cache[id(expression)] = found
    return found


def _build(expression: Expression, context: Context) -> View:
    if isinstance(expression, Leaf):
        return LeafView(context.checkpoints[expression.key])
    if isinstance(expression, Layers):
        return LayersView(expression, build_view(expression.of, context), context)
    if isinstance(expression, Stack):
        return StackView([build_view(p, context) for p in expression.parts])
    if isinstance(expression, Cast):
        return CastView(build_view(expression.of, context), dtype_named(expression.dtype))
    if isinstance(expression, Apply):
        return ApplyView(expression, context)
    assert isinstance(expression, Linear)
    return LinearView(expression, context)


@dataclass(frozen=True)
class LeafView:
    """A checkpoint."""

    checkpoint: Checkpoint

    @property
    def label(self) -> str:
        return self.checkpoint.label

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {name: Meta(ref.dtype, ref.shape) for name, ref in self.checkpoint.tensors.items()}

    @property
    def config(self) -> Mapping[str, Any]:
        return self.checkpoint.config

    @property
    def sliced(self) -> None:
        return None

    def lower(self, name: str) -> Operand:
        return Read(self.checkpoint.tensors[name], self.label)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.config, name


def main_stack(names: Mapping[str, Meta], config: Mapping[str, Any]) -> tuple[str, int] | None:
    """The stack of layers that ``layer_range`` means, with its length; None without a single candidate."""
    counts = layer_counts(names)
    for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers"):
        exact = [s for s, c in counts.items() if c == config.get(key)]
        if len(exact) == 1:
            return exact[0], counts[exact[0]]
    return next(iter(counts.items())) if len(counts) == 1 else None


class LayersView:
    """Some layers of a model, renumbered from 0."""

    def __init__(self, node: Layers, of: View, context: Context) -> None:
        self.of, self.label = of, f"{of.label}[{node.start}:{node.stop}]"
        self._mapped: dict[str, str] = {}
        found = main_stack(of.names, of.config)
        if found is None:
            context.problem(
                f"layer_range needs a single stack of layers; {of.label} has {dict(layer_counts(of.names))}",
                line=node.line,
                fix="merge each part of the model on its own",
            )
            found = ("", node.stop)
        stack, count = found
        self.sliced = stack
        if node.stop > count:
            context.problem(
                f"layer_range [{node.start}, {node.stop}] reaches beyond the {count} layers of {of.label}",
                line=node.line,
                fix=f"the last layer is {count - 1}: end the range at {count}",
            )
        for name in of.names:
            layer = parse_layer(name)
            if layer is None or layer.stack != stack:
                self._mapped[name] = name
            elif node.start <= layer.index < node.stop:
                self._mapped[layer.at(layer.index - node.start)] = name

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {new: self.of.names[old] for new, old in self._mapped.items()}

    @property
    def config(self) -> Mapping[str, Any]:
        return self.of.config

    def lower(self, name: str) -> Operand:
        return self.of.lower(self._mapped[name])

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(self._mapped[name])


class StackView:
    """Models on top of each other."""

    def __init__(self, parts: Sequence[View]) -> None:
        self.parts, self.label = parts, " / ".join(p.label for p in parts)
        self._mapped: dict[str, tuple[View, str]] = {}
        before: dict[str, tuple[View, str]] = {}
        layers: dict[str, tuple[View, str]] = {}
        after: dict[str, tuple[View, str]] = {}
        offset = 0
        self.sliced = next((p.sliced for p in parts if p.sliced is not None), None)
        for part in parts:
            stacks = {s: c for s, c in layer_counts(part.names).items() if self.sliced in (None, s)}
            for name in part.names:
                layer = parse_layer(name)
                if layer is not None and layer.stack in stacks:
                    layers[layer.at(offset + layer.index)] = (part, name)
                elif layer is not None:  # another tower, of which only one is wanted
                    layers.setdefault(name, (part, name))
                elif position(name) == "before":
                    before.setdefault(name, (part, name))
                else:
                    after[name] = (part, name)
            offset += max(stacks.values(), default=0)
        self._mapped = {**before, **layers, **after}

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {new: part.names[old] for new, (part, old) in self._mapped.items()}

    @property
    def config(self) -> Mapping[str, Any]:
        return self.parts[0].config

    def lower(self, name: str) -> Operand:
        part, old = self._mapped[name]
        return part.lower(old)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        part, old = self._mapped[name]
        return part.origin(old)


@dataclass(frozen=True)
class CastView:
    """A model rounded to a dtype."""

    of: View
    dtype: DType

    @property
    def label(self) -> str:
        return self.of.label

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {n: Meta(self.dtype, m.shape) if m.dtype.is_float else m for n, m in self.of.names.items()}

    @property
    def config(self) -> Mapping[str, Any]:
        return self.of.config

    @property
    def sliced(self) -> str | None:
        return self.of.sliced

    def lower(self, name: str) -> Operand:
        operand = self.of.lower(name)
        if not operand_is_float(operand):
            return operand
        if operand.dtype == self.dtype:
            return operand
        if isinstance(operand, Compute) and operand.dtype is None:
            return replace(operand, dtype=self.dtype)
        return Compute("", (operand,), self.names[name].shape, factors=(1.0,), dtype=self.dtype)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(name)


def operand_is_float(operand: Operand) -> bool:
    """Whether an operand takes part in arithmetic."""
    return isinstance(operand, Compute) or operand.dtype.is_float


class _Merged:
    """What a method and a sum share: inputs that must agree with a reference, name by name."""

    def __init__(self, views: Sequence[View], reference: View, context: Context, line: int | None) -> None:
        self._views, self._reference, self._context, self._line = views, reference, context, line
        self.label = ", ".join(v.label for v in views)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        found = dict(self._reference.names)
        for view in self._views:
            if view is self._reference:
                continue
            self._report_missing(view)
            for name, meta in view.names.items():
                if name not in found and self._wanted(view, name):
                    found[name] = meta
        return found

    def _report_missing(self, view: View) -> None:
        lost = [
            name
            for name, meta in self._reference.names.items()
            if name not in view.names and meta.dtype.is_float and not self._replaceable(view, name)
        ]
        if lost:
            self._context.problem(
                f"{view.label} lacks {len(lost)} tensor(s) of {self._reference.label}: {_some(lost)}",
                tensor=lost[0],
                line=self._line,
                fix="merge models of the same architecture; check for a name prefix that differs",
            )

    def _replaceable(self, view: View, name: str) -> bool:
        return recomputed_buffer(name) or (is_head(name) and embedding_of(view.names) is not None)

    def _wanted(self, view: View, name: str) -> bool:
        """Whether a tensor that only ``view`` has belongs into the result; problems are reported."""
        if recomputed_buffer(name) or not view.names[name].dtype.is_float:
            return False
        if is_head(name) and embedding_of(self._reference.names) is not None:
            return not ties_embeddings(view.config)
        self._context.problem(
            f"{view.label} has a tensor that {self._reference.label} lacks",
            tensor=name,
            line=self._line,
            fix="merge models of the same architecture; check for a name prefix that differs",
        )
        return False

    @property
    def config(self) -> Mapping[str, Any]:
        return self._reference.config

    @property
    def sliced(self) -> str | None:
        return self._reference.sliced

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self._reference.origin(name) if name in self._reference.names else (self.config, name)

    def fetch(self, view: View, name: str) -> Operand | None:
        """Tensor ``name`` of ``view``, or of its tied embedding; None (reported) when it does not fit."""
        own = name if name in view.names else embedding_of(view.names) if is_head(name) else None
        meta = self.names[name]
        if own is None:
            return None
        found = view.names[own]
        if found.shape != meta.shape:
            fix = "merge models of one architecture and vocabulary"
            if position(name) == "before" or is_head(name):
                fix = "the vocabularies differ: resize the embeddings to the same tokens first"
            self._context.problem(
                f"{view.label} has shape {found.shape}, {self._reference.label} has {meta.shape}",
                tensor=name,
                line=self._line,
                fix=fix,
            )
            return None
        if not found.dtype.is_float:
            self._context.problem(
                f"{view.label} stores {found.dtype.code}, {self._reference.label} {meta.dtype.code}: "
                "one of them seems to be quantised",
                tensor=name,
                line=self._line,
                fix="save the model in bfloat16, float16 or float32 first",
            )
            return None
        return view.lower(own)

    def copied(self, name: str) -> Operand | None:
        """The reference's own tensor when ``name`` is not merged: integers, lone recomputed buffers."""
        meta = self.names[name]
        if meta.dtype.kind == "packed" and len(self._views) > 1:
            self._context.problem(
                f"dtype {meta.dtype.code} of a quantised model cannot be merged",
                tensor=name,
                line=self._line,
                fix="save the models in bfloat16, float16 or float32 first",
            )
        alone = recomputed_buffer(name) and any(name not in v.names for v in self._views)
        if alone:
            self._context.note(f"{name.rsplit('.', 2)[-1]} buffers are copied: not every model stores them")
        return self._reference.lower(name) if alone or not meta.dtype.is_float else None

    def tied_name(self, name: str) -> str:
        """The name by which parameters and random numbers are looked up: a tied head goes by its embedding's."""
        if not is_head(name) or not ties_embeddings(self._reference.config):
            return name
        untied = any(name in view.names and not ties_embeddings(view.config) for view in self._views)
        return name if untied else embedding_of(self._reference.names) or name

    def depth(self, name: str, compat: bool) -> float:
        """Place of a tensor in the model, 0 (first layer, embeddings) to 1 (last layer, head)."""
        layer = parse_layer(name)
        if layer is None:
            return 0.0 if compat or position(name) == "before" else 1.0
        count = self._counts.get(layer.stack, 1)
        return layer.index / (count - 1) if count > 1 else 1.0

    @cached_property
    def _counts(self) -> Mapping[str, int]:
        return layer_counts(self.names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def apart(labels: Iterable[str]) -> tuple[str, ...]:
    """``labels``, told apart by number where one occurs again.

    >>> apart(["a", "b", "a"])
    ('a', 'b', 'a#2')
    """
    seen: dict[str, int] = {}
    found = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        found.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
    return tuple(found)


def _same(a: Expression, b: Expression) -> bool:
    if a is b:
        return True
    if isinstance(a, Leaf) and isinstance(b, Leaf):
        return a.key == b.key
    if isinstance(a, Layers) and isinstance(b, Layers):
        return (a.start, a.stop) == (b.start, b.stop) and _same(a.of, b.of)
    if isinstance(a, Cast) and isinstance(b, Cast):
        return a.dtype == b.dtype and _same(a.of, b.of)
    return False


def _difference(expression: Expression) -> tuple[Expression, Expression] | None:
    """(x, base) of an expression ``x - base``, else None."""
    if not isinstance(expression, Linear) or len(expression.terms) != 2:
        return None
    by_factor = {t.constant: t.of for t in expression.terms}
    return (by_factor[1.0], by_factor[-1.0]) if by_factor.keys() == {1.0, -1.0} else None


class ApplyView(_Merged):
    """A method; differences to one common base are computed inside its kernel."""

    def __init__(self, node: Apply, context: Context) -> None:
        self.node = node
        pairs = [_difference(child) for child in node.inputs]
        first = pairs[0] if pairs else None
        common = first is not None and all(p is not None and _same(p[1], first[1]) for p in pairs)
        self.base_expression = first[1] if common and first is not None else None
        children = [p[0] if common and p is not None else c for p, c in zip(pairs, node.inputs, strict=True)]
        self.inputs = [build_view(c, context) for c in children]
        self.base = build_view(self.base_expression, context) if self.base_expression is not None else None
        reference = self.base if self.base is not None else self.inputs[0]
        views = self.inputs if self.base is None else [*self.inputs, self.base]
        super().__init__(views, reference, context, node.line)

    def lower(self, name: str) -> Operand:
        return self.lower_scaled(name, anchored=False, scale=1.0)

    def lower_scaled(self, name: str, *, anchored: bool, scale: float) -> Operand:
        """As :meth:`lower`; ``anchored`` adds the base to ``scale`` times the result."""
        copied = self.copied(name)
        if copied is not None:
            return copied
        source = self.tied_name(name)
        operands = [self.fetch(v, source if source in v.names else name) for v in self.inputs]
        base = self.fetch(self.base, source if source in self.base.names else name) if self.base is not None else None
        if any(o is None for o in operands) or (self.base is not None and base is None):
            return self._reference.lower(name if name in self._reference.names else source)
        return Compute(
            method=self.node.method.name,
            inputs=tuple(o for o in operands if o is not None),
            shape=self.names[name].shape,
            base=base,
            anchored=anchored,
            scale=scale,
            resolved=self._resolve(source),
            labels=apart(v.label for v in self.inputs),
            key=(source, self._context.seed),
            line=self.node.line,
        )

    def _resolve(self, name: str) -> Resolved:
        node, depth = self.node, self.depth(name, self.node.compat)
        one: dict[str, float | bool] = {}
        each: dict[str, tuple[float, ...]] = {}
        for parameter in node.method.parameters:
            if parameter.kind == "ignored":
                continue
            shared = node.one.get(parameter.name, ())
            if not parameter.per_model:
                one[parameter.name] = self._value(parameter, shared, name, depth, None)
                continue
            values = []
            for own, view in zip(node.each, self.inputs, strict=True):
                written = (*own.get(parameter.name, ()), *shared)
                source = view.origin(name)[1] if name in view.names else name
                values.append(float(self._value(parameter, written, source, depth, view.label)))
            each[parameter.name] = tuple(values)
        return Resolved(one, each, len(self.inputs), node.compat, node.variant)

    def _value(
        self, parameter: Parameter, written: tuple[Setting, ...], name: str, depth: float, model: str | None
    ) -> float | bool:
        value = first_value(written, name, depth)
        if value is None and parameter.default is REQUIRED:
            whose = f" of {model}" if model else ""
            self._context.problem(
                f"{self.node.method.name}: no value of {parameter.name}{whose} matches",
                tensor=name,
                line=written[0].line if written else self._line,
                fix="add an entry without a filter at the end of the list",
            )
            return 0.0
        chosen = parameter.default if value is None else value
        return bool(chosen) if parameter.kind == "bool" else float(chosen)


class LinearView(_Merged):
    """Σ coefficient × model; ``base + λ method(x − base)`` becomes one kernel."""

    def __init__(self, node: Linear, context: Context) -> None:
        self.node = node
        self.terms = [build_view(t.of, context) for t in node.terms]
        anchor = self._anchor()
        views: list[View] = [anchor] if anchor is not None else list(self.terms)
        super().__init__(views, self._first_model(), context, None)
        self._fused = anchor
        self._compat = any(isinstance(t.of, Apply) and t.of.compat for t in node.terms)

    def _first_model(self) -> View:
        """The reference for names: the term with the largest constant coefficient, the first of equals."""
        best = max(range(len(self.terms)), key=lambda i: (self.node.terms[i].constant or 0.0, -i))
        return self.terms[best]

    def _anchor(self) -> ApplyView | None:
        """The method of a sum ``base + λ method(differences to that base)``, else None."""
        if len(self.node.terms) != 2:
            return None
        for base, other, view in (
            (self.node.terms[0], self.node.terms[1], self.terms[1]),
            (self.node.terms[1], self.node.terms[0], self.terms[0]),
        ):
            if base.constant != 1.0 or not isinstance(view, ApplyView) or view.base_expression is None:
                continue
            if _same(base.of, view.base_expression) and other.of is view.node:
                return view
        return None

    def lower(self, name: str) -> Operand:
        source = self.tied_name(name)
        depth = self.depth(source, self._compat)
        if self._fused is not None:
            term = next(t for t in self.node.terms if t.of is self._fused.node)
            scale = self._coefficient(term.coefficient, source, depth)
            return self._fused.lower_scaled(name, anchored=True, scale=scale)
        copied = self.copied(name)
        if copied is not None:
            return copied
        operands = [self.fetch(v, source if source in v.names else name) for v in self.terms]
        if any(o is None for o in operands):
            return self._reference.lower(name)
        return Compute(
            "",
            tuple(o for o in operands if o is not None),
            self.names[name].shape,
            factors=tuple(self._coefficient(t.coefficient, source, depth) for t in self.node.terms),
        )

    def _coefficient(self, setting: Setting, name: str, depth: float) -> float:
        value = setting.at(name, depth)
        return 1.0 if value is None else float(value)

"""Views of methods and sums, and the view of any expression."""

from __future__ import annotations

from collections.abc import Iterable

from stockpot.arrangements import Assembled, Cast, Layers, Mixture, Stack, Transplant
from stockpot.checkpoint.dtypes import dtype_named
from stockpot.expression import Adapted, Apply, Expression, Leaf, Linear
from stockpot.methods.declare import REQUIRED, Companion, Parameter, Resolved, Space, axis_of, scope_of
from stockpot.planning.adapters.adapted import AdaptedView
from stockpot.planning.assembled import AssembledView
from stockpot.planning.matching import matched, relaid_as, whole
from stockpot.planning.merged import Merged
from stockpot.planning.mixtures import MixtureView
from stockpot.planning.model import Compute, Operand
from stockpot.planning.structure import CastView, LayersView, LeafView, StackView
from stockpot.planning.tokens.retokenize import retokenizing
from stockpot.planning.tokens.transplant import TransplantView
from stockpot.planning.views import Context, View
from stockpot.settings import Setting, first_value
from stockpot.tokens import Retokenized, main_leaf

__all__ = ["ApplyView", "LinearView", "apart", "build_view", "difference"]


def build_view(expression: Expression, context: Context) -> View:
    """The view of ``expression``; the same node gives the same view."""
    found = context.cache.get(id(expression))
    if found is None:
        found = _build(expression, context)
        context.cache[id(expression)] = found
    return found


def _build(expression: Expression, context: Context) -> View:
    if context.scope is not None and isinstance(expression, Leaf | Adapted | Retokenized | Transplant):
        return context.scope.seen(expression, build_view(expression, context.plain))
    if isinstance(expression, Retokenized):
        return build_view(expression.of, retokenizing(expression, context, build_view))
    if isinstance(expression, Leaf):
        return LeafView(context.checkpoints[expression.key])
    if isinstance(expression, Apply):
        return ApplyView(expression, context)
    if isinstance(expression, Linear):
        return LinearView(expression, context)
    return _arranged(expression, context)


def _arranged(expression: Expression, context: Context) -> View:
    """The view of a model whose tensors are others', moved, added to or replaced."""
    if isinstance(expression, Adapted):
        adapter = context.checkpoints[expression.adapter.key]
        return AdaptedView(build_view(expression.of, context), adapter, context, expression.line)
    if isinstance(expression, Transplant):
        main = main_leaf(expression.of)
        assert main is not None
        of, donor = build_view(expression.of, context), context.checkpoints[expression.tokenizer.key]
        return TransplantView(expression, of, context.checkpoints[main.key], donor, context)
    if isinstance(expression, Layers):
        return LayersView(expression, build_view(expression.of, context), context)
    if isinstance(expression, Stack):
        return StackView([build_view(p, context) for p in expression.parts], context, expression.line)
    if isinstance(expression, Assembled):
        parts = [(module, build_view(of, context)) for module, of in expression.parts]
        return AssembledView(parts, build_view(expression.rest, context), context, expression.line)
    if isinstance(expression, Cast):
        return CastView(build_view(expression.of, context), dtype_named(expression.dtype))
    assert isinstance(expression, Mixture)
    return _mixture(expression, context)


def _mixture(node: Mixture, context: Context) -> MixtureView:
    experts = [build_view(expert.of, context) for expert in node.experts]
    shared = None if node.shared is None else build_view(node.shared.of, context)
    return MixtureView(node, build_view(node.of, context), experts, shared, build_view(node.router, context), context)


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
        taken = [(node.start, node.stop, node.stack, node.identity, node.module) for node in (a, b)]
        return taken[0] == taken[1] and _same(a.of, b.of)
    if isinstance(a, Cast) and isinstance(b, Cast):
        return a.dtype == b.dtype and _same(a.of, b.of)
    if isinstance(a, Adapted) and isinstance(b, Adapted):
        return a.adapter.key == b.adapter.key and _same(a.of, b.of)
    return False


def difference(expression: Expression) -> tuple[Expression, Expression] | None:
    """(x, base) of an expression ``x - base``, else None."""
    if not isinstance(expression, Linear) or len(expression.terms) != 2:
        return None
    by_factor = {t.constant: t.of for t in expression.terms}
    return (by_factor[1.0], by_factor[-1.0]) if by_factor.keys() == {1.0, -1.0} else None


class ApplyView(Merged):
    """A method; differences to one common base are computed inside its kernel."""

    def __init__(self, node: Apply, context: Context) -> None:
        self.node = node
        pairs = [difference(child) for child in node.inputs]
        first = pairs[0] if pairs else None
        common = first is not None and all(p is not None and _same(p[1], first[1]) for p in pairs)
        self.base_expression = first[1] if common and first is not None else None
        children = [p[0] if common and p is not None else c for p, c in zip(pairs, node.inputs, strict=True)]
        inputs = [build_view(c, context) for c in children]
        base = build_view(self.base_expression, context) if self.base_expression is not None else None
        reference = whole(inputs, base if base is not None else inputs[0])
        delta = base is None and bool(node.inputs) and node.inputs[0].space is Space.DELTA
        self.inputs = [matched(view, reference, context, node.line, delta=delta) for view in inputs]
        self.base = None if base is None else matched(base, reference, context, node.line)
        views = self.inputs if self.base is None else [*self.inputs, self.base]
        super().__init__(views, reference, context, node.line)
        given = {c.name: c for c in node.method.companions}
        self._beside = [
            (given[n], relaid_as(build_view(e, context), reference, context, node.line))
            for n, group in node.companions.items()
            for e in group
        ]
        self._group = context.group(self)

    def lower(self, name: str) -> Operand:
        return self.lower_scaled(name, anchored=False, scale=1.0)

    def lower_scaled(self, name: str, *, anchored: bool, scale: float) -> Operand:
        """As :meth:`lower`; ``anchored`` adds the base to ``scale`` times the result."""
        copied = self.copied(name)
        if copied is not None:
            return copied
        if self.kept(name) and self.node.method.on == "weights":
            return self._reference.lower(name)
        if self.kept(name) and self.base is not None:
            kept = self._reference.lower(name)
            return kept if anchored else Compute(None, (kept,), self.names[name].shape, factors=(0.0,))
        source = self.tied_name(name)
        operands = [self.fetch(v, source if source in v.names else name) for v in self.inputs]
        base = self.fetch(self.base, source if source in self.base.names else name) if self.base is not None else None
        beside = self._companions(name, source)
        if any(o is None for o in operands) or (self.base is not None and base is None) or beside is None:
            return self.own(name)
        resolved = self._resolve(source, bool(beside))
        return Compute(
            method=self.node.method,
            inputs=tuple(o for o in operands if o is not None),
            shape=self.names[name].shape,
            companions=tuple(o for _, o in beside),
            minus=tuple(c.delta and base is not None for c, _ in beside),
            base=base,
            anchored=anchored,
            scale=scale,
            resolved=resolved,
            labels=apart(v.label for v in self.inputs),
            key=(source, self._context.seed),
            line=self.node.line,
            group=self._group if scope_of(self.node.method, resolved) == "model" else 0,
        )

    def members(self) -> dict[str, Compute]:
        """What a statistic of the whole model is taken over, by tensor name; tied tensors once.

        In the order of the names, since that of the tensors depends on how a model is cut into files.
        """
        found: dict[str, Compute] = {}
        for name in sorted(self.names):
            operand = self.lower(name)
            if isinstance(operand, Compute) and operand.group == self._group:
                found.setdefault(operand.key[0], operand)
        return found

    def _companions(self, name: str, source: str) -> list[tuple[Companion, Operand]] | None:
        """The tensors of the companions; none where Gram matrices are missing, None (reported) where others are."""
        found: list[tuple[Companion, Operand]] = []
        for companion, view in self._beside:
            own = source if source in view.names else name
            if companion.gram:
                if own not in view.names or len(self.names[name].shape) != 2:
                    return []
                wanted = tuple(self.names[name].shape[-1:]) * 2
            else:
                wanted = self.names[name].shape
            meta = view.names.get(own)
            if meta is None or meta.shape != wanted or not meta.dtype.is_float:
                lacks = f"has shape {meta.shape}, {wanted} is needed" if meta is not None else "lacks this tensor"
                fix = "make it for this model: it has a float tensor for every weight that is merged"
                message = f"{self.node.method.name}: {companion.name} {view.label} {lacks}"
                self._context.problem(message, tensor=name, line=self._line, fix=fix)
                return None
            found.append((companion, view.lower(own)))
        return found

    def _resolve(self, name: str, beside: bool) -> Resolved:
        node, depth = self.node, self.depth(name, self.node.compat)
        one: dict[str, float | bool | str] = {}
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
        given = tuple(node.companions) if beside else ()
        resolved = Resolved(one, each, len(self.inputs), node.compat, node.variant, depth, given)
        try:
            axis_of(node.method, resolved)
        except ValueError as error:
            self._context.problem(f"{node.method.name}: {error}", line=self._line)
            one["scope"] = "tensor"
        return resolved

    def _value(
        self, parameter: Parameter, written: tuple[Setting, ...], name: str, depth: float, model: str | None
    ) -> float | bool | str:
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
        if parameter.kind == "choice":
            return str(chosen)
        if parameter.kind == "int":
            return round(float(chosen))
        return bool(chosen) if parameter.kind == "bool" else float(chosen)


class LinearView(Merged):
    """Σ coefficient × model; ``base + λ method(x − base)`` becomes one kernel."""

    def __init__(self, node: Linear, context: Context) -> None:
        self.node = node
        self.terms = [build_view(t.of, context) for t in node.terms]
        anchor = self._anchor()
        if anchor is None:
            reference = whole(self.terms, self._first_model())
            deltas = [term.of.space is Space.DELTA for term in node.terms]
            self.terms = [
                matched(view, reference, context, delta=delta and node.space is not Space.DELTA)
                for view, delta in zip(self.terms, deltas, strict=True)
            ]
            super().__init__(list(self.terms), reference, context, None)
        else:
            super().__init__([anchor], anchor.reference, context, None)
        self._fused = anchor
        self._compat = any(isinstance(t.of, Apply) and t.of.compat for t in node.terms)

    def _first_model(self) -> View:
        """The reference for names: the model with the largest constant coefficient, the first of equals."""
        return self.terms[self.node.terms.index(self.node.largest)]

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
        if self.kept(name) and self.node.space is not Space.DELTA:
            return self._reference.lower(name)
        operands = [self.fetch(v, source if source in v.names else name) for v in self.terms]
        if any(o is None for o in operands):
            return self.own(name)
        return Compute(
            None,
            tuple(o for o in operands if o is not None),
            self.names[name].shape,
            factors=tuple(self._coefficient(t.coefficient, source, depth) for t in self.node.terms),
        )

    def _coefficient(self, setting: Setting, name: str, depth: float) -> float:
        value = setting.at(name, depth)
        return 1.0 if value is None else float(value)

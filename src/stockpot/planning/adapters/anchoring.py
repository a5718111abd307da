"""Adapters that stand alone in an expression: each is put on the model that it is added to.

An adapter alone is a difference. Where it is added to a model B, or stands beside differences to one, it becomes
(B + adapter) − B, which planning computes like every other difference. Where a model is wanted and a base is known,
it becomes B + adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from stockpot.arrangements import Cast, Layers
from stockpot.errors import PlanError, Problem, UnsupportedError
from stockpot.expression import Adapted, Apply, Expression, Leaf, Linear, Term, changed
from stockpot.methods.declare import Space
from stockpot.planning.lowering import difference
from stockpot.settings import as_setting

__all__ = ["Hint", "anchored"]

Hint = Callable[[Leaf], str | None]
"""An adapter's leaf → the base that its settings name."""


def anchored(expression: Expression, taken_for: Mapping[tuple[str, str | None, int], Leaf], hint: Hint) -> Expression:
    """``expression`` without adapters that stand alone; itself where there are none.

    Args:
        taken_for: Key of each leaf that was written as a model and is an adapter → its leaf.

    Raises:
        PlanError: for adapters of which nothing tells the base.
        UnsupportedError: where they were all written as models.
    """
    walk = _Walk(taken_for, hint)
    found = walk.at(expression, None)
    if walk.problems:
        kind = UnsupportedError if walk.written_as_models else PlanError
        raise kind(*walk.problems)
    return found


class _Walk:
    """Rebuilds what holds an adapter alone, and leaves everything else the object that it is."""

    def __init__(self, taken_for: Mapping[tuple[str, str | None, int], Leaf], hint: Hint) -> None:
        self._taken_for, self._hint = taken_for, hint
        self._done: dict[tuple[int, int], Expression] = {}
        self._kept: list[Expression | None] = []
        self.problems: list[Problem] = []
        self.written_as_models = True

    def at(self, node: Expression, base: Expression | None) -> Expression:
        """``node`` where ``base`` is what differences are added to."""
        key = (id(node), id(base))
        if key not in self._done:
            self._kept += [node, base]  # so that no other object gets the same id
            self._done[key] = self._rebuilt(node, base)
        return self._done[key]

    def _rebuilt(self, node: Expression, base: Expression | None) -> Expression:
        if isinstance(node, Leaf):
            return self._leaf(node, base)
        if isinstance(node, Adapted):
            of = self.at(node.of, None)
            return node if of is node.of else replace(node, of=of)
        if isinstance(node, Linear):
            return self._linear(node, base)
        if isinstance(node, Apply):
            return self._apply(node, base)
        if isinstance(node, Layers) and node.space is Space.DELTA:
            return self._layers(node, base)
        own = base if isinstance(node, Layers | Cast) else None
        return changed(node, lambda child: self.at(child, own))

    def _leaf(self, node: Leaf, base: Expression | None) -> Expression:
        own = node if node.adapter else self._taken_for.get(node.key)
        if own is None:
            return node
        if node.adapter:
            return node if base is None and self._alone(node) else _difference(base, own)
        if node.on is None:
            self._alone(node)
            return node
        return Adapted(self.at(node.on, None), own, node.line)

    def _alone(self, node: Leaf) -> bool:
        """Report an adapter of which nothing tells the base."""
        self.written_as_models &= not node.adapter
        named = self._hint(node)
        made = f" (its settings name {named})" if named else ""
        fix = f"add it to its base{made}: BASE+ADAPTER in recipes, or base_model beside it; in Python base + adapter"
        message = f"{node.reference} is an adapter, not a whole model, and nothing tells which model it is added to"
        self.problems.append(Problem(message, line=node.line, fix=fix))
        return True

    def _layers(self, node: Layers, base: Expression | None) -> Expression:
        """Layers of a difference, beside the same layers of a base."""
        if not isinstance(node.of, Leaf) or not isinstance(base, Layers):
            return changed(node, lambda child: self.at(child, base))
        if (base.start, base.stop, base.stack) != (node.start, node.stop, node.stack):
            return changed(node, lambda child: self.at(child, None))
        return _difference(base, replace(node, of=Adapted(base.of, node.of, node.line)))

    def _linear(self, node: Linear, base: Expression | None) -> Expression:
        models = [t for t in node.terms if t.of.space is Space.WEIGHTS]
        terms = {id(t): self.at(t.of, None) for t in models}
        own = base
        if models:
            subtracted = abs(node.mass if node.mass is not None else 1.0) < 0.5
            chosen = min(models, key=lambda t: t.constant or 0.0) if subtracted else node.largest
            own = terms[id(chosen)]
        terms |= {id(t): self.at(t.of, own) for t in node.terms if id(t) not in terms}
        if all(terms[id(t)] is t.of for t in node.terms):
            return node
        return Linear(tuple(_gathered(self._spread(t, terms[id(t)]) for t in node.terms)))

    def _spread(self, term: Term, of: Expression) -> tuple[Term, ...]:
        """A term, or, of an adapter that became a difference, its two with the term's coefficient."""
        if of is term.of or not isinstance(term.of, Leaf) or not isinstance(of, Linear):
            return (Term(term.coefficient, of),)
        scaled = of * term.constant if term.constant is not None else None
        return (Term(term.coefficient, of),) if scaled is None else scaled.terms

    def _apply(self, node: Apply, base: Expression | None) -> Expression:
        beside = [pair[1] for child in node.inputs if (pair := difference(child)) is not None]
        own = self.at(beside[0], None) if beside else base
        inputs = tuple(self.at(child, own if child.space is Space.DELTA else None) for child in node.inputs)
        companions = {name: tuple(self.at(c, None) for c in group) for name, group in node.companions.items()}
        same = all(_alike(companions[name], group) for name, group in node.companions.items())
        if same and _alike(inputs, node.inputs):
            return node
        return replace(node, inputs=inputs, companions=companions)


def _alike(found: Iterable[Expression], given: Iterable[Expression]) -> bool:
    return all(a is b for a, b in zip(found, given, strict=True))


def _difference(base: Expression | None, own: Expression) -> Expression:
    """(base + adapter) − base."""
    assert base is not None
    adapted = Adapted(base, own) if isinstance(own, Leaf) else own
    return Linear((Term(as_setting(1.0), adapted), Term(as_setting(-1.0), base)))


def _gathered(groups: Iterable[tuple[Term, ...]]) -> list[Term]:
    """All terms; numbers before one and the same model are added up, so that it is read once."""
    found: list[Term] = []
    for term in (t for group in groups for t in group):
        place = next((i for i, t in enumerate(found) if t.of is term.of and t.constant is not None), None)
        if place is None or term.constant is None:
            found.append(term)
        else:
            found[place] = Term(as_setting((found[place].constant or 0.0) + term.constant), term.of)
    return found

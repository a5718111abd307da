"""A model seen with the names and the layout of another: what is the same weight, stored otherwise.

Three things are brought together, each told in a note: experts stored one by one or fused; a language model and a
model of language and images; and, where the recipe asks for it, models that differ in single tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

from stockpot.architecture.experts import Made, Piece, relaid, transposed
from stockpot.architecture.layers import recomputed_buffer
from stockpot.architecture.tied import stand_in
from stockpot.architecture.towers import Embedded, embedded
from stockpot.planning.forms import Pieces
from stockpot.planning.model import Compute, Operand
from stockpot.planning.views import Context, Meta, View, Wrapped

__all__ = ["MatchedView", "lends", "matched", "relaid_as", "whole"]

Shapes = Mapping[str, tuple[int, ...]]


def whole(views: Sequence[View], reference: View) -> View:
    """The view whose names the result has: ``reference``, or the one of ``views`` that it is a part of."""
    own = _shapes(reference)
    for view in views:
        if view is not reference and len(view.names) > len(own) and reference.sliced is view.sliced is None:
            found = embedded(own, _shapes(view))
            if found is not None and found.lent:
                return view
    return reference


def relaid_as(view: View, like: View, context: Context, line: int | None = None) -> View:
    """``view`` with its experts in the layout of ``like``; itself where there is nothing to change."""
    if view is like or view.names.keys() == like.names.keys():
        return view
    own, others = _shapes(view), _shapes(like)
    made = relaid(own, others)
    if not made:
        _tell_of_transposed(view, own, like, others, context, line)
        return view
    context.note(f"{view.label} stores its experts otherwise than {like.label}, whose layout the result has")
    return MatchedView(view, made)


def matched(view: View, like: View, context: Context, line: int | None = None, *, delta: bool = False) -> View:
    """``view`` with the names and the layout of ``like``, as far as the two are the same model.

    Args:
        delta: Whether it is a difference of models: what it lacks is then zero, else what ``like`` has.
    """
    view = relaid_as(view, like, context, line)
    if view is like or view.names.keys() == like.names.keys():
        return _mended(view, like, context, delta) if context.mismatched else view
    found = embedded(_shapes(view), _shapes(like))
    if found is not None and (found.lent or found.rules):
        view = _within(view, like, found, context, delta)
    return _mended(view, like, context, delta) if context.mismatched else view


def _within(view: View, like: View, found: Embedded, context: Context, delta: bool) -> View:
    for taken, put in found.rules:
        context.note(f"{view.label}: {taken}… is {put}… of {like.label}")
    if found.lent:
        towers = ", ".join(found.towers)
        message = f"{view.label} has nothing of {towers}: these {len(found.lent)} tensors are those of {like.label}"
        context.note(message)
    shapes = _shapes(view)
    made = {
        new: Made(shapes[name], (Piece(name, 0, 0),))
        for new, name in found.names.items()
        if new != name and name in shapes
    }
    return MatchedView(view, made, like, found.lent, delta=delta)


def _mended(view: View, like: View, context: Context, delta: bool) -> View:
    """``view`` without what does not fit ``like``, where that was asked for; all of it is told."""
    if view is like:
        return view
    lent = [
        name
        for name, meta in like.names.items()
        if meta.dtype.is_float
        and not (recomputed_buffer(name) and name not in view.names)
        and _shape(view, name) != meta.shape
    ]
    left = [n for n, meta in view.names.items() if n not in like.names and _shape(like, n) != meta.shape]
    left = [n for n in left if view.names[n].dtype.is_float and not recomputed_buffer(n)]
    if lent:
        context.note(f"{view.label} lacks, or has in other shapes: {_listed(lent)}; those of {like.label} are taken")
    if left:
        context.note(f"only {view.label} has: {_listed(left)}; left out, as mismatched: base says")
    return MatchedView(view, {}, like, lent, left, delta=delta) if lent or left else view


def _shape(view: View, name: str) -> tuple[int, ...] | None:
    """The shape of tensor ``name`` of ``view``, or of its tied embedding; None where it has neither."""
    own = name if name in view.names else stand_in(name, view.names)
    return None if own is None else view.names[own].shape


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - 20} more" if len(names) > 20 else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(islice(names, 20))}{more})"


def _shapes(view: View) -> Shapes:
    return {name: meta.shape for name, meta in view.names.items() if meta.dtype.is_float}


def _tell_of_transposed(
    view: View, own: Shapes, like: View, others: Shapes, context: Context, line: int | None
) -> None:
    """Report experts that are stored transposed in one of two models only."""
    found, there = transposed(own), transposed(others)
    experts = any(".experts." in name for name in own) and any(".experts." in name for name in others)
    if (found is None) == (there is None) or not experts:
        return
    label = view.label if found is not None else like.label
    context.problem(
        f"{label} stores its experts transposed, (experts, hidden, 2 × inner), the other model does not",
        tensor=found or there,
        line=line,
        fix="load and save both models with the same version of transformers",
    )


def lends(view: View, name: str) -> bool:
    """Whether tensor ``name`` of ``view`` is not its own, but that of the model it was matched with."""
    return isinstance(view, MatchedView) and name in view.lent


class MatchedView(Wrapped):
    """``of`` with some tensors under other names, made of pieces of its tensors, or taken from another model.

    Args:
        made: Name → what it is made of.
        like: The model that ``lent`` tensors are those of.
        left: Tensors that are left out.
        delta: Whether lent tensors are zero instead.
    """

    def __init__(
        self,
        of: View,
        made: Mapping[str, Made],
        like: View | None = None,
        lent: Iterable[str] = (),
        left: Iterable[str] = (),
        *,
        delta: bool = False,
    ) -> None:
        self.of, self.label, self._made = of, of.label, made
        self.lent, self._left = frozenset(lent), frozenset(left)
        self._like, self._delta = like, delta

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        gone = {piece.name for made in self._made.values() for piece in made.pieces} | self._left | self.lent
        found = {name: meta for name, meta in self.of.names.items() if name not in gone}
        for name, made in self._made.items():
            found[name] = Meta(self.of.names[made.pieces[0].name].dtype, made.shape)
        if self._like is not None:
            found |= {name: meta for name, meta in self._like.names.items() if name in self.lent}
        return found

    def lower(self, name: str) -> Operand:
        if name in self.lent and self._like is not None:
            operand = self._like.lower(name)
            return Compute(None, (operand,), self.names[name].shape, factors=(0.0,)) if self._delta else operand
        made = self._made.get(name)
        if made is None:
            return self.of.lower(name)
        first = made.pieces[0]
        if len(made.pieces) == 1 and self.of.names[first.name].shape == made.shape:
            return self.of.lower(first.name)
        operands = tuple(self.of.lower(piece.name) for piece in made.pieces)
        dtypes = {operand.dtype for operand in operands}
        form = Pieces(tuple((piece.start, piece.count) for piece in made.pieces))
        return Compute(None, operands, made.shape, dtype=dtypes.pop() if len(dtypes) == 1 else None, form=form)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        if name in self.lent and self._like is not None:
            return self._like.origin(name)
        made = self._made.get(name)
        return self.of.origin(name if made is None else made.pieces[0].name)

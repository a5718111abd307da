"""A model seen with the names and the layout of another: what is the same weight, stored otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import prod
from typing import Any

from stockpot.architecture.experts import Made, relaid, transposed
from stockpot.planning.forms import Pieces
from stockpot.planning.model import Compute, Operand
from stockpot.planning.views import Context, Meta, Sliced, View

__all__ = ["MatchedView", "matched"]


def matched(view: View, like: View, context: Context, line: int | None = None) -> View:
    """``view`` with its experts in the layout of ``like``; itself where there is nothing to change."""
    if view is like or view.names.keys() == like.names.keys():
        return view
    own = {name: meta.shape for name, meta in view.names.items() if meta.dtype.is_float}
    others = {name: meta.shape for name, meta in like.names.items() if meta.dtype.is_float}
    made = relaid(own, others)
    if not made:
        _tell_of_transposed(view, own, like, others, context, line)
        return view
    context.note(f"{view.label} stores its experts otherwise than {like.label}, whose layout the result has")
    return MatchedView(view, made)


def _tell_of_transposed(
    view: View, own: Mapping[str, tuple[int, ...]], like: View, others: Mapping[str, Any], context: Context, line: Any
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


class MatchedView:
    """``of`` with some tensors under other names, or made of pieces of its tensors."""

    def __init__(self, of: View, made: Mapping[str, Made]) -> None:
        self.of, self.label, self._made = of, of.label, made

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        used = {piece.name for made in self._made.values() for piece in made.pieces}
        found = {name: meta for name, meta in self.of.names.items() if name not in used}
        for name, made in self._made.items():
            found[name] = Meta(self.of.names[made.pieces[0].name].dtype, made.shape)
        return found

    @property
    def config(self) -> Mapping[str, Any]:
        return self.of.config

    @property
    def sliced(self) -> Sliced | None:
        return self.of.sliced

    def lower(self, name: str) -> Operand:
        made = self._made.get(name)
        if made is None:
            return self.of.lower(name)
        first = made.pieces[0]
        if len(made.pieces) == 1 and self.of.names[first.name].shape == made.shape:
            return self.of.lower(first.name)
        operands = tuple(self.of.lower(piece.name) for piece in made.pieces)
        dtypes = {operand.dtype for operand in operands}
        form = Pieces(tuple((piece.start, piece.count) for piece in made.pieces))
        assert sum(count for _, count in form.ranges) == prod(made.shape)
        return Compute(None, operands, made.shape, dtype=dtypes.pop() if len(dtypes) == 1 else None, form=form)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        made = self._made.get(name)
        return self.of.origin(name if made is None else made.pieces[0].name)

"""Adapters as models of changes: one tensor for each weight that any of them changes, zero where one does not.

What an adapter changes is a difference from its base, so a merge of adapters is a merge of models whose tensors are
these differences, around a base that is zero. Such models are views over the adapters' files: nothing is formed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from stockpot.architecture.lora import Module
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.lora import stored_values
from stockpot.lora.builders import Builder
from stockpot.lora.places import BASE_FIX, F64, ORDER, Place
from stockpot.planning.blocks import BLOCK
from stockpot.planning.forms import LowRank
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.views import Context, Meta

__all__ = ["Changes", "ChangesView", "changes_of", "plain_change", "zero"]

_EMPTY = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Changes:
    """What several adapters change.

    Args:
        places: By the name that the tensor has in the base, or in the adapters where no base is given.
        members: One view for each adapter, in order.
        zero: The base that they are differences from.
        modules: Of each adapter, name of the tensor → its module, for those with factors.
        backings: Name of a tensor → the whole tensor below its factors, which all adapters share; PEFT stores
            embeddings so.
    """

    places: Mapping[str, Place]
    members: tuple[ChangesView, ...]
    zero: ChangesView
    modules: tuple[Mapping[str, Module], ...]
    backings: Mapping[str, TensorRef] = field(default_factory=dict)


class ChangesView:
    """One adapter (or none) as a model of changes."""

    def __init__(self, label: str, shapes: Mapping[str, tuple[int, ...]], own: Mapping[str, Operand]) -> None:
        self.label, self._shapes, self.own = label, shapes, own

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        """Every tensor that one of the adapters changes."""
        return {name: Meta(F64, shape) for name, shape in self._shapes.items()}

    @property
    def config(self) -> Mapping[str, Any]:
        """That a head has changes of its own."""
        return {"tie_word_embeddings": False}

    @property
    def sliced(self) -> None:
        """No layers were taken."""
        return

    def lower(self, name: str) -> Operand:
        """The change of tensor ``name``."""
        found = self.own.get(name)
        return zero(self._shapes[name]) if found is None else found

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        """Config and name."""
        return self.config, name


def zero(shape: tuple[int, ...]) -> Compute:
    """No change: a product of rank 0."""
    rows, columns = shape[0] if shape else 1, prod(shape[1:])
    empty = (TensorRef(side, F64, size, array=_EMPTY) for side, size in (("B", (rows, 0)), ("A", (0, columns))))
    factors = tuple(Read(ref, "nothing") for ref in empty)
    return Compute(None, (), shape, companions=factors, form=LowRank(0, rows, columns, 0.0))


def plain_change(operand: Operand) -> bool:
    """Whether ``operand`` is a product of factors, and nothing else."""
    return isinstance(operand, Compute) and isinstance(operand.form, LowRank) and not operand.inputs


def changes_of(
    adapters: Sequence[tuple[str, Checkpoint]], base: Checkpoint | None, context: Context, line: int | None = None
) -> Changes:
    """The adapters, by label, as models of changes; what is wrong is reported to ``context``.

    Args:
        base: The model that they are on: tells how its tensors are named and stored, and what tensors that are
            stored whole (saved modules, biases) and DoRA change.
    """
    builders = [Builder(label, adapter, base, context, line) for label, adapter in adapters]
    places: dict[str, Place] = {}
    backings = _backed(builders, base, context)
    for builder in builders:
        for name, place in builder.places.items():
            places[name] = _united(name, places.get(name), place, builder, context)
    if base is None:
        _check_names(builders, places, context)
        _tell_flattened(places, context)
    for builder in builders:
        _tell_missing(builder, places, context)
    shapes = {name: place.shape for name, place in places.items()}
    return Changes(
        places,
        tuple(ChangesView(b.label, shapes, _shaped(b.operands, shapes)) for b in builders),
        ChangesView("no change", shapes, {}),
        tuple(b.modules for b in builders),
        backings,
    )


def _backed(builders: Sequence[Builder], base: Checkpoint | None, context: Context) -> dict[str, TensorRef]:
    """Whole tensors below factors: what all adapters share; nothing where the base is given, which tells what changed.

    PEFT stores an embedding that has factors whole, too, though nobody has trained it.
    """
    found: dict[str, TensorRef] = {}
    stamps = {path: stamp for b in builders for path, stamp in b.adapter.stamps.items()}
    with PayloadReader(stamps=stamps | (dict(base.stamps) if base is not None else {})) as reader:
        for builder in builders:
            for name, ref in builder.backings.items():
                if base is not None:
                    if not _same_values(ref, base.tensors[name], reader):
                        builder.rebased(name, ref)
                elif not _same_values(ref, found.setdefault(name, ref), reader):
                    message = "the adapters store this tensor whole below their factors, and not the same one"
                    context.problem(message, tensor=name, fix=BASE_FIX)
    for name in found:
        lacking = [b.label for b in builders if name in b.modules and name not in b.backings]
        if lacking:
            message = f"{lacking[0]} does not store it whole below its factors, as others do"
            context.problem(message, tensor=name, fix=BASE_FIX)
    return found


def _same_values(one: TensorRef, other: TensorRef, reader: PayloadReader) -> bool:
    if one.shape != other.shape:
        return False
    for start in range(0, one.elements if one is not other else 0, BLOCK):
        n = min(BLOCK, one.elements - start)
        if not np.array_equal(stored_values(one, start, n, reader), stored_values(other, start, n, reader)):
            return False
    return True


def _united(name: str, known: Place | None, place: Place, builder: Builder, context: Context) -> Place:
    """One place of two adapters' views of it."""
    if known is None:
        return place
    flat = known.flat == place.flat and (known.flattened or place.flattened)
    if known.shape != place.shape and not flat:
        message = f"{builder.label} changes a tensor of shape {place.shape}, the adapters before it of {known.shape}"
        context.problem(message, tensor=name, fix="merge adapters of one base")
    if known.kind != place.kind and builder.base is None:
        message = f"one adapter stores it whole, another adds to it ({builder.label})"
        context.problem(message, tensor=name, fix=BASE_FIX)
    if known.crossed != place.crossed or known.embedding != place.embedding:
        message = f"{builder.label} has factors of another kind (fan_in_fan_out, embeddings) than those before it"
        context.problem(message, tensor=name, fix=BASE_FIX)
    down = known.down or place.down
    if known.start != place.start or (place.down or down) != down:
        one, other = (f"{p.start}.{p.down}".rstrip(".") for p in (known, place))
        message = f"the adapters write its name in different ways: {one}, and {builder.label} {other}"
        context.problem(message, tensor=name, fix=_RENAME)
    first, last = (known, place) if ORDER[known.kind] >= ORDER[place.kind] else (place, known)
    shape = place.shape if known.flattened else known.shape
    both = known.flattened and place.flattened
    return replace(first, rank=max(first.rank, last.rank), shape=shape, flattened=both, down=down)


_RENAME = "let one trainer's names stand in all of them, or stockpot lora fold each and stockpot lora extract it again"


def _shaped(operands: Mapping[str, Operand], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Operand]:
    """Changes whose kernel another adapter tells, in its shape."""
    return {
        name: replace(op, shape=shapes[name]) if isinstance(op, Compute) and op.shape != shapes[name] else op
        for name, op in operands.items()
    }


def _tell_flattened(places: Mapping[str, Place], context: Context) -> None:
    found = [name for name, place in places.items() if place.flattened]
    if found:
        message = f"{len(found)} changes do not tell whether they are a convolution's ({found[0]}, …)"
        context.note(f"{message}: they are written as those of linear layers; --base tells")


def _check_names(builders: Sequence[Builder], places: Mapping[str, Place], context: Context) -> None:
    """Without a base, names are all that says what belongs together."""
    for builder in builders:
        others = [set(b.places) for b in builders if b is not builder]
        if builder.places and others and not set(builder.places) & set().union(*others):  # else refused by its kind
            message = f"{builder.label} changes nothing that another of the adapters changes: are they of one base?"
            context.problem(message, tensor=next(iter(builder.places), None), fix=BASE_FIX)
    flat: dict[str, str] = {}
    for name, place in places.items():
        other = flat.setdefault(name.replace(".", "_"), name)
        if place.start and other != name:
            message = f"the adapters write it in different ways: {places[other].start}, and {place.start}"
            context.problem(message, tensor=name, fix=_RENAME)
        lacking = [b.label for b in builders if name not in b.places]
        if place.kind == "whole" and lacking:
            message = f"it is stored whole, and {', '.join(lacking)} lacks it: what changes in it is not known"
            context.problem(message, tensor=name, fix=BASE_FIX)


def _tell_missing(builder: Builder, places: Mapping[str, Place], context: Context) -> None:
    missing = [name for name in places if name not in builder.places]
    if missing:
        listed = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        context.note(f"{builder.label} does not change {len(missing)} of {len(places)} tensors: zero there ({listed})")

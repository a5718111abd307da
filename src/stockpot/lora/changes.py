"""Adapters as models of changes: one tensor for each weight that any of them changes, zero where one does not.

What an adapter changes is a difference from its base, so a merge of adapters is a merge of models whose tensors are
these differences, around a base that is zero. Such models are views over the adapters' files: nothing is formed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np

from stockpot.architecture.lora import Lora, Module, lora_of
from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.lora import stored_values
from stockpot.planning.adapters import fitted, renamed, transposition
from stockpot.planning.blocks import BLOCK
from stockpot.planning.forms import LowRank
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.views import Context, Meta

__all__ = ["NO_PAIRS", "Changes", "ChangesView", "Place", "changes_of", "pairs_alone", "plain_change", "zero"]

F64 = DTYPES["F64"]

Kind = Literal["weight", "bias", "whole"]

_ORDER: Mapping[Kind, int] = {"weight": 0, "bias": 1, "whole": 2}
_EMPTY = np.empty(0, np.uint8)
NO_PAIRS = (
    "is a single file, or of a kind whose changes are no pairs of factors (LoHa, LoKr)",
    "fold it into its base (stockpot lora fold), and extract the difference (stockpot lora extract)",
)
"""What is said of adapters that are read, but not taken apart; and the way on."""

_BASE_FIX = "give --base: the model that the adapters were trained on"


@dataclass(frozen=True)
class Place:
    """A tensor that adapters change.

    Args:
        module: The name of its module, or of the tensor where ``kind`` is ``whole``, as adapters write it.
        kind: A weight with factors, a bias that something is added to, or a tensor that is stored whole.
        shape: As the model stores it.
        crossed: Whether the model stores a weight as (in, out), or (tokens, width).
        embedding: Whether PEFT calls its factors those of an embedding.
        rank: The largest that an adapter has there; 0 without factors.
        dtype: Of the first tensor that is stored whole, or of the first factors.
    """

    module: str
    kind: Kind
    shape: tuple[int, ...]
    crossed: bool = False
    embedding: bool = False
    rank: int = 0
    dtype: DType = F64

    @property
    def flat(self) -> tuple[int, int]:
        """(rows, columns) as a matrix: a kernel's dimensions count as columns."""
        return self.shape[0] if self.shape else 1, prod(self.shape[1:])


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


def pairs_alone(lora: Lora) -> bool:
    """Whether an adapter holds what LoRA does: pairs of factors, lengths, biases, whole tensors in place of others."""
    return not (lora.products or lora.added or lora.flat)


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
    builders = [_Builder(label, adapter, base, context, line) for label, adapter in adapters]
    places: dict[str, Place] = {}
    backings = _backed(builders, base, context)
    for builder in builders:
        for name, place in builder.places.items():
            places[name] = _united(name, places.get(name), place, builder, context)
    if base is None:
        _check_names(builders, places, context)
    for builder in builders:
        _tell_missing(builder, places, context)
    shapes = {name: place.shape for name, place in places.items()}
    return Changes(
        places,
        tuple(ChangesView(b.label, shapes, b.operands) for b in builders),
        ChangesView("no change", shapes, {}),
        tuple(b.modules for b in builders),
        backings,
    )


def _backed(builders: Sequence[_Builder], base: Checkpoint | None, context: Context) -> dict[str, TensorRef]:
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
                    context.problem(message, tensor=name, fix=_BASE_FIX)
    for name in found:
        lacking = [b.label for b in builders if name in b.modules and name not in b.backings]
        if lacking:
            message = f"{lacking[0]} does not store it whole below its factors, as others do"
            context.problem(message, tensor=name, fix=_BASE_FIX)
    return found


def _same_values(one: TensorRef, other: TensorRef, reader: PayloadReader) -> bool:
    if one.shape != other.shape:
        return False
    for start in range(0, one.elements if one is not other else 0, BLOCK):
        n = min(BLOCK, one.elements - start)
        if not np.array_equal(stored_values(one, start, n, reader), stored_values(other, start, n, reader)):
            return False
    return True


def _united(name: str, known: Place | None, place: Place, builder: _Builder, context: Context) -> Place:
    """One place of two adapters' views of it."""
    if known is None:
        return place
    if known.shape != place.shape:
        message = f"{builder.label} changes a tensor of shape {place.shape}, the adapters before it of {known.shape}"
        context.problem(message, tensor=name, fix="merge adapters of one base")
    if known.kind != place.kind and builder.base is None:
        message = f"one adapter stores it whole, another adds to it ({builder.label})"
        context.problem(message, tensor=name, fix=_BASE_FIX)
    if known.crossed != place.crossed or known.embedding != place.embedding:
        message = f"{builder.label} has factors of another kind (fan_in_fan_out, embeddings) than those before it"
        context.problem(message, tensor=name, fix=_BASE_FIX)
    first, other = (known, place) if _ORDER[known.kind] >= _ORDER[place.kind] else (place, known)
    return replace(first, rank=max(first.rank, other.rank))


def _check_names(builders: Sequence[_Builder], places: Mapping[str, Place], context: Context) -> None:
    """Without a base, names are all that says what belongs together."""
    for builder in builders:
        others = [set(b.places) for b in builders if b is not builder]
        if builder.places and others and not set(builder.places) & set().union(*others):  # else refused by its kind
            message = f"{builder.label} changes nothing that another of the adapters changes: are they of one base?"
            context.problem(message, tensor=next(iter(builder.places), None), fix=_BASE_FIX)
    for name, place in places.items():
        lacking = [b.label for b in builders if name not in b.places]
        if place.kind == "whole" and lacking:
            message = f"it is stored whole, and {', '.join(lacking)} lacks it: what changes in it is not known"
            context.problem(message, tensor=name, fix=_BASE_FIX)


def _tell_missing(builder: _Builder, places: Mapping[str, Place], context: Context) -> None:
    missing = [name for name in places if name not in builder.places]
    if missing:
        listed = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        context.note(f"{builder.label} does not change {len(missing)} of {len(places)} tensors: zero there ({listed})")


class _Builder:
    """One adapter: which tensors it changes, and by what."""

    def __init__(
        self, label: str, adapter: Checkpoint, base: Checkpoint | None, context: Context, line: int | None
    ) -> None:
        self.label, self.base = label, base
        self.places: dict[str, Place] = {}
        self.operands: dict[str, Operand] = {}
        self.modules: dict[str, Module] = {}
        self.backings: dict[str, TensorRef] = {}
        self.adapter, self._context, self._line = adapter, context, line
        self._read(lora_of(adapter))

    def _read(self, lora: Lora) -> None:
        if not pairs_alone(lora):
            self._problem(f"{self.label} {NO_PAIRS[0]}", None, NO_PAIRS[1])
            return
        wanted = [*(f"{name}.weight" for name in lora.modules), *lora.replaced]
        rename = renamed(wanted, self._stored, self._words()) if self.base is not None else str
        metas = {name: self._meta(rename(f"{name}.weight")) for name in lora.modules}
        crossed = transposition(lora, metas) if self.base is not None else lora.transposed
        if crossed is None:
            fix = "write the other value of fan_in_fan_out in its adapter_config.json"
            self._problem("its fan_in_fan_out is not what the shapes of the base say", None, fix)
            return
        for name, module in lora.modules.items():
            self._weight(rename(f"{name}.weight"), module, crossed)
            if module.bias is not None:
                self._bias(rename(f"{name}.bias"), module, module.bias)
        for name, ref in lora.replaced.items():
            self._whole(rename(name), ref)

    def _words(self) -> Iterator[str]:
        assert self.base is not None
        return (name.partition(".")[0] for name in self.base.tensors)

    def _stored(self, name: str) -> bool:
        return self.base is not None and name in self.base.tensors

    def _meta(self, name: str) -> Meta | None:
        ref = None if self.base is None else self.base.tensors.get(name)
        return None if ref is None else Meta(ref.dtype, ref.shape)

    def _fits(self, name: str, shape: tuple[int, ...] | None) -> bool:
        """Whether the base, where one is given, has a tensor of that name and shape; else that is reported."""
        if self.base is None:
            return True
        meta = self._meta(name)
        if meta is not None and meta.dtype.is_float and shape in (None, meta.shape):
            return True
        told = "lacks it" if meta is None else f"has {meta.dtype.code} of shape {meta.shape}"
        message = f"{self.label} changes this tensor" + (f" of shape {shape}" if shape else "")
        self._problem(f"{message}, {self.base.label} {told}", name, "give the base that the adapter was trained on")
        return False

    def _weight(self, name: str, module: Module, crossed: bool) -> None:
        if not self._fits(name, None):
            return
        a, b = module.a.shape, module.b.shape
        turned = module.embedding or (crossed and len(a) == 2)
        meta = self._meta(name)
        shape = meta.shape if meta is not None else (a[1], b[0]) if turned else (b[0], *a[1:])
        part = fitted(module, shape, crossed=turned)
        if part is None:
            self._problem(f"{self.label} has A {a} and B {b}, the base has shape {shape}", name, _BASE_FIX)
            return
        refs = (module.a, module.b) if part.crossed else (module.b, module.a)
        reads = tuple(Read(ref, self.label) for ref in refs)
        self.places[name] = Place(
            module.name, "weight", shape, part.crossed, module.embedding, module.rank, module.a.dtype
        )
        self.modules[name] = module
        self.operands[name] = Compute(
            None, (), shape, companions=reads, form=replace(part, weighed=False), key=(name, 0), line=self._line
        )
        if module.magnitude is not None:
            self._dora(name, module, part, reads)

    def _dora(self, name: str, module: Module, part: LowRank, reads: tuple[Read, ...]) -> None:
        """With DoRA the change is W' − W: it is dense, and the base decides about it."""
        assert module.magnitude is not None
        if self.base is None:
            message = f"{self.label} uses DoRA, whose change is a function of the base's weights"
            self._problem(message, name, _BASE_FIX)
            return
        weight = Read(self.base.tensors[name], self.base.label)
        beside = (*reads, Read(module.magnitude, self.label))
        shape = self.places[name].shape
        made = Compute(None, (weight,), shape, companions=beside, form=part, key=(name, 0), line=self._line)
        self.operands[name] = Compute(None, (made, weight), shape, factors=(1.0, -1.0))

    def _bias(self, name: str, module: Module, ref: TensorRef) -> None:
        if self._fits(name, ref.shape):
            self.places[name] = Place(module.name, "bias", ref.shape, dtype=ref.dtype)
            self.operands[name] = Compute(None, (Read(ref, self.label),), ref.shape, factors=(module.scale,))

    def _whole(self, name: str, ref: TensorRef) -> None:
        if not ref.dtype.is_float:
            self._problem(f"{self.label} stores {ref.dtype.code} whole, which cannot be merged", name, "leave it out")
        elif name in self.modules:
            self.backings[name] = ref
        elif self._fits(name, ref.shape):
            self.places[name] = Place(ref.name, "whole", ref.shape, dtype=ref.dtype)
            self.operands[name] = own = Read(ref, self.label)
            if self.base is not None:
                before = Read(self.base.tensors[name], self.base.label)
                self.operands[name] = Compute(None, (own, before), ref.shape, factors=(1.0, -1.0))

    def rebased(self, name: str, ref: TensorRef) -> None:
        """Factors stand on a whole tensor that is not the base's: the change is that of both."""
        assert self.base is not None
        before = Read(self.base.tensors[name], self.base.label)
        self.places[name] = replace(self.places[name], module=ref.name, kind="whole", dtype=ref.dtype)
        parts = (self.operands[name], Read(ref, self.label), before)
        self.operands[name] = Compute(None, parts, ref.shape, factors=(1.0, 1.0, -1.0))

    def _problem(self, message: str, name: str | None, fix: str) -> None:
        file = str(self.adapter.files[0]) if self.adapter.files else None
        self._context.problem(message, tensor=name, file=file, line=self._line, fix=fix)

"""A model with an adapter on it, seen as named tensors: which tensors the adapter changes, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any

from stockpot.architecture.layers import recomputed_buffer
from stockpot.architecture.lora import Lora, Module, lora_of
from stockpot.architecture.lora_products import Product, Thin
from stockpot.architecture.tied import embedding_of, is_head, ties_embeddings
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.planning.adapters.flat_names import FlatNames, listed
from stockpot.planning.adapters.products import Factors, Hadamard, Kronecker
from stockpot.planning.forms import Form, LowRank
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.views import Context, Meta, Sliced, View

__all__ = ["AdaptedView", "Change", "change_of", "fitted", "renamed", "transposition"]

_OTHER_BASE = "the adapter was made for another model: name the base that its adapter_config.json names"


@dataclass(frozen=True)
class Change:
    """What is added to a weight: the module of the adapter, how it is added, and the tensors that it is made of."""

    module: Module | Product
    form: Form
    refs: tuple[TensorRef, ...]

    def on(
        self, weight: Operand | None, shape: tuple[int, ...], label: str, name: str, line: int | None = None
    ) -> Compute:
        """The ``weight`` with the change added; without one, the change itself (lengths of DoRA belong to a weight).

        Args:
            shape: Of the weight.
            label: Of the adapter.
            name: Of the tensor.
        """
        companions = tuple(Read(ref, label) for ref in self.refs)
        inputs = () if weight is None else (weight,)
        return Compute(None, inputs, shape, companions=companions, key=(name, 0), line=line, form=self.form)


class AdaptedView:
    """``of`` with the changes of ``adapter``, which is understood; what it does not change is that of ``of``."""

    def __init__(self, of: View, adapter: Checkpoint, context: Context, line: int | None) -> None:
        self.of, self.label = of, f"{of.label}+{adapter.label}"
        self._adapter, self._context, self._line = adapter, context, line
        self._added: dict[str, Change] = {}
        self._sums: dict[str, tuple[TensorRef, float]] = {}
        self._replaced: dict[str, TensorRef] = {}
        self._place(lora_of(adapter))
        self._tell_of_tied()

    def _place(self, lora: Lora) -> None:
        """Find the tensor of every change; what finds none, or does not fit, is reported."""
        modules: dict[str, Module | Product] = {**lora.modules, **lora.products}
        wanted = [*(f"{name}.weight" for name in modules), *lora.replaced, *lora.added]
        rename = self._flat(wanted, lora) if lora.flat else self._dotted(wanted)
        if rename is None:
            return
        crossed = transposition(lora, {name: self._meta(rename(f"{name}.weight")) for name in lora.modules})
        if crossed is None:
            said, other = ("true", "false") if lora.transposed else ("false", "true")
            message = f"{self.label}: its settings say fan_in_fan_out: {said}, its shapes do not"
            fix = f"if the model's layers are all of one kind, write fan_in_fan_out: {other} in adapter_config.json"
            self._context.problem(message, line=self._line, fix=fix)
            return
        for name, module in modules.items():
            self._add(rename(f"{name}.weight"), module, crossed)
            if isinstance(module, Module) and module.bias is not None:
                self._add_whole(rename(f"{name}.bias"), module.bias, module.scale)
        for name, ref in lora.replaced.items():
            self._replace(rename(name), ref)
        for name, ref in lora.added.items():
            self._add_whole(rename(name), ref, 1.0)

    def _dotted(self, wanted: Iterable[str]) -> Callable[[str], str]:
        return renamed(wanted, self._stored, (name.partition(".")[0] for name in self.of.names))

    def _flat(self, wanted: Sequence[str], lora: Lora) -> Callable[[str], str] | None:
        """How names without dots are found in the base; None (reported) where it must be said which part is meant."""
        names = FlatNames(wanted, self.of.names)
        counts = Counter(name.partition(".")[0] for name in (*lora.modules, *lora.products, *lora.added))
        if len(names.components) > 1 and not any(names.fits(c, wanted) for c in names.components):
            message = f"{self._adapter.label} is for {listed(counts)}; nothing tells which of them {self.of.label} is"
            fix = f"write {self._adapter.label}:{names.components[0]}, or whichever it is"
            self._context.problem(message, line=self._line, fix=fix)
            return None
        if lora.others:
            message = f"{self.label}: the adapter holds more, for {listed(lora.others)}"
            self._context.note(message, line=self._line)
        lost = [name for name in wanted if len(names.places(name)) != 1]
        for name in lost:
            self._report_lost(name, names)
        return None if lost else names

    def _report_lost(self, name: str, names: FlatNames) -> None:
        places = names.places(name)
        if places:
            message = f"{self._adapter.label} may mean {' or '.join(places)} of {self.of.label}"
            self._report(message, name, "rename the adapter's tensors: give them dots as the model's have")
            return
        near = names.nearest(name)
        message = f"{self.of.label} lacks what {self._adapter.label} changes"
        layout = "in the original layout of a single file" if names.original else "laid out otherwise"
        fix = f"is it for another model, or for this one {'as diffusers has it' if names.original else layout}? "
        fix += f"The nearest names are {near}" if near else f"No name of {self.of.label} is like it"
        self._report(message, name, fix)

    def _add(self, name: str, module: Module | Product, crossed: bool) -> None:
        first = module.a if isinstance(module, Module) else module.refs[0]
        meta = self._checked(name, first)
        if meta is None:
            return
        change = change_of(module, meta.shape, crossed=crossed)
        if change is None:
            self._report(f"{self._adapter.label} has {_shapes(module)}, {self.of.label} has shape {meta.shape}", name)
        elif name in self._added:
            self._report(f"{self._adapter.label} changes it as {self._added[name].module.name} and {module.name}", name)
        else:
            self._added[name] = change

    def _add_whole(self, name: str, ref: TensorRef, scale: float) -> None:
        meta = self._checked(name, ref)
        if meta is not None and meta.shape != ref.shape:
            self._report(self._shapes(ref, meta), name)
        elif name in self._sums or name in self._added:
            self._report(f"{self._adapter.label} changes it twice", name)
        elif meta is not None:
            self._sums[name] = (ref, scale)

    def _replace(self, name: str, ref: TensorRef) -> None:
        if recomputed_buffer(name) and name not in self.of.names:
            self._context.note(f"{name} is a buffer that the model computes: that of the adapter is not needed")
            return
        meta = self._checked(name, ref)
        if meta is not None and meta.shape != ref.shape:
            self._report(self._shapes(ref, meta), name, "resize the base's tensor, such as its vocabulary, first")
        elif meta is not None:
            self._replaced[name] = ref

    def _shapes(self, ref: TensorRef, meta: Meta) -> str:
        return f"{self._adapter.label} has shape {ref.shape}, {self.of.label} has {meta.shape}"

    def _checked(self, name: str, ref: TensorRef) -> Meta | None:
        """Dtype and shape of the tensor that ``ref`` changes; None (reported) when nothing can be changed there."""
        meta = self._meta(name)
        if meta is None:
            self._report(f"{self.of.label} lacks what {ref.name} of {self._adapter.label} changes", name)
        elif not meta.dtype.is_float and (not recomputed_buffer(name) or ref.dtype != meta.dtype):
            message = f"{self.of.label} stores {meta.dtype.code}, to which no adapter can be added"
            self._report(message, name, "use the model in bfloat16, float16 or float32")
            return None
        return meta

    def _report(self, message: str, name: str, fix: str = _OTHER_BASE) -> None:
        self._context.problem(message, tensor=name, line=self._line, fix=fix)

    def _meta(self, name: str) -> Meta | None:
        source = self._source(name)
        return None if source is None else self.of.names[source]

    def _stored(self, name: str) -> bool:
        return self._source(name) is not None

    def _source(self, name: str) -> str | None:
        """The base's tensor ``name``; of a head where none is stored, the embedding that it is tied to."""
        if name in self.of.names:
            return name
        return embedding_of(self.of.names) if is_head(name) and not self._stored_head else None

    @cached_property
    def _stored_head(self) -> bool:
        return any(map(is_head, self.of.names))

    @property
    def _tied(self) -> bool:
        """Whether the base's head is its embedding, as far as is known."""
        return ties_embeddings(self.of.config) or not self._stored_head

    def _tell_of_tied(self) -> None:
        embedding = embedding_of(self.of.names)
        if self._tied and self._own_head:
            message = f"{self.label}: the head is changed, so it is no longer tied to the embedding"
            self._context.note(message, tensor=self._own_head, line=self._line)
        elif self._tied and embedding in (*self._added, *self._sums, *self._replaced):
            message = f"{self.label}: the embedding is changed, and with it the head if it is tied to it"
            self._context.note(message, tensor=embedding, line=self._line)

    @cached_property
    def _own_head(self) -> str | None:
        return next((n for n in (*self._added, *self._sums, *self._replaced) if is_head(n)), None)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        found = dict(self.of.names)
        head = self._own_head
        if head is not None and head not in found:
            source = self._source(head)
            assert source is not None
            found[head] = found[source]
        return found

    def changed(self) -> Iterator[tuple[str, Module | Product]]:
        """The base's name of each weight that something is added to, with the module that is added."""
        for name, change in self._added.items():
            yield self._source(name) or name, change.module

    @property
    def config(self) -> Mapping[str, Any]:
        untied = self._own_head is not None and self._tied
        return {**self.of.config, "tie_word_embeddings": False} if untied else self.of.config

    @property
    def sliced(self) -> Sliced | None:
        return self.of.sliced

    def lower(self, name: str) -> Operand:
        source = self._source(name) or name
        whole = self._replaced.get(name)
        operand = self.of.lower(source) if whole is None else Read(whole, self._adapter.label)
        meta = self.names[name]
        if name in self._sums:
            ref, scale = self._sums[name]
            added = Read(ref, self._adapter.label)
            return Compute(None, (operand, added), meta.shape, factors=(1.0, scale), line=self._line)
        if name not in self._added:
            return operand
        return self._added[name].on(operand, meta.shape, self._adapter.label, name, self._line)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        if name in self.of.names:
            return self.of.origin(name)
        return self.config, name


def renamed(wanted: Iterable[str], stored: Callable[[str], bool], words: Iterable[str]) -> Callable[[str], str]:
    """How the adapter's names are written in its base: as they are, or with one leading word less or more.

    Checkpoints of a bare model (``h.0.attn…``) lack the word that it has inside another (``transformer.``), and the
    other way round. Another spelling is chosen only where all names are found by it.

    Args:
        wanted: Names of the tensors that the adapter changes.
        stored: Whether the base has a tensor of that name.
        words: The first words of the base's names.
    """
    names = list(wanted)
    less = dict.fromkeys(name.partition(".")[0] for name in names)
    ways: list[Callable[[str], str]] = [_as_it_is]
    ways += [*(partial(_without, word) for word in less), *(partial(_with, word) for word in dict.fromkeys(words))]
    return next((way for way in ways if all(stored(way(name)) for name in names)), _as_it_is)


def _as_it_is(name: str) -> str:
    return name


def _without(word: str, name: str) -> str:
    return name.removeprefix(f"{word}.")


def _with(word: str, name: str) -> str:
    return name if is_head(name) else f"{word}.{name}"


def transposition(lora: Lora, metas: Mapping[str, Meta | None]) -> bool | None:
    """Whether modules whose shape does not tell are stored as (in, out); None where settings and shapes disagree.

    The setting holds for a whole model, and PEFT writes down that of the last layer that it met. So a square
    weight is added to only where the shapes of the others, heads apart, say the same.
    """
    votes = set(_votes(lora, metas))
    undecided = any(
        _ways(module, meta.shape) == (True, True)
        for name, module in lora.modules.items()
        if not module.embedding and (meta := metas[name]) is not None
    )
    return None if undecided and votes - {lora.transposed} else lora.transposed


def _votes(lora: Lora, metas: Mapping[str, Meta | None]) -> Iterator[bool]:
    for name, module in lora.modules.items():
        meta = metas[name]
        if meta is None or module.embedding or is_head(f"{name}.weight"):
            continue
        straight, crossed = _ways(module, meta.shape)
        if straight != crossed:
            yield crossed


def _ways(module: Module, shape: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether a weight of that shape can be (out, in…), and whether it can be (in, out)."""
    a, b = module.a.shape, module.b.shape
    straight = shape == (b[0], *a[1:])
    if max(len(a), len(shape)) == 4 > min(len(a), len(shape)):  # a linear layer written as a 1×1 convolution, or so
        straight = _filled(shape) == _filled((b[0], *a[1:]))
    return straight, len(a) == 2 and shape == (a[1], b[0])


def _filled(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape of four dimensions, of which the last may be 1."""
    return (*shape, *(1 for _ in range(4 - len(shape))))


def _shapes(module: Module | Product) -> str:
    """Shapes of what a module's change is made of, for people."""
    if isinstance(module, Module):
        return f"A {module.a.shape} and B {module.b.shape}"
    return f"a change of shape {module.shape}"


def change_of(module: Module | Product, shape: tuple[int, ...], *, crossed: bool = False) -> Change | None:
    """How a module is added to a weight of that shape; None when it does not fit."""
    if isinstance(module, Module):
        part = fitted(module, shape, crossed=crossed)
        if part is None:
            return None
        refs = [module.a, module.b] if part.crossed else [module.b, module.a]
        refs += [] if module.magnitude is None else [module.magnitude]
        return Change(module, part, tuple(refs))
    if len(shape) < 2 or module.shape != (shape[0], prod(shape[1:])):
        return None
    parts = tuple(map(_factors, module.parts))
    if module.kind == "lokr":
        return Change(module, Kronecker(parts[0], parts[1], module.scale), module.refs)
    return Change(module, Hadamard(parts, module.scale), module.refs)


def _factors(part: Thin) -> Factors:
    inner = 0 if part.core is None else part.core.shape[1]
    return Factors(part.rows, part.columns, part.rank, inner, part.kernel, part.crossed)


def fitted(module: Module, shape: tuple[int, ...], *, crossed: bool) -> LowRank | None:
    """How a module's factors are added to a weight of that shape; None when they do not fit.

    Args:
        crossed: Whether a square weight is stored as (in, out).
    """
    straight, across = _ways(module, shape)
    if module.embedding:
        straight = False
    if not straight and not across:
        return None
    columns = 1
    for n in shape[1:]:
        columns *= n
    across = across and (crossed or not straight)
    return LowRank(module.rank, shape[0], columns, module.scale, across, module.magnitude is not None)

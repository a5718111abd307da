"""A model with an adapter on it, seen as named tensors: which tensors the adapter changes, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

from stockpot.architecture.layers import recomputed_buffer
from stockpot.architecture.lora import Lora, Module, lora_of
from stockpot.architecture.tied import embedding_of, is_head, ties_embeddings
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.planning.forms import LowRank
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.views import Context, Meta, Sliced, View

__all__ = ["AdaptedView", "fitted", "renamed", "transposition"]

_OTHER_BASE = "the adapter was made for another model: name the base that its adapter_config.json names"


class AdaptedView:
    """``of`` with the changes of ``adapter``, which is understood; what it does not change is that of ``of``."""

    def __init__(self, of: View, adapter: Checkpoint, context: Context, line: int | None) -> None:
        self.of, self.label = of, f"{of.label}+{adapter.label}"
        self._adapter, self._context, self._line = adapter, context, line
        self._added: dict[str, tuple[Module, LowRank]] = {}
        self._biases: dict[str, Module] = {}
        self._replaced: dict[str, TensorRef] = {}
        self._place(lora_of(adapter))
        self._tell_of_tied()

    def _place(self, lora: Lora) -> None:
        """Find the tensor of every change; what finds none, or does not fit, is reported."""
        wanted = [*(f"{name}.weight" for name in lora.modules), *lora.replaced]
        rename = renamed(wanted, self._stored, (name.partition(".")[0] for name in self.of.names))
        crossed = transposition(lora, {name: self._meta(rename(f"{name}.weight")) for name in lora.modules})
        if crossed is None:
            said, other = ("true", "false") if lora.transposed else ("false", "true")
            message = f"{self.label}: its settings say fan_in_fan_out: {said}, its shapes do not"
            fix = f"if the model's layers are all of one kind, write fan_in_fan_out: {other} in adapter_config.json"
            self._context.problem(message, line=self._line, fix=fix)
            return
        for name, module in lora.modules.items():
            self._add(rename(f"{name}.weight"), module, crossed)
            if module.bias is not None:
                self._add_bias(rename(f"{name}.bias"), module)
        for name, ref in lora.replaced.items():
            self._replace(rename(name), ref)

    def _add(self, name: str, module: Module, crossed: bool) -> None:
        meta = self._checked(name, module.a)
        if meta is None:
            return
        part = fitted(module, meta.shape, crossed=crossed)
        if part is None:
            a, b = module.a.shape, module.b.shape
            message = f"{self._adapter.label} has A {a} and B {b}, {self.of.label} has shape {meta.shape}"
            self._report(message, name)
        else:
            self._added[name] = (module, part)

    def _add_bias(self, name: str, module: Module) -> None:
        assert module.bias is not None
        meta = self._checked(name, module.bias)
        if meta is not None and meta.shape != module.bias.shape:
            self._report(self._shapes(module.bias, meta), name)
        elif meta is not None:
            self._biases[name] = module

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
        elif self._tied and embedding in (*self._added, *self._replaced):
            message = f"{self.label}: the embedding is changed, and with it the head if it is tied to it"
            self._context.note(message, tensor=embedding, line=self._line)

    @cached_property
    def _own_head(self) -> str | None:
        return next((n for n in (*self._added, *self._replaced) if is_head(n)), None)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        found = dict(self.of.names)
        head = self._own_head
        if head is not None and head not in found:
            source = self._source(head)
            assert source is not None
            found[head] = found[source]
        return found

    def changed(self) -> Iterator[tuple[str, Module]]:
        """The base's name of each weight that something is added to, with the module that is added."""
        for name, (module, _) in self._added.items():
            yield self._source(name) or name, module

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
        if name in self._biases:
            module = self._biases[name]
            assert module.bias is not None
            added = Read(module.bias, self._adapter.label)
            return Compute(None, (operand, added), meta.shape, factors=(1.0, module.scale), line=self._line)
        if name not in self._added:
            return operand
        module, part = self._added[name]
        factors = [module.a, module.b] if part.crossed else [module.b, module.a]
        factors += [] if module.magnitude is None else [module.magnitude]
        return Compute(
            None,
            (operand,),
            meta.shape,
            companions=tuple(Read(ref, self._adapter.label) for ref in factors),
            key=(name, 0),
            line=self._line,
            form=part,
        )

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
    return shape == (b[0], *a[1:]), len(a) == 2 and shape == (a[1], b[0])


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

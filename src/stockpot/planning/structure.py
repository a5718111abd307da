"""Views that move tensors: checkpoints, ranges of layers, stacks, casts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from math import prod
from typing import Any

from stockpot.architecture.branches import outputs_of
from stockpot.architecture.layers import layer_counts, layer_of
from stockpot.architecture.modules import stack_within
from stockpot.architecture.stacks import Ends, first_only, main_stack
from stockpot.arrangements import Layers
from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.model import Checkpoint, Coding
from stockpot.planning.coded import Decoded
from stockpot.planning.matching import relaid_as
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.views import Context, Meta, Sliced, View, Wrapped

__all__ = ["CastView", "LayersView", "LeafView", "StackView"]


@dataclass(frozen=True)
class LeafView:
    """A checkpoint, seen as the values of its tensors: scales and packed formats are undone when they are read."""

    checkpoint: Checkpoint

    @property
    def label(self) -> str:
        return self.checkpoint.label

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {name: Meta(dtype, shape) for name, (dtype, shape) in self.checkpoint.values.items()}

    @property
    def config(self) -> Mapping[str, Any]:
        return self.checkpoint.config

    @property
    def sliced(self) -> None:
        return None

    def lower(self, name: str) -> Operand:
        stored, coding = Read(self.checkpoint.tensors[name], self.label), self.checkpoint.codings.get(name)
        return stored if coding is None else decoded(stored, coding)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.checkpoint.config_of(name), name


def decoded(stored: Read, coding: Coding) -> Compute:
    """The values that ``coding`` makes of what is stored."""
    shape, dtype = stored.ref.shape, stored.dtype
    return Compute(
        None,
        (stored,),
        shape,
        companions=() if coding.scale is None else (Read(coding.scale, stored.model),),
        key=(stored.ref.name, 0),
        form=Decoded(
            columns=prod(shape[1:]) if coding.head else max(1, prod(shape[-1:])),
            packing=dtype.code if dtype.kind == "packed" else "",
            group=(dtype.per, dtype.bits // 8),
            rows=coding.rows,
            block=coding.block if coding.scale is not None else (0, 0),
            head=coding.head,
            shift=coding.shift,
        ),
    )


def _unclear(view: View, context: Context, line: int | None) -> None:
    """Report a model of which nothing tells which of its stacks is meant."""
    counts = layer_counts(view.names)
    listed = ", ".join(f"{stack} ({count})" for stack, count in islice(counts.items(), 8)) + ", …" * (len(counts) > 8)
    fix = f"say which: stack: {next(iter(counts))} beside layer_range" if counts else "merge it as a whole"
    context.problem(
        f"layer_range needs a single stack of layers; {view.label} has {listed or 'none'}", line=line, fix=fix
    )


def _length(view: View, stack: str) -> int:
    return 1 + max((layer.index for name in view.names if (layer := layer_of(name, stack))), default=-1)


class LayersView:
    """Some layers of a model, renumbered from 0."""

    def __init__(self, node: Layers, of: View, context: Context) -> None:
        self.of, self.label = of, f"{of.label}[{node.start}:{node.stop}]"
        stack, count = self._chosen(node, context)
        if node.stop > count:
            context.problem(
                f"layer_range [{node.start}, {node.stop}] reaches beyond the {count} layers of {of.label}",
                line=node.line,
                fix=f"the last layer is {count - 1}: end the range at {count}",
            )
        before = of.sliced.firsts if of.sliced is not None and of.sliced.stack == stack else frozenset[str]()
        self.sliced = Sliced(stack, before | first_only(of.names, stack))
        self._mapped = {new: name for name in of.names if (new := self._renamed(name, node)) is not None}
        self._silent = self._silenced(node, context) if node.identity else frozenset[str]()

    def _chosen(self, node: Layers, context: Context) -> tuple[str, int]:
        within = stack_within(node.module, self.of.names, self.of.config) if node.module and not node.stack else None
        if within is not None:
            return within, _length(self.of, within)
        if node.stack is None:
            found = main_stack(self.of.names, self.of.config)
            if found is None:
                _unclear(self.of, context, node.line)
            return found or ("", node.stop)
        count = _length(self.of, node.stack)
        if count == 0:
            counts = layer_counts(self.of.names)
            context.problem(
                f"{self.of.label} has no stack {node.stack}",
                line=node.line,
                fix=f"its stacks are {', '.join(islice(counts, 8))}" if counts else "it has no layers",
            )
        return node.stack, count or node.stop

    def _renamed(self, name: str, node: Layers) -> str | None:
        """The name in the result; None for a layer that is not taken."""
        layer = layer_of(name, self.sliced.stack)
        if layer is None or (layer.index == 0 and layer.rest in self.sliced.firsts):
            return name
        return layer.at(layer.index - node.start) if node.start <= layer.index < node.stop else None

    def _silenced(self, node: Layers, context: Context) -> frozenset[str]:
        """The tensors that must be zero for the layers to change nothing; layers that are not understood are told."""
        layers: dict[int, dict[str, str]] = {}
        for name in self._mapped:
            layer = layer_of(name, self.sliced.stack)
            if layer is not None and layer.rest not in self.sliced.firsts:
                layers.setdefault(layer.index, {})[layer.rest] = name
        found: set[str] = set()
        for index, own in layers.items():
            outputs = outputs_of({rest: self.names[name].shape for rest, name in own.items()}, self.config)
            if not isinstance(outputs, str):
                found.update(own[rest] for rest in outputs)
                continue
            context.problem(
                f"layer {index + node.start} of {self.of.label} cannot be made the identity: {outputs}",
                line=node.line,
                fix="leave identity out, or scale by zero what the layer adds: scale: [{filter: …, value: 0}, 1]",
            )
        return frozenset(found)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {new: self.of.names[old] for new, old in self._mapped.items()}

    @property
    def config(self) -> Mapping[str, Any]:
        return self.of.config

    def lower(self, name: str) -> Operand:
        operand = self.of.lower(self._mapped[name])
        if name not in self._silent or not operand_is_float(operand):
            return operand
        return Compute(None, (operand,), self.names[name].shape, factors=(0.0,), dtype=operand.dtype)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(self._mapped[name])


class StackView:
    """Models on top of each other."""

    def __init__(self, parts: Sequence[View], context: Context, line: int | None = None) -> None:
        self.parts = [relaid_as(part, parts[0], context, line) for part in parts]
        self.label = " / ".join(p.label for p in parts)
        self.sliced = self._chosen(context, line)
        before: dict[str, tuple[View, str]] = {}
        layers: dict[str, tuple[View, str]] = {}
        after: dict[str, tuple[View, str]] = {}
        offset = 0
        firsts = self.sliced.firsts if self.sliced is not None else frozenset[str]()
        for part in self.parts:
            ends = Ends(self._stack, layer_counts(part.names))
            for name in part.names:
                layer = layer_of(name, self._stack)
                if layer is not None and layer.rest not in firsts:
                    layers[layer.at(offset + layer.index)] = (part, name)
                elif layer is not None or ends.of(name) == "first":
                    before.setdefault(name, (part, name))
                else:
                    after[name] = (part, name)
            offset += _length(part, self._stack)
        self._mapped = {**before, **layers, **after}

    @property
    def _stack(self) -> str:
        return self.sliced.stack if self.sliced is not None else ""

    def _chosen(self, context: Context, line: int | None) -> Sliced | None:
        """The stack that grows: the one that layers were taken from, else the one that the first part is about."""
        slices = [part.sliced for part in self.parts if part.sliced is not None]
        if slices:
            own = next((s for s in slices if s.stack != slices[0].stack), slices[0])
            if own is not slices[0]:
                context.problem(
                    f"the parts of a stack take layers of {slices[0].stack} and of {own.stack}",
                    line=line,
                    fix="stack the one first, then the other",
                )
            return Sliced(slices[0].stack, frozenset[str]().union(*(s.firsts for s in slices)))
        found = main_stack(self.parts[0].names, self.parts[0].config)
        if found is not None:
            return Sliced(found[0], first_only(self.parts[0].names, found[0]))
        if layer_counts(self.parts[0].names):
            _unclear(self.parts[0], context, line)
        return None

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
class CastView(Wrapped):
    """A model rounded to a dtype."""

    of: View
    dtype: DType

    @property
    def label(self) -> str:
        return self.of.label

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {n: Meta(self.dtype, m.shape) if m.dtype.is_float else m for n, m in self.of.names.items()}

    def lower(self, name: str) -> Operand:
        operand = self.of.lower(name)
        if not operand_is_float(operand):
            return operand
        if operand.dtype == self.dtype:
            return operand
        if isinstance(operand, Compute) and operand.dtype is None:
            return replace(operand, dtype=self.dtype)
        return Compute(None, (operand,), self.names[name].shape, factors=(1.0,), dtype=self.dtype)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(name)


def operand_is_float(operand: Operand) -> bool:
    """Whether an operand takes part in arithmetic."""
    return isinstance(operand, Compute) or operand.dtype.is_float

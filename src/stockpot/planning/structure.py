"""Views that move tensors: checkpoints, ranges of layers, stacks, casts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from stockpot.architecture.layers import layer_counts, parse_layer, position
from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.model import Checkpoint
from stockpot.expression import Layers
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.views import Context, Meta, View

__all__ = ["CastView", "LayersView", "LeafView", "StackView"]


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
        return Compute(None, (operand,), self.names[name].shape, factors=(1.0,), dtype=self.dtype)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self.of.origin(name)


def operand_is_float(operand: Operand) -> bool:
    """Whether an operand takes part in arithmetic."""
    return isinstance(operand, Compute) or operand.dtype.is_float

"""What a method and a sum share: inputs that must agree with a reference, name by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from stockpot.architecture.layers import layer_counts, parse_layer, position, recomputed_buffer
from stockpot.architecture.tied import embedding_of, is_head, stand_in, ties_embeddings
from stockpot.planning.matching import lends
from stockpot.planning.model import Operand
from stockpot.planning.views import Context, Meta, Sliced, View

__all__ = ["Merged"]


class Merged:
    """What a method and a sum share: inputs that must agree with a reference, name by name."""

    def __init__(self, views: Sequence[View], reference: View, context: Context, line: int | None) -> None:
        self._views, self._reference, self._context, self._line = views, reference, context, line
        self.label = ", ".join(v.label for v in views)

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        found = dict(self._reference.names)
        for view in self._views:
            if view is self._reference:
                continue
            self._report_missing(view)
            for name, meta in view.names.items():
                if name not in found and self._wanted(view, name):
                    found[name] = meta
        return found

    def _report_missing(self, view: View) -> None:
        lost = [
            name
            for name, meta in self._reference.names.items()
            if name not in view.names and meta.dtype.is_float and not self._replaceable(view, name)
        ]
        if lost:
            self._context.problem(
                f"{view.label} lacks {len(lost)} tensor(s) of {self._reference.label}: {_some(lost)}",
                tensor=lost[0],
                line=self._line,
                fix="merge models of the same architecture; check for a name prefix that differs",
            )

    def _replaceable(self, view: View, name: str) -> bool:
        return recomputed_buffer(name) or stand_in(name, view.names) is not None

    def _wanted(self, view: View, name: str) -> bool:
        """Whether a tensor that only ``view`` has belongs into the result; problems are reported."""
        if recomputed_buffer(name) or not view.names[name].dtype.is_float:
            return False
        if stand_in(name, self._reference.names) is not None:
            return not ties_embeddings(view.config)
        self._context.problem(
            f"{view.label} has a tensor that {self._reference.label} lacks",
            tensor=name,
            line=self._line,
            fix="merge models of the same architecture; check for a name prefix that differs",
        )
        return False

    @property
    def config(self) -> Mapping[str, Any]:
        return self._reference.config

    @property
    def sliced(self) -> Sliced | None:
        return self._reference.sliced

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        return self._reference.origin(name) if name in self._reference.names else (self.config, name)

    @property
    def reference(self) -> View:
        """The model whose names and shapes the result has."""
        return self._reference

    def kept(self, name: str) -> bool:
        """Whether the reference alone has tensor ``name``, and lends it to the others."""
        others = [view for view in self._views if view is not self._reference]
        return bool(others) and all(lends(view, name) for view in others)

    def own(self, name: str) -> Operand:
        """Tensor ``name`` of the reference, or of its tied embedding."""
        names = self._reference.names
        return self._reference.lower(name if name in names else stand_in(name, names) or name)

    def fetch(self, view: View, name: str) -> Operand | None:
        """Tensor ``name`` of ``view``, or of its tied embedding; None (reported) when it does not fit."""
        own = name if name in view.names else stand_in(name, view.names)
        meta = self.names[name]
        if own is None:
            return None
        found = view.names[own]
        if found.shape != meta.shape:
            fix = "merge models of one architecture and vocabulary"
            if position(name) == "before" or is_head(name):
                fix = "the vocabularies differ: tokenizer_source: union (or base) matches rows by their tokens"
            self._context.problem(
                f"{view.label} has shape {found.shape}, {self._giver(name).label} has {meta.shape}",
                tensor=name,
                line=self._line,
                fix=fix,
            )
            return None
        if not found.dtype.is_float:
            self._context.problem(
                f"{view.label} stores {found.dtype.code}, {self._reference.label} {meta.dtype.code}: "
                "one of them seems to be quantised",
                tensor=name,
                line=self._line,
                fix="save the model in bfloat16, float16 or float32 first",
            )
            return None
        return view.lower(own)

    def _giver(self, name: str) -> View:
        """The view whose shape tensor ``name`` has."""
        return next(view for view in (self._reference, *self._views) if name in view.names)

    def copied(self, name: str) -> Operand | None:
        """The reference's own tensor when ``name`` is not merged: integers, lone recomputed buffers."""
        meta = self.names[name]
        if meta.dtype.kind == "packed" and len(self._views) > 1:
            self._context.problem(
                f"dtype {meta.dtype.code} of a quantised model cannot be merged",
                tensor=name,
                line=self._line,
                fix="save the models in bfloat16, float16 or float32 first",
            )
        alone = recomputed_buffer(name) and any(name not in v.names for v in self._views)
        if alone:
            self._context.note(f"{name.rsplit('.', 2)[-1]} buffers are copied: not every model stores them")
        return self._reference.lower(name) if alone or not meta.dtype.is_float else None

    def tied_name(self, name: str) -> str:
        """The name by which parameters and random numbers are looked up: a tied head goes by its embedding's."""
        if not is_head(name) or not ties_embeddings(self._reference.config):
            return name
        untied = any(name in view.names and not ties_embeddings(view.config) for view in self._views)
        return name if untied else embedding_of(self._reference.names) or name

    def depth(self, name: str, compat: bool) -> float:
        """Place of a tensor in the model, 0 (first layer, embeddings) to 1 (last layer, head)."""
        layer = parse_layer(name)
        if layer is None or layer.stack not in self.layers:
            return 0.0 if compat or position(name) == "before" else 1.0
        count = self.layers[layer.stack]
        return layer.index / (count - 1) if count > 1 else 1.0

    @cached_property
    def layers(self) -> Mapping[str, int]:
        """Stack → number of its layers."""
        return layer_counts(self.names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")

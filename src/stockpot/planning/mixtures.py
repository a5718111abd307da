"""A mixture of experts seen as named tensors: whose each is, and what of the models does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stockpot.architecture.layers import parse_layer
from stockpot.architecture.mixtures import LAYOUTS, PARTS, STACK, Block, defaults_of, faults_of
from stockpot.arrangements import Expert, Mixture
from stockpot.checkpoint.dtypes import DType
from stockpot.planning.forms import Noise
from stockpot.planning.model import Compute, Operand
from stockpot.planning.views import Context, Meta, View

__all__ = ["MixtureView", "dense_name", "rewritten"]


def dense_name(layer: int, part: str) -> str:
    """Name of a matrix of a dense model's MLP."""
    return f"{STACK}.{layer}.mlp.{part}.weight"


def rewritten(view: View) -> Mapping[str, Any] | None:
    """The config that takes the place of the donor's; None for a view that leaves it as it is."""
    return view.config if isinstance(view, MixtureView) else None


@dataclass(frozen=True)
class _Place:
    """Where a tensor of the result comes from: a model's tensor, and the expert that it is part of."""

    view: View
    name: str
    expert: Expert | None = None
    label: str = ""


class MixtureView:
    """A dense model whose MLPs are experts; ``experts`` and ``shared`` are views in the order of the node's."""

    def __init__(
        self, node: Mixture, of: View, experts: Sequence[View], shared: View | None, router: View, context: Context
    ) -> None:
        self.node, self.of, self._context = node, of, context
        self._experts, self._shared, self._router = experts, shared, router
        self._layout = LAYOUTS[node.layout]
        self.label = f"a mixture of {', '.join(dict.fromkeys(view.label for view in experts))}"
        self._report_base()
        self._check_experts()
        self._mapped = self._places()
        self._check_router()

    @property
    def _layers(self) -> list[int]:
        found = {layer.index for name in self.of.names if (layer := parse_layer(name)) and layer.stack == STACK}
        return sorted(found)

    def _problem(self, message: str, **where: Any) -> None:
        self._context.problem(message, line=self.node.line, **where)

    def _report_base(self) -> None:
        for tensor, message, fix in faults_of(self._layout, self.of.config, self.of.names):
            self._problem(f"{self.of.label}: {message}", tensor=tensor, fix=fix)
        embedding, vocabulary = self.of.names.get("model.embed_tokens.weight"), self.of.config.get("vocab_size")
        if embedding is not None and embedding.shape[:1] != (vocabulary,):
            message = f"{self.of.label}: the embedding has {embedding.shape[0]} rows, its config says {vocabulary}"
            self._problem(message, tensor="model.embed_tokens.weight", fix="mend vocab_size in its config.json")
        others = [view.label for view in self._all if view is not self.of]
        if others:
            told = ", ".join(dict.fromkeys(others))
            self._context.note(f"of {told} only the MLPs are used; all else is that of {self.of.label}")
        for view in self._all:
            size = view.config.get("vocab_size")
            if isinstance(size, int) and size != vocabulary:
                message = f"{view.label} was made for a vocabulary of {size} tokens, {self.of.label} has {vocabulary}"
                self._context.note(f"{message}: its MLPs meet states of other tokens")

    @property
    def _all(self) -> tuple[View, ...]:
        return (*self._experts, *(() if self._shared is None else (self._shared,)))

    def _check_experts(self) -> None:
        """Every expert has the MLPs that the base has, of one shape; reported where not."""
        hidden, width = self._wanted(self.of)[0], self._wanted(self._experts[0])[1]
        for number, view in enumerate(self._all):
            free = self._layout.own_width and number == len(self._experts)
            for layer in self._layers:
                self._check_mlp(view, layer, hidden, self._wanted(view)[1] if free else width)
            act = {**defaults_of(view.config), **view.config}.get("hidden_act")
            if view is not self.of and act != "silu" and view.config:
                self._problem(f"{view.label}: hidden_act {act}; the experts' is silu", fix="use models with silu")
            extra = [n for n in view.names if ".mlp." in n and n.endswith(".bias")]
            if view is not self.of and extra:
                message = f"{view.label}: an MLP with biases, which experts lack"
                self._problem(message, tensor=extra[0], fix="use models whose MLPs have none (mlp_bias: false)")

    def _wanted(self, view: View) -> tuple[int, int]:
        """(hidden size, intermediate size) by the first MLP of a model; zeros without one."""
        meta = view.names.get(dense_name(0, "down_proj"))
        return (meta.shape[0], meta.shape[1]) if meta is not None and len(meta.shape) == 2 else (0, 0)

    def _check_mlp(self, view: View, layer: int, hidden: int, width: int) -> None:
        for part in PARTS:
            name = dense_name(layer, part)
            meta, wanted = view.names.get(name), (hidden, width) if part == "down_proj" else (width, hidden)
            if meta is None:
                fix = "use models of as many layers, in the layout of transformers"
                self._problem(f"{view.label} lacks this tensor of an expert", tensor=name, fix=fix)
            elif not meta.dtype.is_float:
                self._problem(f"{view.label} stores {meta.dtype.code}, which cannot be an expert", tensor=name)
            elif meta.shape != wanted:
                message = f"{view.label} has shape {meta.shape}, the experts have {wanted}"
                self._problem(message, tensor=name, fix="use experts of one size, with the hidden size of the base")
        last = dense_name(max(self._layers, default=0) + 1, "down_proj")
        if last in view.names:
            fix = "use models of as many layers"
            self._problem(f"{view.label} has more layers than {self.of.label}", tensor=last, fix=fix)

    def _places(self) -> dict[str, _Place]:
        """The result's names: of each layer, experts and router stand where the MLP stood."""
        found: dict[str, _Place] = {}
        done: set[int] = set()
        for name in self.of.names:
            layer = parse_layer(name)
            if layer is None or layer.stack != STACK or not layer.rest.startswith(".mlp."):
                found[name] = _Place(self.of, name)
            elif layer.index not in done:
                done.add(layer.index)
                found |= self._block(layer.index)
        return found

    def _block(self, layer: int) -> dict[str, _Place]:
        layout = self._layout
        found: dict[str, _Place] = {}
        for number, (expert, view) in enumerate(zip(self.node.experts, self._experts, strict=True)):
            for part in PARTS:
                place = _Place(view, dense_name(layer, part), expert, f"expert {number}")
                found[layout.expert(layer, number, part)] = place
        if self.node.shared is not None and self._shared is not None and layout.shared is not None:
            for part in PARTS:
                place = _Place(self._shared, dense_name(layer, part), self.node.shared, "shared expert")
                found[layout.shared_expert(layer, part)] = place
        for name in self._router.names:
            own = parse_layer(name)
            if own is not None and own.index == layer and own.stack == STACK:
                found[name] = _Place(self._router, name)
        return found

    def _check_router(self) -> None:
        """The router has the rows that the layout wants, and nothing else."""
        hidden, _ = self._wanted(self.of)
        fix = "have it made again: remove the file, or name another with --router"
        wanted: set[str] = set()
        for layer in self._layers:
            shapes: dict[str, tuple[int, ...]] = {self._layout.router(layer): (len(self._experts), hidden)}
            shapes |= self._beside(layer, hidden)
            wanted |= shapes.keys()
            for name, shape in shapes.items():
                meta = self._router.names.get(name)
                if meta is None or meta.shape != shape or not meta.dtype.is_float:
                    has = "lacks this tensor" if meta is None else f"has {meta.dtype.code}{list(meta.shape)}"
                    self._problem(
                        f"the router {self._router.label} {has}, floats {shape} are needed", tensor=name, fix=fix
                    )
        for name in self._router.names:
            if name not in wanted:
                self._problem(f"the router {self._router.label} has what no place is for", tensor=name, fix=fix)

    def _beside(self, layer: int, hidden: int) -> dict[str, tuple[int, ...]]:
        """What a block has beside experts and router, that no model gives."""
        layout = self._layout
        found: dict[str, tuple[int, ...]] = {}
        gate, correction = layout.shared_gate(layer), layout.correction(layer)
        if gate is not None:
            found[gate] = (1, hidden)
        if correction is not None:
            found[correction] = (len(self._experts),)
        if layout.own_width and self.node.shared is None:
            width = self._empty
            found |= {
                layout.shared_expert(layer, part): (hidden, width) if part == "down_proj" else (width, hidden)
                for part in PARTS
            }
        return found

    @property
    def _empty(self) -> int:
        """Width of a shared expert that gives nothing, where none is wanted."""
        name = self._layout.shared_expert(self._layers[0], "up_proj") if self._layout.shared and self._layers else ""
        meta = self._router.names.get(name)
        return meta.shape[0] if meta is not None else 1

    @cached_property
    def names(self) -> Mapping[str, Meta]:
        return {name: self._meta(place) for name, place in self._mapped.items()}

    def _meta(self, place: _Place) -> Meta:
        """Experts and routers have the dtype of the base's MLPs."""
        meta = place.view.names.get(place.name, Meta(self._dtype, ()))
        return meta if place.view is self.of and place.expert is None else Meta(self._dtype, meta.shape)

    @cached_property
    def _dtype(self) -> DType:
        metas = [meta for name, meta in self.of.names.items() if meta.dtype.is_float]
        mlps = [meta for name, meta in self.of.names.items() if ".mlp." in name and meta.dtype.is_float]
        return (mlps or metas)[0].dtype

    @cached_property
    def config(self) -> Mapping[str, Any]:
        width = self._wanted(self._experts[0])[1]
        shared = self._wanted(self._shared)[1] if self._shared is not None else 0
        if not shared and self._layout.always_shared:
            shared = self._empty
        return self._layout.config(
            self.of.config, self.of.names, Block(len(self._experts), self.node.per_token, width, shared)
        )

    @property
    def sliced(self) -> None:
        return None

    def lower(self, name: str) -> Operand:
        place = self._mapped[name]
        if place.name not in place.view.names:  # reported
            return self.of.lower(next(iter(self.of.names)))
        operand = place.view.lower(place.name)
        expert = place.expert
        if expert is None:
            return operand
        factor = expert.residual if place.name.endswith("down_proj.weight") else 1.0
        shape = place.view.names[place.name].shape
        if expert.noise:
            form, key = Noise(expert.noise, factor), (place.name, self._context.seed)
            return Compute(None, (operand,), shape, labels=(place.label,), key=key, line=self.node.line, form=form)
        return operand if factor == 1.0 else Compute(None, (operand,), shape, factors=(factor,), line=self.node.line)

    def origin(self, name: str) -> tuple[Mapping[str, Any], str]:
        place = self._mapped.get(name)
        return (self.config, name) if place is None else (place.view.config, name)

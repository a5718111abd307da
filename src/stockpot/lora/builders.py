"""One adapter, read: which tensors it changes, and by what; nothing is formed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from stockpot.architecture.lora import Lora, Module, lora_of
from stockpot.architecture.lora_products import Product
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.lora.naming import spelled
from stockpot.lora.places import BASE_FIX, Place
from stockpot.planning.adapters.adapted import change_of, fitted, renamed, transposition
from stockpot.planning.adapters.flat_names import FlatNames, listed
from stockpot.planning.forms import LowRank
from stockpot.planning.model import Compute, Operand, Read
from stockpot.planning.views import Context, Meta

__all__ = ["Builder"]


class Builder:
    """One adapter: which tensors it changes, and by what.

    Args:
        base: The model that it is on, where that is given; else places are called as the adapter calls them.
        context: What is wrong is reported to it.
        lora: What is looked at; None takes all that the adapter holds.
    """

    def __init__(
        self,
        label: str,
        adapter: Checkpoint,
        base: Checkpoint | None,
        context: Context,
        line: int | None,
        lora: Lora | None = None,
    ) -> None:
        self.label, self.base = label, base
        self.places: dict[str, Place] = {}
        self.operands: dict[str, Operand] = {}
        self.modules: dict[str, Module] = {}
        self.backings: dict[str, TensorRef] = {}
        self.adapter, self._context, self._line = adapter, context, line
        self._read(lora_of(adapter) if lora is None else lora)

    def _read(self, lora: Lora) -> None:
        modules = {**lora.modules, **lora.products}
        rename = self._naming([*(f"{name}.weight" for name in modules), *lora.replaced, *lora.added], lora)
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
        for name, product in lora.products.items():
            self._product(rename(f"{name}.weight"), product)
        for name, ref in lora.replaced.items():
            self._whole(rename(name), ref)
        for name, ref in lora.added.items():
            self._added(rename(name), name, ref)
        if lora.others:
            self._context.note(f"{self.label}: what it holds for {listed(lora.others)} is not in the result")

    def _naming(self, wanted: Sequence[str], lora: Lora) -> Callable[[str], str]:
        """How its names are written in the base; as they are, where none is given."""
        if self.base is None:
            return str
        if not lora.flat:
            return renamed(wanted, self._stored, self._words())
        names = FlatNames(wanted, self.base.tensors)
        for name in wanted:
            places = names.places(name)
            if len(places) > 1:
                message = f"{self.label} may mean {' or '.join(places)}"
                self._problem(message, name, "give the tensors dots as the model's have")
        return names

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
        if name in self.places:
            self._problem(f"{self.label} changes it twice", name, "get the file again")
            return False
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
            self._problem(f"{self.label} has A {a} and B {b}, the base has shape {shape}", name, BASE_FIX)
            return
        refs = (module.a, module.b) if part.crossed else (module.b, module.a)
        reads = tuple(Read(ref, self.label) for ref in refs)
        self.places[name] = Place(
            module.name,
            "weight",
            shape,
            part.crossed,
            module.embedding,
            module.rank,
            module.a.dtype,
            *spelled(self.adapter, module.a.name),
        )
        self.modules[name] = module
        self.operands[name] = Compute(
            None, (), shape, companions=reads, form=replace(part, weighed=False), key=(name, 0), line=self._line
        )
        if module.magnitude is not None:
            self._dora(name, module, part, reads)

    def _product(self, name: str, product: Product) -> None:
        """A change that is no pair of factors: the engine makes it dense, one weight at a time."""
        if not self._fits(name, None):
            return
        meta, first = self._meta(name), product.refs[0]
        shape = product.dimensions if meta is None else meta.shape
        change = change_of(product, shape)
        if change is None:
            self._problem(f"{self.label} has a change of {product.shape}, the base has shape {shape}", name, BASE_FIX)
            return
        self.places[name] = Place(
            product.name,
            "weight",
            shape,
            rank=product.bound,
            dtype=first.dtype,
            start=spelled(self.adapter, first.name)[0],
            flattened=meta is None and product.flattened,
        )
        self.operands[name] = change.on(None, shape, self.label, name, self._line)

    def _added(self, name: str, own: str, ref: TensorRef) -> None:
        """A whole difference: that of a weight gets factors, too, any other is kept as it is."""
        if not self._fits(name, ref.shape):
            return
        start = spelled(self.adapter, ref.name)[0]
        place = Place(ref.name, "added", ref.shape, dtype=ref.dtype, start=start)
        if own.endswith(".weight") and len(ref.shape) > 1:
            rank = min(place.flat)
            place = replace(place, module=own.removesuffix(".weight"), kind="weight", rank=rank)
        self.places[name] = place
        self.operands[name] = Compute(None, (Read(ref, self.label),), ref.shape, factors=(1.0,))

    def _dora(self, name: str, module: Module, part: LowRank, reads: tuple[Read, ...]) -> None:
        """With DoRA the change is W' − W: it is dense, and the base decides about it."""
        assert module.magnitude is not None
        if self.base is None:
            message = f"{self.label} uses DoRA, whose change is a function of the base's weights"
            self._problem(message, name, BASE_FIX)
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

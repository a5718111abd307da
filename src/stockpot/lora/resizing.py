"""An adapter at another rank; what it holds beside factors is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.architecture.lora import Lora, Module, lora_of
from stockpot.checkpoint.dtypes import DType
from stockpot.checkpoint.folder import natural
from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import PlanError
from stockpot.execute.lora import stored_values
from stockpot.execute.matrices import Normals, one_thread
from stockpot.lora.builders import Builder
from stockpot.lora.engine import Engine, Progress, checked, hashes_of, step_of
from stockpot.lora.factors import Product, Wanted, cut, cut_bytes, cut_dense, dense_bytes
from stockpot.lora.merging import named_dtype
from stockpot.lora.naming import Names, PeftNames, TableNames, spelled
from stockpot.lora.opening import Given, adapter_at
from stockpot.lora.output import Factors, Files, Made, Writing, one_method, peft_factors, written
from stockpot.lora.places import Place
from stockpot.lora.report import Intended, Loss, Part, Report
from stockpot.lora.settings import merged_config
from stockpot.planning.adapters.flat_names import listed
from stockpot.planning.model import Limits, Read
from stockpot.planning.views import Context

__all__ = ["Resize", "plan_resize", "resize"]


@dataclass(frozen=True)
class Resize:
    """What is asked for.

    Args:
        adapter: A folder, a file, or a hub id.
        wanted: Rank, energy, or both.
        dtype: Of the factors; None keeps theirs.
        asked: What the receipt tells.
        given: What references mean, where the command is repeated; None opens them.
    """

    adapter: str
    wanted: Wanted
    dtype: str | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    given: Given = None


def resize(
    what: Resize,
    out: Path,
    limits: Limits,
    *,
    overwrite: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
) -> Made:
    """Cut an adapter to the rank or energy that is wanted, module by module.

    Pairs of factors are cut by QR and the SVD of the small core; changes of other kinds are made dense, one at a time,
    and become pairs. The lengths of DoRA, biases and tensors that are stored whole are those of the adapter; the
    factors of DoRA are cut as they are, so that what is reported is said of B · A alone.

    Raises:
        StockpotError: for an adapter that is not understood, numbers that are not finite, too little memory.
    """
    with _job(what, limits, progress) as job:
        return written(
            out, job.longest(), job.fill, weights=job.names.file, overwrite=overwrite, durable=durable
        )  # fmt: skip


def plan_resize(what: Resize, limits: Limits) -> Intended:
    """What :func:`resize` would do, from headers.

    Raises:
        StockpotError: with everything that is wrong.
    """
    with _job(what, limits, None) as job:
        return job.intended()


@contextmanager
def _job(what: Resize, limits: Limits, progress: Progress | None) -> Iterator[_Job]:
    opened = adapter_at(what.given, what.adapter)
    with PayloadReader(stamps=opened.stamps, hashing=True) as reader, one_thread():
        yield _Job(what, opened, limits, reader, progress)


class _Job:
    """One adapter, read: which of its changes are pairs, which are made dense, what is kept."""

    def __init__(
        self, what: Resize, opened: Checkpoint, limits: Limits, reader: PayloadReader, progress: Progress | None
    ) -> None:
        self._what, self._opened, self._reader = what, opened, reader
        self._lora = lora_of(opened)
        self._places, steps = self._dense(self._lora)
        self._dtype = self._kind()
        modules = {m.name: spelled(opened, m.a.name) for m in self._lora.modules.values()}
        modules |= {p.module: (p.start, "") for p in self._places.values()}
        self.names: Names = TableNames(modules) if opened.folder is None else PeftNames()
        held = [_bytes(module) for module in self._lora.modules.values()]
        held += [dense_bytes(*p.flat, self._most(p.rank, p)) for p in self._places.values()]
        self._steps = steps
        self._engine = Engine([*steps.values()], (), limits, reader, beside=max(held), progress=progress)
        self._memory = checked(max(held), limits, self._engine.cost if steps else None)

    def _dense(self, lora: Lora) -> tuple[dict[str, Place], dict[str, Any]]:
        """What is no pair of factors, by module: where it is, and how it is made."""
        context = Context({}, 0)
        others = replace(lora, modules={}, replaced={}, others={})
        builder = Builder(self._what.adapter, self._opened, None, context, None, others)
        found = {n: p for n, p in builder.places.items() if p.kind == "weight"}
        if not lora.modules and not found:
            message = f"{self._what.adapter} has no factors: there is no rank to change"
            context.problem(message)
        if context.problems:
            raise PlanError(*context.problems)
        steps = {p.module: step_of(n, builder.operands[n], p.shape) for n, p in found.items()}
        return {p.module: p for p in found.values()}, steps

    def _kind(self) -> DType:
        refs = [m.a for m in self._lora.modules.values()]
        first = refs[0].dtype if refs else next(iter(self._places.values())).dtype
        return named_dtype(self._what.dtype, first)

    def _kept(self) -> list[TensorRef]:
        """What is stored as it is: whole tensors, differences that are no matrices."""
        dense = {f"{module}.weight" for module in self._places}
        return [*self._lora.replaced.values(), *(r for n, r in self._lora.added.items() if n not in dense)]

    def _most(self, rank: int, place: Place | None = None) -> int:
        """At most the rank of a module's factors."""
        limit = rank if place is None else min(place.flat)
        most = limit if self._what.wanted.rank is None else self._what.wanted.rank
        return min(most, limit, rank)

    def longest(self) -> list[str]:
        """At least as many and as long names as the result has."""
        own = [f"base_model.model.{m}.lora_embedding_{s}{' ' * 20}" for m in self._places for s in "ABC"]
        return [*self._opened.tensors, *own, *(m.a.name for m in self._lora.modules.values())]

    def intended(self) -> Intended:
        """What would be done."""
        parts = [
            Part(m.name, (m.b.shape[0], *m.a.shape[1:]), self._most(m.rank), dense=False)
            for m in self._lora.modules.values()
        ]
        parts += [Part(p.module, p.shape, self._most(p.rank, p), dense=True) for p in self._places.values()]
        kept = tuple(ref.name for ref in self._kept())
        return Intended(self.names.file, tuple(parts), kept, self._memory, self._dtype.bits, self._notes())

    def _notes(self) -> tuple[str, ...]:
        flat = [p.module for p in self._places.values() if p.flattened]
        told = [f"what it holds for {listed(self._lora.others)} is not in the result"] if self._lora.others else []
        if flat:
            message = f"{len(flat)} changes do not tell whether they are a convolution's ({flat[0]}, …)"
            told.append(f"{message}: they are written as those of linear layers; lora merge with --base tells")
        return tuple(told)

    def fill(self, file: Writing) -> Files:
        """Compute and write everything."""
        kept = self._kept()
        wide = [ref for ref in kept if ref.dtype.bits > self._dtype.bits]
        for ref in wide:
            file.copy(ref, self._reader)
        losses, ranks = [], {}
        modules = {**self._lora.modules, **self._places}
        self.names.begin(modules, file, self._dtype)
        for name in sorted(modules, key=natural):
            factors = self._pair(self._lora.modules[name]) if name in self._lora.modules else self._made(name)
            self.names.write(factors, file, self._dtype)
            losses.append(factors.loss)
            ranks[factors.module] = factors.rank
        for ref in kept:
            if ref not in wide:
                file.copy(ref, self._reader)
        whole = tuple(ref.name for ref in kept)
        report = Report(tuple(losses), whole, notes=self._notes(), memory=self._memory)
        config = None if self._opened.folder is None else self._config(ranks, whole)
        label = self._what.adapter
        read = hashes_of(self._reader, [Read(ref, label) for ref in self._opened.tensors.values()])
        title, resolved = "Adapter of another rank", one_method("lora resize")
        return Files(config, self._what.asked, {label: self._opened}, read, title, report, 0, resolved)

    def _config(self, ranks: Mapping[str, int], whole: tuple[str, ...]) -> dict[str, Any]:
        modules = self._lora.modules.values()
        biased, dora = any(m.bias for m in modules), any(m.magnitude for m in modules)
        return merged_config([self._opened.config], ranks, whole, lora_bias=biased, dora=dora)

    def _made(self, name: str) -> Factors:
        """A change of another kind as factors."""
        place = self._places[name]
        matrix = self._engine.array(self._steps[name]).reshape(place.flat)
        found = cut_dense(matrix, self._what.wanted, Normals(f"{name}.weight", 0))
        a, b = peft_factors(found.product.left, found.product.right, place.shape, crossed=False)
        return Factors(name, a, b, Loss(name, found.rank, found.norm, found.retained))

    def _pair(self, module: Module) -> Factors:
        """Factors, cut."""
        reader, own, name = self._reader, module.bias, module.name
        a, b = (stored_values(ref, 0, ref.elements, reader) for ref in (module.a, module.b))
        product = Product(module.scale * b.reshape(-1, module.rank), a.reshape(module.rank, -1))
        found = cut(product, self._what.wanted)
        loss = Loss(name, found.rank, found.norm, found.retained)
        bias = None if own is None else module.scale * stored_values(own, 0, own.elements, reader)
        magnitude = None
        if module.magnitude is not None:
            ref = module.magnitude
            start, ending = spelled(self._opened, ref.name)
            ending = ending if start else ref.name[ref.name.index("lora_magnitude_vector") :]
            magnitude = (ending, stored_values(ref, 0, ref.elements, reader).reshape(ref.shape))
        shaped_a = found.product.right.reshape(found.rank, *module.a.shape[1:])
        shaped_b = found.product.left.reshape(module.b.shape[0], found.rank, *module.b.shape[2:])
        return Factors(name, shaped_a, shaped_b, loss, module.embedding, bias, magnitude)


def _bytes(module: Module) -> int:
    return cut_bytes(module.b.shape[0], int(np.prod(module.a.shape[1:])), module.rank) + module.a.nbytes

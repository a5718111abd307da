"""Adapters merged by one of PEFT's own forms, and how far that is from a merge of their changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.architecture.lora import Module
from stockpot.checkpoint.dtypes import DTYPES
from stockpot.checkpoint.folder import natural
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, ExpressionError, PlanError, Problem
from stockpot.execute.lora import stored_values
from stockpot.execute.matrices import Normals, one_thread
from stockpot.lora.changes import Changes, changes_of, plain_change
from stockpot.lora.compat import FORMS, Form, Member, exact, merged
from stockpot.lora.engine import checked, hashes_of
from stockpot.lora.factors import Cut, Product, Wanted, as_is, cut, cut_dense, dense_bytes, stacked
from stockpot.lora.merging import named_dtype, tensor_names
from stockpot.lora.opening import Given, adapter_at
from stockpot.lora.output import Factors, Files, Made, Writing, one_method, written
from stockpot.lora.places import Place
from stockpot.lora.report import Loss, Report
from stockpot.lora.settings import merged_config
from stockpot.methods.declare import Floats
from stockpot.planning.lowering import apart
from stockpot.planning.model import Limits
from stockpot.planning.views import Context

__all__ = ["CompatMerge", "merge_as_peft"]


@dataclass(frozen=True)
class CompatMerge:
    """What is asked for.

    Args:
        adapters: Folders or hub ids.
        form: PEFT's ``combination_type``.
        weights: One, or one for each adapter.
        density: Of forms that drop entries.
        rank: Of forms that end in an SVD; None takes the largest of the adapters.
        dtype: Of the factors; None takes that of the first adapter's.
        seed: Key of random numbers.
        asked: What the receipt tells.
        given: What references mean, where the command is repeated; None opens them.
    """

    adapters: tuple[str, ...]
    form: str
    weights: tuple[float, ...] = (1.0,)
    density: float | None = None
    rank: int | None = None
    dtype: str | None = None
    seed: int = 0
    asked: Mapping[str, Any] | None = None
    given: Given = None


def merge_as_peft(
    merge: CompatMerge, out: Path, limits: Limits, *, overwrite: bool = False, durable: bool = True
) -> Made:
    """Merge adapters as PEFT's ``add_weighted_adapter`` does and write the result to ``out``.

    Raises:
        ExpressionError: for a form or values that PEFT does not have.
        StockpotError: as :func:`~stockpot.lora.merging.merge_adapters`.
    """
    form, weights, density = _understood(merge)
    context = Context({}, merge.seed)
    adapters = [(label, adapter_at(merge.given, label)) for label in merge.adapters]
    for label, adapter in adapters:
        if adapter.folder is None:
            context.problem(f"{label} is a single file, which PEFT does not merge", fix="merge without --compat")
    changes = changes_of(adapters, None, context)
    for name, place in changes.places.items():
        parts = [member.own.get(name) for member in changes.members]
        if (
            place.kind != "weight"
            or name in changes.backings
            or any(p is not None and not plain_change(p) for p in parts)
        ):
            fix = "merge without --compat"
            context.problem("compat forms merge pairs of factors, and nothing else", tensor=name, fix=fix)
    if context.problems:
        raise PlanError(*context.problems)
    memory = checked(_memory(form, changes), limits)
    stamps = {path: stamp for _, c in adapters for path, stamp in c.stamps.items()}
    with PayloadReader(stamps=stamps, hashing=True) as reader, one_thread():

        def fill(file: Writing) -> Files:
            first = next(iter(changes.places.values())).dtype
            dtype = named_dtype(merge.dtype, first if first.is_float else DTYPES["F32"])
            losses, ranks, far = [], {}, _Far()
            for factors in _factors(merge, form, weights, density, changes, reader, far):
                for name, values in factors.tensors():
                    file.add(name, dtype, values)
                losses.append(factors.loss)
                ranks[factors.module] = factors.rank
            notes = tuple(map(str, context.notes))
            report = Report(tuple(losses), notes=notes, memory=memory, exact=far.exact, apart=far.apart)
            config = merged_config([c.config for _, c in adapters], ranks, (), lora_bias=False, dora=False)
            read = hashes_of(reader, [op for member in changes.members for op in member.own.values()])
            inputs = dict(zip(apart(label for label, _ in adapters), (c for _, c in adapters), strict=True))
            return Files(
                config,
                merge.asked or {},
                inputs,
                read,
                f"Adapter, PEFT's {merge.form}",
                report,
                merge.seed,
                one_method(f"peft {merge.form}"),
            )

        return written(out, tensor_names(changes.places), fill, overwrite=overwrite, durable=durable)


def _understood(merge: CompatMerge) -> tuple[Form, tuple[float, ...], float]:
    form = FORMS.get(merge.form)
    if form is None:
        fix = f"one of {', '.join(FORMS)}, or merge without --compat"
        raise ExpressionError(Problem(f"PEFT has no form {merge.form!r}", fix=fix))
    count = len(merge.adapters)
    weights = merge.weights * count if len(merge.weights) == 1 else merge.weights
    if len(weights) != count:
        raise ExpressionError(Problem(f"{len(weights)} weights for {count} adapters"))
    if form.needs_density and (merge.density is None or not 0.0 <= merge.density <= 1.0):
        fix = "give --density, in [0, 1]"
        raise ExpressionError(Problem(f"{merge.form} needs a density, {merge.density} is none", fix=fix))
    if not form.needs_density and merge.density is not None:
        raise ExpressionError(Problem(f"{merge.form} has no density", fix="leave it out"))
    return form, weights, 1.0 if merge.density is None else merge.density


def _memory(form: Form, changes: Changes) -> int:
    """Bytes beside those of the process: dense changes of one module where the form, or the exact merge, needs them."""
    most = 0
    for place in changes.places.values():
        rows, columns = place.flat
        inner = place.rank * len(changes.members)
        dense = (3 * len(changes.members) + 3) * rows * columns if form.on == "changes" or _elects(form) else 0
        svd = dense_bytes(rows, columns, place.rank) if form.on == "changes" else 0
        most = max(most, 8 * dense + svd + 8 * 12 * (rows + columns) * inner)
    return most


def _elects(form: Form) -> bool:
    """Whether the exact merge is dense, too."""
    return form.elect or form.prune == "magnitude"


class _Far:
    """Squared distance from the exact merge, over all modules."""

    def __init__(self) -> None:
        self._apart: list[float] = []
        self._exact: list[float] = []

    def add(self, apart: float, exact: float) -> None:
        """One module's norms."""
        self._apart.append(apart**2)
        self._exact.append(exact**2)

    @property
    def apart(self) -> float | None:
        """Norm of the difference."""
        return math.sqrt(math.fsum(self._apart)) if self._apart else None

    @property
    def exact(self) -> float | None:
        """Norm of the exact merge."""
        return math.sqrt(math.fsum(self._exact)) if self._exact else None


def _factors(
    merge: CompatMerge,
    form: Form,
    weights: Sequence[float],
    density: float,
    changes: Changes,
    reader: PayloadReader,
    far: _Far,
) -> Iterator[Factors]:
    for name in sorted(changes.places, key=natural):
        place = changes.places[name]
        members = [
            _member(own[name], weight, reader)
            for own, weight in zip(changes.modules, weights, strict=True)
            if name in own
        ]
        normals = Normals(name, merge.seed)
        try:
            product = merged(form, members, density, normals)
        except ValueError as error:
            fix = "a form that ends in _svd, or merge without --compat"
            raise ExecutionError(Problem(f"{merge.form}: {error}", tensor=name, fix=fix)) from error
        found = _cut(form, product, Wanted(rank=merge.rank or place.rank), normals)
        distance = None
        if form.on == "factors":
            apart, whole = _distance(form, product, exact(form, members, density))
            far.add(apart, whole)
            distance = apart / whole if whole else 0.0
        a, b = _shaped(found.product, place)
        loss = Loss(place.module, found.rank, found.norm, found.retained, distance)
        yield Factors(place.module, a, b, loss, place.embedding)


def _member(module: Module, weight: float, reader: PayloadReader) -> Member:
    a = stored_values(module.a, 0, module.a.elements, reader).reshape(module.rank, -1)
    b = stored_values(module.b, 0, module.b.elements, reader).reshape(-1, module.rank)
    return Member(b, a, module.scale, weight)


def _cut(form: Form, product: Product, wanted: Wanted, normals: Normals) -> Cut:
    return cut_dense(product.left, wanted, normals) if form.on == "changes" else as_is(product)


def _distance(form: Form, product: Product, whole: Product) -> tuple[float, float]:
    """‖form − exact‖ and ‖exact‖."""
    if _elects(form):
        dense = whole.left
        return float(np.linalg.norm(product.dense - dense)), float(np.linalg.norm(dense))
    rows, columns = product.left.shape[0], product.right.shape[1]
    both = stacked([product, Product(-whole.left, whole.right)], rows, columns)
    return cut(both, Wanted()).norm, cut(whole, Wanted()).norm


def _shaped(product: Product, place: Place) -> tuple[Floats, Floats]:
    """Factors that are in PEFT's orientation already, with a kernel's dimensions."""
    if place.crossed or len(place.shape) == 2:
        return product.right, product.left
    rank = product.right.shape[0]
    return product.right.reshape(rank, *place.shape[1:]), product.left.reshape(-1, rank, *(1,) * (len(place.shape) - 2))

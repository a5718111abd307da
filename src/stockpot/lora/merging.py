"""Adapters merged into one: any method of the registry on the exact changes, then factors of the rank wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoint.dtypes import DTYPES, DType, dtype_named
from stockpot.checkpoint.folder import natural
from stockpot.checkpoint.model import Checkpoint, Stamp
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import CheckpointError, PlanError, Problem, UnsupportedError
from stockpot.execute.matrices import Normals, one_thread
from stockpot.lora.changes import Changes, ChangesView, changes_of, plain_change
from stockpot.lora.engine import Engine, Progress, checked, hashes_of, step_of
from stockpot.lora.factors import Cut, Wanted, as_is, cut, cut_bytes, cut_dense, dense_bytes
from stockpot.lora.naming import Names, PeftNames, TableNames, single
from stockpot.lora.opening import Given, model_at
from stockpot.lora.output import Factors, Files, Made, Writing, peft_factors, written
from stockpot.lora.places import BASE_FIX, Place
from stockpot.lora.recipes import Opened, opened
from stockpot.lora.report import Intended, Loss, Part, Report
from stockpot.lora.settings import merged_config
from stockpot.lora.spaces import Shared, Space, core, knots, placed, space_bytes
from stockpot.lora.symbols import inner_rank, is_low_rank, product_of, read_factors
from stockpot.methods.declare import Floats, Span
from stockpot.planning.lowering import apart, build_view
from stockpot.planning.model import Compute, Limits, Operand, Read, Step
from stockpot.planning.passes import check_numbers, surveys_of
from stockpot.planning.structure import LeafView
from stockpot.planning.views import Context
from stockpot.recipe.model import Recipe

__all__ = ["Merge", "merge_adapters", "named_dtype", "plan_merge", "tensor_names"]


@dataclass(frozen=True)
class Merge:
    """What is asked for.

    Args:
        recipe: A merge whose models are adapters.
        wanted: Rank and energy; neither: the largest rank that an adapter has in each module.
        base: The model that the adapters are on; None takes the one that the recipe names, if it names one.
        space: Where the changes are merged.
        exact: Whether factors are put side by side, uncut; for linear methods.
        dtype: Of the factors, by name; None takes the recipe's, else that of the first adapter's.
        asked: What the receipt tells of the request.
        given: What references mean, where the command is repeated; None opens them.
    """

    recipe: Recipe
    wanted: Wanted = field(default_factory=Wanted)
    base: str | None = None
    space: Space = "full"
    exact: bool = False
    dtype: str | None = None
    asked: Mapping[str, Any] = field(default_factory=dict)
    given: Given = None


def merge_adapters(
    merge: Merge,
    out: Path,
    limits: Limits,
    *,
    overwrite: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
) -> Made:
    """Merge adapters and write the result to the folder ``out``.

    Raises:
        StockpotError: with everything that is wrong.
    """
    with _job(merge, limits, progress) as job:
        names = [*tensor_names(job.changes.places), *(r.name for r in job.changes.backings.values())]
        return written(out, names, job.fill, weights=job.names.file, overwrite=overwrite, durable=durable)


def plan_merge(merge: Merge, limits: Limits) -> Intended:
    """What :func:`merge_adapters` would do, from headers; in a space other than ``full``, from the factors.

    Raises:
        StockpotError: with everything that is wrong.
    """
    with _job(merge, limits, None) as job:
        return job.intended()


@contextmanager
def _job(merge: Merge, limits: Limits, progress: Progress | None) -> Iterator[_Job]:
    if merge.recipe.unsupported:
        raise UnsupportedError(*merge.recipe.unsupported)
    inputs = opened(merge.recipe, merge.given)
    alone = single(inputs.adapters)
    base = _base(merge, inputs)
    context = Context({}, merge.recipe.seed)
    changes = changes_of(inputs.adapters, base, context)
    _raise(context)
    stamps = _stamps([c for _, c in inputs.adapters] + [*inputs.others.values()] + ([base] if base else []))
    with PayloadReader(stamps=stamps, hashing=True) as reader, one_thread():
        modules = {p.module: (p.start, p.down) for p in changes.places.values() if p.kind == "weight"}
        names: Names = TableNames(modules) if alone else PeftNames()
        yield _Job(merge, inputs, base, changes, names, context, limits, reader, progress)


def _base(merge: Merge, inputs: Opened) -> Checkpoint | None:
    """The model that the adapters are on: as it is given, else as the recipe names it."""
    if merge.base is not None:
        return model_at(merge.given, merge.base)
    leaf = inputs.base
    return None if leaf is None else model_at(merge.given, leaf.reference, leaf.folder, leaf.line)


def named_dtype(name: str | None, default: DType) -> DType:
    """The dtype of factors.

    Raises:
        CheckpointError: for one that is not a floating-point dtype.
    """
    found = default if name is None else dtype_named(name)
    if not found.is_float:
        raise CheckpointError(Problem(f"dtype {found.torch_name} is not a floating-point dtype", fix="--dtype float32"))
    return found


def tensor_names(places: Mapping[str, Place]) -> list[str]:
    """At least as many and as long names as an adapter of ``places`` has."""
    root = "base_model.model."
    endings = ("lora_embedding_A", "lora_embedding_B", "lora_B.weight", "lora_magnitude_vector.weight")
    return [f"{root}{place.module}.{ending}" for place in places.values() for ending in endings]


def _raise(context: Context) -> None:
    if context.problems:
        raise PlanError(*context.problems)


def _stamps(checkpoints: Sequence[Checkpoint]) -> dict[str, Stamp]:
    return {path: stamp for c in checkpoints for path, stamp in c.stamps.items()}


class _Job:
    """One merge, planned: which tensor is made in which way."""

    def __init__(
        self,
        merge: Merge,
        inputs: Opened,
        base: Checkpoint | None,
        changes: Changes,
        names: Names,
        context: Context,
        limits: Limits,
        reader: PayloadReader,
        progress: Progress | None,
    ) -> None:
        self.merge, self.inputs, self.base, self.changes, self.names = merge, inputs, base, changes, names
        self._context, self._reader, self._limits = context, reader, limits
        self._shared: dict[str, Shared] = {}
        self._sources = [op for member in changes.members for op in member.own.values()]
        self._held, self._memory = self._hold()
        members = self._in_space()
        for node, number in inputs.places.items():
            context.cache[node] = members[number]
        for node in inputs.origins:
            context.cache[node] = ChangesView("no change", {n: m.shape for n, m in members[0].names.items()}, {})
        for node, checkpoint in inputs.others.items():
            context.cache[node] = LeafView(checkpoint)
        view = build_view(merge.recipe.expression, context)
        self._shapes = {name: meta.shape for name, meta in view.names.items()}
        self._operands = {name: view.lower(name) for name in sorted(view.names, key=natural)}
        for name, operand in self._operands.items():
            if check_numbers(operand, name, context):
                self._check(name, operand)
        surveys = [] if all(map(is_low_rank, self._operands.values())) else surveys_of(context)
        _raise(context)
        steps = {name: self._step(name) for name in self._operands if not self._low(name)}
        self._held += max((self._work(name) for name in self._operands), default=0)
        self._engine = Engine([*steps.values()], surveys, limits, reader, beside=self._held, progress=progress)
        self._steps = steps
        self._memory = max(self._memory, checked(self._held, limits, self._engine.cost))

    def _hold(self) -> tuple[int, int]:
        """Bytes that a space keeps beside the engine, and the memory that finding it takes in all."""
        places, space = self.changes.places, self.merge.space
        parts = [
            space_bytes(
                space,
                place.flat,
                sum(m[name].rank for m in self.changes.modules if name in m),
                len(self.changes.members),
            )
            for name, place in places.items()
            if place.kind == "weight"
        ]
        held = sum(kept for kept, _ in parts)
        return held, checked(held + max((work for _, work in parts), default=0), self._limits)

    def _in_space(self) -> tuple[ChangesView, ...]:
        """The adapters as they are, or as coordinates in the space that is asked for."""
        if self.merge.space == "full":
            return self.changes.members
        shapes = {name: place.shape for name, place in self.changes.places.items()}
        own: list[dict[str, Operand]] = [dict(member.own) for member in self.changes.members]
        for name, place in self.changes.places.items():
            if place.kind != "weight":
                continue
            lowered = [member.lower(name) for member in self.changes.members]
            if not all(map(plain_change, lowered)):
                message = f"space {self.merge.space} needs a product of two factors, which is none {_DENSE}"
                raise UnsupportedError(Problem(message, tensor=name, fix="--space full"))
            products = [read_factors(op, self._reader) for op in lowered if isinstance(op, Compute)]
            found = self._shared[name] = (knots if self.merge.space == "knots" else core)(products)
            shapes[name] = found.coordinates[0].shape
            for target, member, values in zip(own, self.changes.members, found.coordinates, strict=True):
                target[name] = placed(name, member.label, values)
        return tuple(ChangesView(m.label, shapes, o) for m, o in zip(self.changes.members, own, strict=True))

    def _check(self, name: str, operand: Operand) -> None:
        """What cannot be merged in the way that is asked for is reported."""
        place = self.changes.places[name]
        if place.kind == "whole" and self.base is None and not _affine(operand):
            message = f"{place.module} is stored whole, and this method works on changes, or does not take a mean"
            self._context.problem(message, tensor=name, fix=BASE_FIX)
        if self.merge.exact and place.kind == "weight" and not is_low_rank(operand):
            message = f"factors can be put side by side where changes are products of two, which is none {_DENSE}"
            self._context.problem(message, tensor=name, fix="another method, such as task_arithmetic, with --rank")

    def _work(self, name: str) -> int:
        """Bytes that making the factors of a weight takes, the engine not counted."""
        place, operand = self.changes.places[name], self._operands[name]
        rows, columns = place.flat
        if place.kind != "weight":
            return 16 * rows if place.kind == "bias" else 0
        if self._low(name):
            return cut_bytes(rows, columns, max(1, inner_rank(operand)))
        if name in self._shared:
            return cut_bytes(rows, columns, self._shared[name].left.shape[1])
        return dense_bytes(rows, columns, self._most(name))

    def _most(self, name: str) -> int:
        """At most the rank of a weight's factors."""
        place, wanted = self.changes.places[name], self.merge.wanted
        if wanted.rank is None and wanted.energy is None and not self.merge.exact:
            return min(place.rank, *place.flat)
        most = wanted.rank if wanted.rank is not None else min(place.flat)
        inner = max(1, inner_rank(self._operands[name])) if self._low(name) else most
        return inner if self.merge.exact else min(most, inner, *place.flat)

    def intended(self) -> Intended:
        """What would be done."""
        places = self.changes.places
        modules = tuple(
            Part(places[name].module, places[name].shape, self._most(name), not self._low(name))
            for name in self._operands
            if places[name].kind == "weight"
        )
        return Intended(self.names.file, modules, self._kept(), self._memory, self._dtype.bits, self._notes())

    def _kept(self) -> tuple[str, ...]:
        """Names of what is stored whole."""
        places = self.changes.places
        whole = (places[name].module for name in self._operands if places[name].kind in _STORED)
        return (*whole, *(ref.name for ref in self.changes.backings.values()))

    def _notes(self) -> tuple[str, ...]:
        """What the recipe and the plan say, and whether factors are out of proportion."""
        told = [str(note) for note in (*self.merge.recipe.notes, *self._context.notes)]
        places = self.changes.places
        weights = [name for name in self._operands if places[name].kind == "weight" and not self._low(name)]
        full = [name for name in weights if self._most(name) >= min(places[name].flat)]
        if full and self.merge.wanted == Wanted():
            told.append(f"{len(full)} changes are of full rank ({full[0]}, …): --rank or --energy makes them smaller")
        return tuple(told)

    def _low(self, name: str) -> bool:
        return self.changes.places[name].kind == "weight" and is_low_rank(self._operands[name])

    def _step(self, name: str) -> Step:
        """How the engine makes a tensor: as float64, or, stored whole, as it is written."""
        place, operand = self.changes.places[name], self._operands[name]
        if place.kind not in _STORED:
            return step_of(name, operand, self._shapes[name])
        if place.kind == "whole" and self.base is not None:
            before = Read(self.base.tensors[name], self.base.label)
            operand = Compute(None, (operand, before), place.shape, factors=(1.0, 1.0))
        wanted = self.merge.dtype or self.merge.recipe.dtype
        return step_of(name, operand, place.shape, named_dtype(wanted, place.dtype))

    @cached_property
    def _dtype(self) -> DType:
        first = next((p.dtype for p in self.changes.places.values() if p.kind == "weight"), DTYPES["F32"])
        return named_dtype(self.merge.dtype or self.merge.recipe.dtype, first)

    def fill(self, file: Writing) -> Files:
        """Compute and write everything."""
        places = self.changes.places
        whole = [name for name in self._operands if places[name].kind in _STORED]
        wide = [name for name in whole if self._steps[name].dtype.bits > self._dtype.bits]
        for name in wide:
            self._whole(name, file)
        backings = [r for r in self.changes.backings.values() if r.dtype.bits > self._dtype.bits]
        for ref in backings:
            file.copy(ref, self._reader)
        losses, ranks = [], {}
        modules = [places[name].module for name in self._operands if places[name].kind == "weight"]
        self.names.begin(modules, file, self._dtype)
        for factors in self._factors():
            self.names.write(factors, file, self._dtype)
            losses.append(factors.loss)
            ranks[factors.module] = factors.rank
        for name in whole:
            if name not in wide:
                self._whole(name, file)
        for ref in self.changes.backings.values():
            if ref not in backings:
                file.copy(ref, self._reader)
        report = Report(tuple(losses), self._kept(), notes=self._notes(), memory=self._memory)
        biased = any(place.kind == "bias" for place in places.values())
        configs = [adapter.config for _, adapter in self.inputs.adapters]
        alone = self.inputs.adapters[0][1].folder is None
        config = None if alone else merged_config(configs, ranks, report.whole, lora_bias=biased, dora=False)
        recipe = self.merge.recipe
        return Files(config, self.merge.asked, *self._read(), "Merged adapter", report, recipe.seed, recipe.resolved)

    def _read(self) -> tuple[dict[str, Checkpoint], dict[tuple[str, str], str]]:
        checkpoints = [c for _, c in self.inputs.adapters] + [*self.inputs.others.values()]
        checkpoints += [self.base] if self.base is not None else []
        below = [Read(ref, "") for ref in self.changes.backings.values()]
        read = hashes_of(self._reader, [*self._sources, *self._operands.values(), *below])
        return dict(zip(apart(c.label for c in checkpoints), checkpoints, strict=True)), read

    def _whole(self, name: str, file: Writing) -> None:
        step = self._steps[name]
        self._engine.run(step, file.begin(self.changes.places[name].module, step.dtype, step.shape))

    def _factors(self) -> Iterator[Factors]:
        places = self.changes.places
        biases = {p.module: name for name, p in places.items() if p.kind == "bias" and name in self._operands}
        for name in self._operands:
            place = places[name]
            if place.kind != "weight":
                continue
            found = self._cut(name)
            a, b = peft_factors(found.product.left, found.product.right, place.shape, crossed=place.crossed)
            bias = self._bias(biases.get(place.module), b.shape[0]) if biases and not place.embedding else None
            loss = Loss(place.module, found.rank, found.norm, found.retained)
            yield Factors(place.module, a, b, loss, place.embedding, bias)

    def _bias(self, name: str | None, rows: int) -> Floats:
        return np.zeros(rows) if name is None else self._engine.array(self._steps[name])

    def _cut(self, name: str) -> Cut:
        """The merged change of a weight, at the rank that is wanted there."""
        operand, place, shared = self._operands[name], self.changes.places[name], self._shared.get(name)
        wanted = self.merge.wanted
        if wanted.rank is None and wanted.energy is None:
            wanted = Wanted(rank=place.rank)
        if self._low(name):
            product = product_of(operand, self._reader)
            return as_is(product) if self.merge.exact else cut(product, wanted)
        matrix = self._engine.array(self._steps[name])
        if shared is not None:
            return cut(shared.product(matrix), wanted)
        return cut_dense(matrix.reshape(place.flat), wanted, Normals(name, self.merge.recipe.seed))


_STORED = ("whole", "added")
"""Kinds of places that are written as they are, without factors."""

_DENSE = "of DoRA, LoHa or LoKr, with a core, or stored whole"


def _affine(operand: Operand) -> bool:
    """Whether ``operand`` is a mean of stored tensors whose weights sum to 1: then it is one of models, too."""
    if isinstance(operand, Read):
        return True
    if operand.base is not None or operand.scale != 1.0 or not all(map(_affine, operand.inputs)):
        return False
    if operand.method is None:
        return operand.form is None and abs(sum(operand.factors) - 1.0) <= 1e-9
    family = operand.method.family
    if not isinstance(family, Span) or family.gram or operand.resolved is None:
        return False
    total = float(family.coefficients(None, operand.resolved).sum()) / family.divisor(operand.resolved)
    return abs(total - 1.0) <= 1e-9

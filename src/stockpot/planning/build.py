"""Expression → Plan, from headers alone. Every problem is found before anything is raised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.architecture.lora import lora_of
from stockpot.checkpoint.adapters import open_adapter
from stockpot.checkpoint.dtypes import DType, dtype_named
from stockpot.checkpoint.folder import tells_of_adapter
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.open import open_checkpoint, with_line
from stockpot.checkpoint.places import existing_path
from stockpot.checkpoint.writer import ShardLayout
from stockpot.errors import CheckpointError, PlanError, Problem, StockpotError, UnsupportedError
from stockpot.expression import Expression, Leaf, leaves
from stockpot.methods.declare import Space, Span
from stockpot.planning.adapters.anchoring import anchored
from stockpot.planning.beside import check_lent, donor_of, layers_of, layout_of, models_of, sidecars_of
from stockpot.planning.cost import estimate
from stockpot.planning.filters import note_idle_filters
from stockpot.planning.inputs import Inputs
from stockpot.planning.lowering import apart, build_view
from stockpot.planning.mixtures import rewritten
from stockpot.planning.model import MIB, Compute, Cost, Limits, Operand, Plan, Read, Report, Step
from stockpot.planning.passes import check_numbers, passes_of, survey_note, surveys_of
from stockpot.planning.place import check_output
from stockpot.planning.quantising import QUANTISE, must_fit, note_aside, requantised
from stockpot.planning.tokens.tokenizers import Tokenizer, differing, tokenizer_beside, transplanted, vocabulary_bytes
from stockpot.planning.tokens.transplant import TransplantView
from stockpot.planning.views import Context, Meta, View
from stockpot.recipe.model import Recipe

__all__ = ["build_plan", "open_all"]

Key = tuple[str, str | None, int]
"""Of a leaf: equal for two that mean the same checkpoint."""


def build_plan(
    recipe: Recipe,
    limits: Limits,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    inputs: Inputs | None = None,
) -> Plan:
    """The plan of a recipe.

    Args:
        out: Folder that the result will be written to; None plans without an output.
        overwrite: Whether ``out`` may exist.
        inputs: Checkpoints that other plans have opened, and will.

    Raises:
        StockpotError: with everything that is wrong: inputs, shapes, parameters, output.
    """
    inputs = inputs or Inputs()
    expression, checkpoints = open_all(recipe.expression, inputs)
    lent = _open_lent(recipe.donor, checkpoints, inputs)
    recipe = replace(recipe, expression=expression)
    context = Context(checkpoints, recipe.seed, recipe.mismatched)
    if recipe.expression.space is not Space.WEIGHTS:
        context.problem(
            "the expression is a difference of models, not a model",
            fix="add it to a base: base + 0.8 * (a - base)",
        )
    view = build_view(recipe.expression, context)
    donor = donor_of(recipe, checkpoints)
    steps = _steps(view, context, recipe)
    check_lent(donor if lent else None, steps, recipe, view.sliced is not None, context)
    steps = _quantised(steps, view, recipe.quantize, donor, context)
    surveys = surveys_of(context)
    note_idle_filters(context)
    shards = layout_of(donor, steps, limits.shard_size)
    steps = _placed(steps, shards)
    transplant = _transplant(context, donor)
    tokenizer = Tokenizer() if context.problems else _tokenizer(recipe, transplant, context, donor)
    cost = estimate(steps, surveys, shards, limits, out, vocabulary_bytes(context, tokenizer))
    if differing(recipe.expression, context, limits.memory - cost.memory):
        cost = estimate(steps, surveys, shards, limits, out, vocabulary_bytes(context, tokenizer))
    _check_room(cost, limits, out, overwrite, context)
    layers = layers_of(donor, view, context)
    sidecars = sidecars_of(recipe, donor, steps, checkpoints, layers, tokenizer, rewritten(view), context)
    if context.problems:
        raise PlanError(*_grouped(context.problems))
    return Plan(
        steps=tuple(steps),
        shards=shards,
        sidecars=sidecars,
        sources=dict(zip(apart(c.label for c in checkpoints.values()), checkpoints.values(), strict=True)),
        cost=cost,
        notes=(
            *recipe.notes,
            *context.notes,
            *map(survey_note, surveys),
            *_mixed_dtypes(models_of(recipe, checkpoints), recipe),
        ),
        surveys=surveys,
        seed=recipe.seed,
        tokenizer=tokenizer.report,
        recipe_text=recipe.text,
        resolved=recipe.resolved,
        recipe=recipe,
        shard_size=limits.shard_size,
        reports=_reports(view),
    )


def _check_room(cost: Cost, limits: Limits, out: Path | None, overwrite: bool, context: Context) -> None:
    """Report an output that may not be where it shall go, and too little memory."""
    if out is not None:
        try:
            check_output(context, context.checkpoints.values(), cost.written, cost.disk_free, out, overwrite)
        except OSError as error:
            context.problem(f"cannot look at the output's place: {error.strerror or error}", file=str(out))
    if cost.memory > limits.memory:
        context.problem(
            f"needs {-(-cost.memory // MIB)} MiB of memory, the budget is {limits.memory // MIB} MiB",
            fix=f"give --memory {-(-cost.memory // MIB)}MiB or more",
        )


def _open_lent(donor: Leaf | None, checkpoints: dict[Key, Checkpoint], inputs: Inputs) -> bool:
    """Whether the donor is not merged: a base that the method does not use. It is then opened beside the others."""
    if donor is None or donor.key in checkpoints:
        return False
    checkpoints[donor.key] = _opened(donor, inputs)
    return True


def _grouped(problems: Sequence[Problem]) -> Iterator[Problem]:
    """``problems``, those that differ only in the tensor told once."""
    groups: dict[Problem, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(replace(problem, tensor=None), []).append(problem)
    for first, *others in groups.values():
        more = f" (and {len(others)} more tensor{'s' * (len(others) > 1)} likewise)" if others else ""
        yield replace(first, message=first.message + more)


def open_all(expression: Expression, inputs: Inputs | None = None) -> tuple[Expression, dict[Key, Checkpoint]]:
    """The expression, every adapter in it on a model; and every checkpoint by the key of its leaf, in their order.

    Raises:
        CheckpointError: with all that is wrong; UnsupportedError, when all of it is not supported.
        PlanError: for adapters of which nothing tells the base.
    """
    found: dict[Key, Checkpoint] = {}
    taken_for: dict[Key, Leaf] = {}
    waiting = list(leaves(expression))
    inputs = inputs or Inputs()
    while waiting:
        adapters = _open_each(waiting, found, inputs)
        taken_for |= adapters
        bases = (leaf for own in waiting if own.key in adapters and own.on is not None for leaf in leaves(own.on))
        waiting = [*adapters.values(), *(leaf for leaf in bases if leaf.key not in (*found, *taken_for))]

    def named(leaf: Leaf) -> str | None:
        own = taken_for.get(leaf.key, leaf)
        base = found[own.key].config.get("base_model_name_or_path")
        return base if isinstance(base, str) and base.isprintable() else None

    whole = anchored(expression, taken_for, named)
    return whole, {leaf.key: found[leaf.key] for leaf in leaves(whole)}


def _open_each(wanted: Iterable[Leaf], found: dict[Key, Checkpoint], inputs: Inputs) -> dict[Key, Leaf]:
    """Open what is not in ``found`` yet; of the leaves that turn out to be adapters, their leaves as such."""
    errors: list[StockpotError] = []
    adapters: dict[Key, Leaf] = {}
    for leaf in wanted:
        if leaf.key in found:
            continue
        try:
            found[leaf.key] = _understood(leaf, inputs) if leaf.adapter else _opened(leaf, inputs)
        except StockpotError as error:
            fetched = existing_path(leaf.reference, leaf.folder) is None
            if leaf.adapter or not tells_of_adapter(error) or (fetched and leaf.on is None):
                errors.append(error)  # and nothing is fetched only to be refused
            else:
                adapters[leaf.key] = Leaf(leaf.reference, None, leaf.folder, leaf.line, adapter=True)
    if errors:
        kind = UnsupportedError if all(isinstance(e, UnsupportedError) for e in errors) else CheckpointError
        raise kind(*(p for e in errors for p in e.problems))
    return adapters


def _understood(leaf: Leaf, inputs: Inputs) -> Checkpoint:
    """An adapter, all of whose tensors and settings are understood."""

    def opened() -> Checkpoint:
        found = leaf.checkpoint or open_adapter(leaf.reference, folder=leaf.folder)
        lora_of(found)
        return found

    return inputs.opened(leaf, lambda: with_line(opened, leaf.reference, leaf.line))


def _opened(leaf: Leaf, inputs: Inputs) -> Checkpoint:
    def opening() -> Checkpoint:
        return leaf.checkpoint or open_checkpoint(leaf.reference, folder=leaf.folder, line=leaf.line)

    opened = inputs.opened(leaf, opening)
    must_fit(opened, leaf.line)
    return opened


def _steps(view: View, context: Context, recipe: Recipe) -> list[Step]:
    wanted = dtype_named(recipe.dtype) if recipe.dtype is not None else None
    if wanted is not None and not wanted.is_float:
        context.problem(f"dtype {wanted.torch_name} is not a floating-point dtype", fix="dtype: bfloat16")
        wanted = None
    steps = []
    for name, meta in view.names.items():
        steps.append(_step(name, meta, view.lower(name), wanted, context))
    if not steps:
        context.problem("the models hold no tensors")
    return steps


def _step(name: str, meta: Meta, source: Operand, wanted: DType | None, context: Context) -> Step:
    dtype = wanted if wanted is not None and meta.dtype.is_float else meta.dtype
    source = _simplified(source)
    if isinstance(source, Compute) and source.dtype not in (None, dtype):
        source = Compute(None, (source,), meta.shape, factors=(1.0,))
    if isinstance(source, Read):
        if source.dtype != dtype and source.dtype.is_float:
            source = Compute(None, (source,), meta.shape, factors=(1.0,))
        else:
            dtype = source.dtype
    fine = check_numbers(source, name, context)
    return Step(name, dtype, meta.shape, source, passes=passes_of(source) if fine else 1)


def _simplified(source: Operand) -> Operand:
    """A single tensor with coefficient 1 is that tensor: it can be copied."""
    if isinstance(source, Read) or source.base is not None or len(source.inputs) != 1 or source.dtype is not None:
        return source
    if source.scale != 1.0 or source.form is not None:
        return source
    method = source.method
    if method is None:
        return _simplified(source.inputs[0]) if source.factors == (1.0,) else source
    if isinstance(method.family, Span) and not method.family.gram and source.resolved is not None:
        try:
            factor = float(method.family.coefficients(None, source.resolved)[0])
            return _simplified(source.inputs[0]) if factor == method.family.divisor(source.resolved) else source
        except ValueError:
            return source
    return source


def _placed(steps: Sequence[Step], shards: Sequence[ShardLayout]) -> list[Step]:
    places = {name: (shard.file, offset) for shard in shards for name, offset in shard.offsets.items()}
    return [replace(s, file=places[s.name][0], offset=places[s.name][1]) for s in steps]


def _quantised(
    steps: list[Step], view: View, how: str | None, donor: Checkpoint | None, context: Context
) -> list[Step]:
    """``steps`` of 8-bit floats, where that is asked for; what is left out of the inputs is told."""
    if how == QUANTISE:
        steps = requantised(steps, view, donor, context)
    elif how is not None:
        context.problem(f"unknown way to quantize: {how!r}", fix=f"quantize: {QUANTISE}, which does as the base does")
    for checkpoint in context.checkpoints.values():
        note_aside(checkpoint, context, quantise=how is not None)
    return steps


def _transplant(context: Context, donor: Checkpoint | None) -> TransplantView | None:
    """The change of tokenizer that the model which gives the config goes through."""
    found = (view for view in context.cache.values() if isinstance(view, TransplantView) and view.main is donor)
    return next(found, None)


def _reports(view: View) -> tuple[Report, ...]:
    """What is told of how the result was made, where that is known only then."""
    report = view.report if isinstance(view, TransplantView) else None
    return () if report is None else (report,)


def _tokenizer(
    recipe: Recipe, transplant: TransplantView | None, context: Context, donor: Checkpoint | None
) -> Tokenizer:
    """What goes with the result's vocabulary."""
    decided = tokenizer_beside(recipe, context, donor)
    if transplant is None or donor is None:
        return decided
    got = transplanted(transplant, donor, context)
    return Tokenizer({**got.entries, **decided.entries}, {**got.files, **decided.files}, decided.report)


def _mixed_dtypes(checkpoints: Mapping[Any, Checkpoint], recipe: Recipe) -> list[Problem]:
    if recipe.dtype is not None:
        return []
    codes = {
        c.label: next((dtype.torch_name for dtype, _ in c.values.values() if dtype.is_float), None)
        for c in checkpoints.values()
    }
    if len(set(codes.values())) < 2:
        return []
    listed = ", ".join(f"{label}: {code}" for label, code in codes.items())
    return [
        Problem(
            f"the models differ in dtype ({listed}); the output has that of the base or first model",
            fix="say dtype: or out_dtype: in the recipe",
        )
    ]

"""Expression → Plan, from headers alone. Every problem is found before anything is raised."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.architecture.layers import layer_counts
from stockpot.architecture.lora import lora_of
from stockpot.architecture.tied import is_head, ties_embeddings
from stockpot.checkpoint.adapters import open_adapter
from stockpot.checkpoint.dtypes import DType, dtype_named
from stockpot.checkpoint.model import Checkpoint
from stockpot.checkpoint.open import open_checkpoint, with_line
from stockpot.checkpoint.sidecars import plan_sidecars
from stockpot.checkpoint.storage import held_bytes
from stockpot.checkpoint.writer import ShardLayout, layout
from stockpot.errors import CheckpointError, PlanError, Problem, StockpotError, UnsupportedError
from stockpot.expression import Expression, Leaf, leaves
from stockpot.methods.declare import Space, Span
from stockpot.planning.configs import layer_entries
from stockpot.planning.cost import estimate, nearest
from stockpot.planning.lowering import apart, build_view
from stockpot.planning.mixtures import rewritten
from stockpot.planning.model import GIB, MIB, Compute, Limits, Operand, Plan, Read, Step, reads
from stockpot.planning.passes import check_numbers, passes_of, survey_note, surveys_of
from stockpot.planning.views import Context, Meta, View
from stockpot.recipe.model import Recipe

__all__ = ["beside", "build_plan"]


def build_plan(recipe: Recipe, limits: Limits, out: Path | None = None, *, overwrite: bool = False) -> Plan:
    """The plan of a recipe.

    Args:
        out: Folder that the result will be written to; None plans without an output.
        overwrite: Whether ``out`` may exist.

    Raises:
        StockpotError: with everything that is wrong: inputs, shapes, parameters, output.
    """
    checkpoints = _open_all(recipe.expression)
    context = Context(checkpoints, recipe.seed)
    if recipe.expression.space is not Space.WEIGHTS:
        context.problem(
            "the expression is a difference of models, not a model",
            fix="add it to a base: base + 0.8 * (a - base)",
        )
    view = build_view(recipe.expression, context)
    steps = _steps(view, context, recipe)
    surveys = surveys_of(context)
    shards = layout([(s.name, s.dtype, s.shape) for s in steps], limits.shard_size)
    steps = _placed(steps, shards)
    cost = estimate(steps, surveys, shards, limits, out)
    if out is not None:
        try:
            _check_output(context, checkpoints, cost.written, cost.disk_free, out, overwrite)
        except OSError as error:
            context.problem(f"cannot look at the output's place: {error.strerror or error}", file=str(out))
    if cost.memory > limits.memory:
        context.problem(
            f"needs {-(-cost.memory // MIB)} MiB of memory, the budget is {limits.memory // MIB} MiB",
            fix=f"give --memory {-(-cost.memory // MIB)}MiB or more",
        )
    layers = _layers(recipe, view, context)
    if context.problems:
        raise PlanError(*_grouped(context.problems))
    return Plan(
        steps=tuple(steps),
        shards=shards,
        sidecars=_sidecars(recipe, steps, checkpoints, layers, rewritten(view)),
        sources=dict(zip(apart(c.label for c in checkpoints.values()), checkpoints.values(), strict=True)),
        cost=cost,
        notes=(
            *recipe.notes,
            *context.notes,
            *map(survey_note, surveys),
            *_mixed_dtypes(_models(recipe, checkpoints), recipe),
        ),
        surveys=surveys,
        seed=recipe.seed,
        recipe_text=recipe.text,
        resolved=recipe.resolved,
        recipe=recipe,
        shard_size=limits.shard_size,
    )


def _grouped(problems: Sequence[Problem]) -> Iterator[Problem]:
    """``problems``, those that differ only in the tensor told once."""
    groups: dict[Problem, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(replace(problem, tensor=None), []).append(problem)
    for first, *others in groups.values():
        more = f" (and {len(others)} more tensor{'s' * (len(others) > 1)} likewise)" if others else ""
        yield replace(first, message=first.message + more)


def _open_all(expression: Expression) -> dict[tuple[str, str | None, int], Checkpoint]:
    """Every checkpoint by the key of its leaf.

    Raises:
        CheckpointError: with all that is wrong; UnsupportedError, when all of it is not supported.
    """
    found: dict[tuple[str, str | None, int], Checkpoint] = {}
    errors: list[StockpotError] = []
    for leaf in leaves(expression):
        try:
            found[leaf.key] = _understood(leaf) if leaf.adapter else _opened(leaf)
        except StockpotError as error:
            errors.append(error)
    if errors:
        kind = UnsupportedError if all(isinstance(e, UnsupportedError) for e in errors) else CheckpointError
        raise kind(*(p for e in errors for p in e.problems))
    return found


def _understood(leaf: Leaf) -> Checkpoint:
    """An adapter, all of whose tensors and settings are understood."""

    def opened() -> Checkpoint:
        found = leaf.checkpoint or open_adapter(leaf.reference, folder=leaf.folder)
        lora_of(found)
        return found

    return with_line(opened, leaf.reference, leaf.line)


def _opened(leaf: Leaf) -> Checkpoint:
    if leaf.checkpoint is not None:
        return leaf.checkpoint
    opened = open_checkpoint(leaf.reference, folder=leaf.folder, line=leaf.line)
    if opened.config.get("quantization_config"):
        raise CheckpointError(
            Problem(
                f"{leaf.reference} is quantised and cannot be merged",
                line=leaf.line,
                fix="use the model in bfloat16, float16 or float32",
            )
        )
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


def _check_output(
    context: Context,
    checkpoints: Mapping[Any, Checkpoint],
    needed: int,
    free: int | None,
    out: Path,
    overwrite: bool,
) -> None:
    exists = os.path.lexists(out)
    if exists and not overwrite:
        context.problem("the output exists", file=str(out), fix="choose another folder, or give --overwrite")
    if exists and not out.is_dir():
        context.problem("the output is a file, not a folder", file=str(out), fix="choose another name")
    _check_place(context, out)
    resolved = out.resolve()
    here = Path.cwd()
    if resolved == here or resolved in here.parents:
        context.problem("the output is (or holds) the current folder", file=str(out), fix="choose another folder")
    for place in (resolved, beside(resolved)):
        for checkpoint in checkpoints.values():
            if any(place == f.resolve() or place in f.resolve().parents for f in checkpoint.files):
                message = f"the output is (or holds) the input {checkpoint.label}"
                if place != resolved:
                    message = f"{place.name} is needed while writing, and is (or holds) the input {checkpoint.label}"
                context.problem(message, file=str(out), fix="choose another folder")
    held = held_bytes(beside(out) / "model")
    if free is not None and needed - held > free:
        context.problem(
            f"the disk has {free / GIB:.2f} GiB free, the output needs {(needed - held) / GIB:.2f} GiB",
            file=str(out),
            fix="free some space, or write to another disk",
        )


def _check_place(context: Context, out: Path) -> None:
    """Where the output goes must be a folder that may be written to."""
    place = nearest(out.resolve().parent)
    fix = "choose a folder that you may write to"
    if not place.is_dir():
        context.problem("a file stands where a folder is needed", file=str(place), fix=fix)
        return
    effective = os.access in os.supports_effective_ids
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=effective):
        context.problem("no permission to write here", file=str(place), fix=fix)


def beside(out: Path) -> Path:
    """OUT.partial, where the work lies until it is done."""
    whole = Path(os.path.abspath(out))  # noqa: PTH100 - "." has no name to add to; links stay
    return whole.parent / (whole.name + ".partial")


def _layers(recipe: Recipe, view: View, context: Context) -> Mapping[str, Any]:
    """What stacking changes in the config of the model that gives it."""
    donor = context.checkpoints.get(recipe.donor.key) if recipe.donor is not None else None
    if donor is None or donor.folder is None:
        return {}
    return layer_entries(donor.config, layer_counts(donor.tensors), view, context)


def _sidecars(
    recipe: Recipe,
    steps: Sequence[Step],
    checkpoints: Mapping[Any, Checkpoint],
    layers: Mapping[str, Any],
    config: Mapping[str, Any] | None,
) -> tuple[tuple[str, bytes | Path], ...]:
    if recipe.donor is None or recipe.donor.key not in checkpoints:
        return ()
    donor = checkpoints[recipe.donor.key]
    if donor.folder is None:
        return ()
    floats = [s.dtype for s in steps if s.dtype.is_float]
    dtype = max(set(floats), key=floats.count) if floats else None
    tied = _tied(donor, steps, checkpoints)
    return tuple(plan_sidecars(donor, dtype=dtype, tied=tied, layers=layers or None, config=config))


def _tied(donor: Checkpoint, steps: Sequence[Step], checkpoints: Mapping[Any, Checkpoint]) -> bool | None:
    """What tie_word_embeddings must become: False when a head of its own came in that the donor ties; else None."""
    adapters = {str(file) for c in checkpoints.values() if c.is_adapter for file in c.files}
    untied = {c.label for c in checkpoints.values() if not c.is_adapter and not ties_embeddings(c.config)}
    heads = [step for step in steps if is_head(step.name)]
    if any(r.ref.file in adapters for step in heads for r in reads(step.source)):
        return False  # whatever the model's class takes where its config says nothing
    own = any(
        step.name not in donor.tensors or any(r.model in untied and is_head(r.ref.name) for r in reads(step.source))
        for step in heads
    )
    return False if own and ties_embeddings(donor.config) else None


def _models(recipe: Recipe, checkpoints: Mapping[Any, Checkpoint]) -> Mapping[Any, Checkpoint]:
    """The checkpoints that are merged; what is read beside them, such as masks and adapters, is left out."""
    merged = {leaf.key for leaf in leaves(recipe.expression, companions=False) if not leaf.adapter}
    return {key: checkpoint for key, checkpoint in checkpoints.items() if key in merged}


def _mixed_dtypes(checkpoints: Mapping[Any, Checkpoint], recipe: Recipe) -> list[Problem]:
    if recipe.dtype is not None:
        return []
    codes = {
        c.label: next((t.dtype.torch_name for t in c.tensors.values() if t.dtype.is_float), None)
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

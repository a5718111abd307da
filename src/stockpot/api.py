"""The public functions: open, save, compute, plan, merge, and every method by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy.typing as npt

from stockpot.arrangements import Layers, Stack, Transplant
from stockpot.checkpoint.fp8 import coded
from stockpot.checkpoint.model import from_arrays
from stockpot.errors import ExpressionError, PlanError, Problem, UnsupportedError
from stockpot.execute.local import Progress, Result, execute
from stockpot.execute.local import compute as _compute
from stockpot.execute.workplace import published
from stockpot.expression import Adapted, Expression, Leaf
from stockpot.planning.build import build_plan
from stockpot.planning.inputs import Inputs
from stockpot.planning.model import Limits, Plan
from stockpot.planning.tokens.transplanted import METHODS
from stockpot.recipe.model import Recipe
from stockpot.recipe.parse import load_recipe
from stockpot.tokens import Retokenized, TokenSource, main_leaf

__all__ = ["compute", "layers", "merge", "open", "open_adapter", "plan", "retokenized", "save", "stack", "transplant"]

PathLike = str | os.PathLike[str]
Model = PathLike | Mapping[str, npt.NDArray[Any]]


@overload
def open(model: Model, *, name: str = "memory", adapter: None = None) -> Leaf: ...
@overload
def open(model: Model, *, name: str = "memory", adapter: PathLike) -> Adapted: ...
def open(model: Model, *, name: str = "memory", adapter: PathLike | None = None) -> Leaf | Adapted:
    """A model as a leaf of an expression; no file is read yet.

    Args:
        model: A folder, a file, a hub id with optional ``@revision``, or a map of arrays.
        name: Label of a model given as arrays; keys random numbers, names it in errors.
        adapter: An adapter to be on the model: a folder that PEFT wrote, a file, or a hub id.

    >>> import numpy as np
    >>> a, b = open({"w": np.zeros(2)}, name="a"), open({"w": np.ones(2)}, name="b")
    >>> compute(0.5 * a + 0.5 * b)["w"]
    array([0.5, 0.5])
    """
    leaf = Leaf(name, coded(from_arrays(name, model))) if isinstance(model, Mapping) else Leaf(os.fspath(model))
    return leaf if adapter is None else Adapted(leaf, Leaf(os.fspath(adapter), adapter=True))


def open_adapter(adapter: PathLike) -> Leaf:
    """An adapter alone, which is a difference; no file is read yet.

    It is put on the model that it is added to: ``base + 0.5 * open_adapter(a)``, ``base + ties(open_adapter(a), …)``.

    Args:
        adapter: A folder that PEFT wrote, a file, or a hub id.

    >>> open_adapter("style.safetensors:unet").space
    <Space.DELTA: 'Delta'>
    """
    return Leaf(os.fspath(adapter), adapter=True)


def layers(model: Expression, start: int, stop: int, *, stack: str | None = None, identity: bool = False) -> Layers:
    """Layers start ≤ i < stop of ``model``, renumbered from 0; see :func:`stack`.

    Args:
        stack: Which layers, for a model that has several kinds: what stands before their numbers, such as
            ``"decoder.block"``. To stack encoder and decoder, stack the one, then the layers of the result.
        identity: Scale what the layers add to their input by zero: a layer that is used again then changes nothing
            until it is trained.
    """
    return Layers(model, start, stop, stack=stack, identity=identity)


def stack(*parts: Expression) -> Stack:
    """Models on top of each other: ``stack(layers(a, 0, 24), layers(b, 8, 32))``."""
    return Stack(parts)


def transplant(
    model: Expression | PathLike, tokenizer: Leaf | PathLike, *, method: str = "omp", k: int | None = None
) -> Transplant:
    """``model`` with the tokenizer of another; saved, it gets that tokenizer's files.

    Rows of tokens that both have are copied. Others are made of the model's own rows, as ``method`` says:

    - ``omp``: the row of the other model as a sum of ``k`` of its rows in common, by orthogonal matching pursuit; the
      same sum of this model's rows.
    - ``interpolation``: the mean of the ``k`` nearest rows in common, weighted by cosine.
    - ``subword``: the mean of the rows of the pieces into which this model's tokenizer cuts the token.
    - ``linear``: the other model's row times the matrix that fits the rows in common best.
    - ``mean``, ``zero``: the mean of all rows; nothing.

    Args:
        model: A folder, a hub id, or an expression.
        tokenizer: The model whose tokenizer it gets, with its weights.
        k: Rows that a row is made of; None takes 64 for ``omp`` and 8 for ``interpolation``.

    Raises:
        ExpressionError: for an unknown method, or a k that it does not take.
    """
    if method not in METHODS:
        raise ExpressionError(Problem(f"there is no method {method!r}", fix=f"one of {', '.join(METHODS)}"))
    if k is not None and (k < 1 or not METHODS[method]):
        fix = "give a positive number" if METHODS[method] else f"{method} takes none: leave it out"
        raise ExpressionError(Problem(f"{method} with k = {k}", fix=fix))
    of = model if isinstance(model, Expression) else open(model)
    theirs = tokenizer if isinstance(tokenizer, Leaf) else open(tokenizer)
    return Transplant(of, theirs, method, METHODS[method] if k is None else k)


def retokenized(
    model: Expression,
    source: Expression | str = "union",
    *,
    base: Expression | None = None,
    tokens: Mapping[str, TokenSource] | None = None,
    pad_to_multiple_of: int | None = None,
) -> Retokenized:
    """``model``, a merge whose models get one vocabulary first: rows of embeddings are matched by tokens.

    Args:
        source: ``"union"`` of the tokenizers, ``"base"``, or the model whose tokenizer the result gets.
        base: The model whose tokens come first, and whose rows stand in for those that others lack.
        tokens: Token → where its embedding comes from, for single tokens.
        pad_to_multiple_of: Rounds the number of rows up.
    """
    return Retokenized(model, source, base, dict(tokens or {}), pad_to_multiple_of)


def plan(
    what: Expression | Recipe | PathLike,
    out: PathLike | None = None,
    *,
    dtype: str | None = None,
    quantize: str | None = None,
    seed: int | None = None,
    memory: int = 1 << 30,
    threads: int | None = None,
    shard_size: int = 5_000_000_000,
    overwrite: bool = False,
    lenient: bool = False,
    allow_code: bool = False,
    mismatched: str = "error",
    inputs: Inputs | None = None,
) -> Plan:
    """Decide how ``what`` (an expression, a recipe or a recipe's path) is computed, from headers alone.

    Args:
        out: Folder that the result would be written to.
        dtype: Output dtype of an expression; None keeps each tensor's own. Recipes say theirs.
        quantize: ``"same"`` writes 8-bit floats with scales, as the model that gives the config has them; None takes
            the recipe's, else plain numbers.
        seed: Key of random numbers; None takes the recipe's, else 0.
        memory: Budget in bytes of resident memory of the whole process.
        threads: Worker threads; None takes one per core.
        shard_size: Payload bytes of an output file.
        overwrite: Whether ``out`` may exist.
        lenient: Whether unknown keys of a recipe are notes instead of errors.
        allow_code: Whether the method file of a recipe may run.
        mismatched: Of an expression, ``"base"``: tensors that a model lacks or has in another shape are the base's,
            those that only it has are left out, and notes say so. Recipes say theirs.
        inputs: Where plans of the same models find them opened; None opens them for this plan alone.

    Raises:
        StockpotError: with everything that is wrong.
    """
    if mismatched not in ("error", "base"):
        raise PlanError(Problem(f"mismatched is {mismatched!r}", fix='"error" or "base"'))
    recipe = _recipe(what, dtype, seed, lenient=lenient, allow_code=allow_code)
    recipe = replace(recipe, mismatched=recipe.mismatched or mismatched == "base")
    if quantize is not None:
        recipe = _told(replace(recipe, quantize=quantize), "quantize", quantize)
    limits = Limits(memory, threads or os.cpu_count() or 1, shard_size)
    where = Path(out) if out is not None else None
    replaced = overwrite or (where is not None and published(where))
    return build_plan(recipe, limits, where, overwrite=replaced, inputs=inputs)


def save(
    expression: Expression,
    out: PathLike,
    *,
    dtype: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    restart: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
    **limits: Any,
) -> Result:
    """Compute ``expression`` and write it to the folder ``out``, or continue where that was broken off.

    Args:
        restart: Begin again, whatever an unfinished merge has left.
        durable: Wait until the disk has everything before ``out`` appears.
        progress: Called with (bytes moved, bytes in all) now and then.
        limits: The other arguments are those of :func:`plan`.
    """
    made = plan(expression, out, dtype=dtype, seed=seed, overwrite=overwrite, **limits)
    return execute(made, Path(out), overwrite=overwrite, restart=restart, durable=durable, progress=progress)


def merge(
    recipe: Recipe | PathLike,
    out: PathLike,
    *,
    seed: int | None = None,
    overwrite: bool = False,
    lenient: bool = False,
    allow_code: bool = False,
    restart: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
    **limits: Any,
) -> Result:
    """Carry out a recipe and write the result to the folder ``out``; see :func:`save` and :func:`plan`."""
    limits |= {"lenient": lenient, "allow_code": allow_code}
    made = plan(recipe, out, seed=seed, overwrite=overwrite, **limits)
    return execute(made, Path(out), overwrite=overwrite, restart=restart, durable=durable, progress=progress)


def compute(
    expression: Expression | Recipe, *, dtype: str | None = None, seed: int | None = None, **limits: Any
) -> dict[str, npt.NDArray[Any]]:
    """Compute ``expression`` in memory: tensor name → array."""
    return _compute(plan(expression, dtype=dtype, seed=seed, **limits))


def _recipe(
    what: Expression | Recipe | PathLike, dtype: str | None, seed: int | None, *, lenient: bool, allow_code: bool
) -> Recipe:
    if isinstance(what, Expression):
        return Recipe(what, dtype=dtype, donor=main_leaf(what), seed=seed or 0)
    if not isinstance(what, Recipe):
        what = load_recipe(what, lenient=lenient, seed=seed, allow_code=allow_code)
    if what.unsupported:
        raise UnsupportedError(*what.unsupported)
    return what if seed is None else _told(replace(what, seed=seed), "seed", seed)


def _told(recipe: Recipe, key: str, value: Any) -> Recipe:
    """``recipe`` as if its text had said ``key: value``, which was asked for elsewhere."""
    if not recipe.resolved.get("documents"):
        return recipe
    *others, result = recipe.resolved["documents"]
    return replace(recipe, resolved={**recipe.resolved, "documents": [*others, {**result, key: value}]})

"""Public functions that write adapters: merged, extracted from models, cut to another rank."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.errors import ExpressionError, Problem
from stockpot.lora.engine import Progress
from stockpot.lora.extracting import extract
from stockpot.lora.factors import Wanted
from stockpot.lora.kinds import CATEGORIES
from stockpot.lora.merging import merge_adapters
from stockpot.lora.output import Made
from stockpot.lora.requests import extract_asked, merge_asked, resize_asked
from stockpot.lora.resizing import resize
from stockpot.lora.spaces import Space
from stockpot.planning.model import Limits
from stockpot.recipe.model import Recipe

__all__ = ["lora_extract", "lora_merge", "lora_resize"]

PathLike = str | os.PathLike[str]


def lora_merge(
    adapters: Sequence[PathLike] | Recipe | PathLike,
    out: PathLike,
    *,
    method: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    rank: int | None = None,
    energy: float | None = None,
    space: Space = "full",
    base: PathLike | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    allow_code: bool = False,
    memory: int = 1 << 30,
    threads: int | None = None,
    overwrite: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
) -> Made:
    """Merge adapters into one, written to the folder ``out``, as ``stockpot lora merge`` does.

    The method works on the changes themselves, scale · B·A of each module, and the result is factorised again.

    Args:
        adapters: Folders, files or hub ids; or one recipe whose models are adapters, or its path.
        method: Any that gives a model, or ``"concat"``; None takes ``"linear"``, the mean.
        parameters: Of the method: a value for all adapters, or a list with one for each.
        rank: Largest rank of a module; with neither rank nor energy, the largest that an adapter has there.
        energy: Share of the squared norm of each change that is kept, in (0, 1], as far as ``rank`` allows.
        space: ``"full"``, ``"knots"`` or ``"core"``.
        base: The model that the adapters are on, for what is a function of its weights.
        dtype: Of the factors; None takes the recipe's, else that of the first adapter.
        seed: Key of random numbers; None takes the recipe's, else 0.
        allow_code: Whether the method file of a recipe may run.
        memory: Budget in bytes of resident memory of the whole process.
        threads: Worker threads; None takes one per core.
        overwrite: Whether ``out`` may exist.
        durable: Wait until the disk has everything before ``out`` appears.
        progress: Called with (bytes read, bytes in all) now and then.

    Returns:
        Where it lies, and a report of what each module has kept.

    Raises:
        StockpotError: with everything that is wrong.
    """
    whole = isinstance(adapters, Recipe | str | os.PathLike)
    if whole and (method is not None or parameters):
        raise ExpressionError(Problem("the recipe says how adapters are merged: leave method and parameters out"))
    of: Sequence[str] | Recipe | Path
    if isinstance(adapters, Recipe):
        of = adapters
    else:
        of = Path(adapters) if isinstance(adapters, str | os.PathLike) else [os.fspath(a) for a in adapters]
    values = {name: value if isinstance(value, list | tuple) else [value] for name, value in (parameters or {}).items()}
    on = None if base is None else os.fspath(base)
    what = merge_asked(
        of, method or "linear", values, Wanted(rank, energy),
        space=space, base=on, dtype=dtype, seed=seed, allow_code=allow_code,
    )  # fmt: skip
    limits = _limits(memory, threads)
    return merge_adapters(what, Path(out), limits, overwrite=overwrite, durable=durable, progress=progress)


def lora_extract(
    tuned: PathLike,
    base: PathLike,
    out: PathLike,
    *,
    rank: int | None = None,
    energy: float | None = None,
    include: str | None = None,
    exclude: str | None = None,
    save_modules: Sequence[str] = CATEGORIES[:-1],
    drop: str | None = None,
    prefix: str = "",
    dtype: str | None = None,
    seed: int = 0,
    memory: int = 1 << 30,
    threads: int | None = None,
    overwrite: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
) -> Made:
    """Write the adapter on ``base`` that makes of it, nearly, ``tuned``, as ``stockpot lora extract`` does.

    Args:
        tuned, base: Models, each perhaps ``model+adapter``.
        rank: Largest rank of a module.
        energy: Share of the squared norm of each change that is kept, in (0, 1], as far as ``rank`` allows.
        include, exclude: Regular expressions, searched for in names of modules: what is factorised, and what is not.
        save_modules: Kinds of tensors that are stored whole where they have changed.
        drop: Regular expression: tensors whose change may be left out.
        prefix: What the model's class has before the names.
        dtype: Of the factors; None takes float32, or float64 where a model has that.
        seed: Key of random numbers.
        memory, threads, overwrite, durable, progress: As for :func:`lora_merge`.

    Raises:
        StockpotError: with everything that is wrong, and what has changed and is in no way kept or dropped.
    """
    what = extract_asked(
        os.fspath(tuned), os.fspath(base), Wanted(rank, energy), include=include, exclude=exclude,
        save_modules=save_modules, drop=drop, prefix=prefix, dtype=dtype, seed=seed,
    )  # fmt: skip
    limits = _limits(memory, threads)
    return extract(what, Path(out), limits, overwrite=overwrite, durable=durable, progress=progress)


def lora_resize(
    adapter: PathLike,
    out: PathLike,
    *,
    rank: int | None = None,
    energy: float | None = None,
    dtype: str | None = None,
    memory: int = 1 << 30,
    threads: int | None = None,
    overwrite: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
) -> Made:
    """Write ``adapter`` cut to a rank, an energy or both, as ``stockpot lora resize`` does.

    Args:
        adapter: A folder, a file or a hub id.
        rank: Largest rank of a module.
        energy: Share of the squared norm of each change that is kept, in (0, 1], as far as ``rank`` allows.
        dtype: Of the factors; None keeps theirs.
        memory, threads, overwrite, durable, progress: As for :func:`lora_merge`.

    Raises:
        StockpotError: with everything that is wrong.
    """
    what = resize_asked(os.fspath(adapter), Wanted(rank, energy), dtype=dtype)
    limits = _limits(memory, threads)
    return resize(what, Path(out), limits, overwrite=overwrite, durable=durable, progress=progress)


def _limits(memory: int, threads: int | None) -> Limits:
    return Limits(memory, threads or os.cpu_count() or 1)

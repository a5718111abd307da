"""What is asked of the verbs that write adapters, from plain values: checked, and told to the receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.errors import ExpressionError, Problem
from stockpot.lora.extracting import Extract
from stockpot.lora.factors import Wanted
from stockpot.lora.kinds import CATEGORIES
from stockpot.lora.merging import Merge
from stockpot.lora.recipes import CONCAT, ORIGIN, recipe_text
from stockpot.lora.resizing import Resize
from stockpot.lora.spaces import SPACES, Space
from stockpot.recipe.model import Recipe
from stockpot.recipe.parse import load_recipe, parse_recipe

__all__ = ["extract_asked", "merge_asked", "resize_asked"]


def merge_asked(
    adapters: Sequence[str] | Recipe | Path,
    method: str,
    values: Mapping[str, Sequence[Any]],
    wanted: Wanted,
    *,
    space: Space = "full",
    base: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    allow_code: bool = False,
) -> Merge:
    """A merge of ``adapters``, or of those of a recipe, which then tells method and values.

    Args:
        values: Parameter → one value, or one for each adapter.

    Raises:
        StockpotError: for what cannot be asked for.
    """
    _check(wanted)
    named = not isinstance(adapters, Recipe | Path)
    if space not in SPACES:
        raise ExpressionError(Problem(f"there is no space {space!r}", fix=f"one of {', '.join(SPACES)}"))
    if named and method == CONCAT and (wanted != Wanted() or space != "full"):
        fix = "leave rank, energy and space out, or use task_arithmetic"
        raise ExpressionError(Problem("concat keeps everything", fix=fix))
    if isinstance(adapters, Recipe):
        recipe = adapters
    elif isinstance(adapters, Path):
        recipe = load_recipe(adapters, seed=seed, allow_code=allow_code, origin=ORIGIN)
    else:
        text = recipe_text(adapters, method, values)
        recipe = parse_recipe(text, seed=seed, allow_code=allow_code, origin=ORIGIN)
    asked = {"verb": "merge", "method": method if named else None, "recipe": recipe.text}
    asked |= _told(wanted, dtype) | {"space": space, "base": base}
    return Merge(recipe, wanted, base, space, named and method == CONCAT, dtype, _present(asked))


def extract_asked(
    tuned: str,
    base: str,
    wanted: Wanted,
    *,
    include: str | None = None,
    exclude: str | None = None,
    save_modules: Sequence[str] = CATEGORIES[:-1],
    drop: str | None = None,
    prefix: str = "",
    dtype: str | None = None,
    seed: int = 0,
) -> Extract:
    """An adapter of what ``tuned`` has learned; see :class:`~stockpot.lora.extracting.Extract`.

    Args:
        save_modules: Kinds of tensors that are stored whole where they have changed.

    Raises:
        ExpressionError: for what cannot be asked for.
    """
    _check(wanted, needed=True)
    unknown = [word for word in save_modules if word not in CATEGORIES]
    if unknown:
        message = f"--save-modules does not know {unknown[0]}; it takes {', '.join(CATEGORIES)} or none"
        raise ExpressionError(Problem(message))
    save = tuple(c for c in CATEGORIES if c in save_modules)
    asked = {"verb": "extract", "tuned": tuned, "base": base, **_told(wanted, dtype), "include": include}
    asked |= {"exclude": exclude, "save_modules": ",".join(save) or "none", "drop": drop}
    asked |= {"prefix": prefix, "seed": seed}
    name = prefix.strip(".")
    return Extract(tuned, base, wanted, include, exclude, save, drop, dtype, name, seed, _present(asked))


def resize_asked(adapter: str, wanted: Wanted, *, dtype: str | None = None) -> Resize:
    """``adapter`` at another rank.

    Raises:
        ExpressionError: without a rank and an energy, or for one that cannot be.
    """
    _check(wanted, needed=True)
    return Resize(adapter, wanted, dtype, _present({"verb": "resize", "adapter": adapter, **_told(wanted, dtype)}))


def _check(wanted: Wanted, *, needed: bool = False) -> None:
    """Raises ExpressionError for ranks and energies that cannot be."""
    if needed and wanted == Wanted():
        raise ExpressionError(Problem("nothing says how much is kept", fix="give a rank, an energy, or both"))
    if wanted.rank is not None and wanted.rank < 1:
        raise ExpressionError(Problem(f"a rank of {wanted.rank}", fix="give a whole number from 1 on"))
    if wanted.energy is not None and not 0 < wanted.energy <= 1:
        raise ExpressionError(Problem(f"an energy of {wanted.energy}", fix="give a number over 0, at most 1"))


def _told(wanted: Wanted, dtype: str | None) -> dict[str, Any]:
    return {"rank": wanted.rank, "energy": wanted.energy, "dtype": dtype}


def _present(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if value not in (None, "")}

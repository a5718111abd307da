"""Models to evaluate: folders, hub ids, models with adapters, recipes, expressions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stockpot.api import open as opened
from stockpot.api import plan
from stockpot.errors import Problem, RecipeError, StockpotError
from stockpot.evaluate.opened import Opened
from stockpot.expression import Expression, Leaf
from stockpot.planning.model import Plan
from stockpot.recipe.model import Recipe
from stockpot.recipe.parse import load_recipe
from stockpot.recipe.references import parted

__all__ = ["Candidate", "attempted", "candidate", "named"]

_RECIPES = (".yml", ".yaml")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that is to be evaluated; nothing is opened yet.

    Args:
        name: How tables call it.
        what: An expression or recipe.
        reference: As it was written.
        limits: Further arguments of :func:`stockpot.plan`, such as memory and threads.
        error: Why it is none, as of a recipe that is wrong; it is raised once something is asked of it.
        settled: Whether tables call it so whatever stands beside it: it was named by its user, or by :func:`named`.
    """

    name: str
    what: Expression | Recipe
    reference: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    error: StockpotError | None = None
    settled: bool = False

    @cached_property
    def plan(self) -> Plan:
        """How it is computed, from headers alone."""
        if self.error is not None:
            raise self.error
        return plan(self.what, **self.limits)

    @property
    def recipe(self) -> str:
        """The text of its recipe; empty without one."""
        return self.what.text if isinstance(self.what, Recipe) else ""

    def opened(self, device: str | None = None) -> Opened:
        """The model in memory, once its parts are asked for."""
        return Opened(self.name, self.plan, device)


def candidate(
    what: str | os.PathLike[str] | Expression | Recipe,
    *,
    name: str | None = None,
    lenient: bool = False,
    allow_code: bool = False,
    **limits: Any,
) -> Candidate:
    """A model to evaluate.

    Args:
        what: A folder, file or hub id; ``model+adapter``; the path of a recipe (.yml, .yaml); an expression or recipe.
        name: How tables call it; else what was written.
        lenient, allow_code: As for :func:`stockpot.merge`.
        limits: Further arguments of :func:`stockpot.plan`, such as seed, memory and threads.
    """
    if isinstance(what, Expression | Recipe):
        return Candidate(name or "model", what, name or "model", limits, settled=bool(name))
    text = os.fspath(what)
    if text.endswith(_RECIPES):
        recipe = load_recipe(text, lenient=lenient, seed=limits.get("seed"), allow_code=allow_code)
        return Candidate(name or text, recipe, text, limits, settled=bool(name))
    parts = parted(text, None)
    if parts is None:
        raise RecipeError(Problem(f"{text!r} has more than one +, which adds an adapter to a model"))
    model, adapter = parts
    leaf = opened(model) if adapter is None else opened(model, adapter=adapter)
    return Candidate(name or text, leaf, text, limits, settled=bool(name))


def attempted(what: str, **how: Any) -> Candidate:
    """As :func:`candidate`; what is wrong with ``what`` itself is the error of a candidate, so that others go on."""
    try:
        return candidate(what, **how)
    except StockpotError as error:
        return Candidate(what, Leaf(what), what, error=error)


def named(given: Sequence[Candidate]) -> list[Candidate]:
    """``given`` with names that are short and differ: the last part of a path where that is enough.

    Names that were settled stay, so that a model is called the same in every table of one run.
    """
    kept = {c.name: i for i, c in reversed([*enumerate(given)]) if c.settled}
    fixed = set(kept.values())
    short = [c.name if i in fixed else _short(c.name) for i, c in enumerate(given)]
    names = [s if short.count(s) == 1 else c.name for s, c in zip(short, given, strict=True)]
    taken = Counter(names)
    found = []
    for i, (one, name) in enumerate(zip(given, names, strict=True)):
        if i not in fixed and taken[name] > 1:
            name = f"{name} ({i + 1})"  # noqa: PLW2901
            while name in taken:
                name += "'"  # noqa: PLW2901
            taken[name] += 1
        found.append(one if i in fixed else _called(one, name))
    return found


def _called(one: Candidate, name: str) -> Candidate:
    """``one`` under a name that stays; a plan that was made is not made again."""
    found = replace(one, name=name, settled=True)
    if "plan" in one.__dict__:
        found.__dict__["plan"] = one.__dict__["plan"]
    return found


def _short(name: str) -> str:
    path = Path(name.rstrip("/"))
    return (path.stem if path.suffix in _RECIPES else path.name) or name

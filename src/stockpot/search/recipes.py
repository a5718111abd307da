"""The recipes that searches end with, as YAML that ``stockpot merge`` runs from the folder the search was run in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.candidates import Candidate
from stockpot.expression import Adapted, Expression, Leaf
from stockpot.functions import linear
from stockpot.recipe.model import Recipe
from stockpot.recipe.parse import parse_recipe
from stockpot.tokens import main_leaf

__all__ = ["average_of", "mixture_of", "stored_model", "written"]

Weight = float | Mapping[str, float]
"""Of a model: the same for all of its tensors, or by tensor."""


def stored_model(candidate: Candidate) -> Expression:
    """What ``candidate`` is computed from.

    Raises:
        RecipeError: for a recipe, which would be a merge within the merge.
    """
    if isinstance(candidate.what, Recipe):
        fix = "merge it first: stockpot merge RECIPE OUT"
        raise RecipeError(Problem(f"{candidate.reference} is a recipe, not a model", fix=fix))
    return candidate.what


def written(method: str, models: Sequence[tuple[Candidate, Weight | None]], **keys: Any) -> str:
    """A recipe of ``models``, each with its weight where it has one; empty where one has no name to write.

    Args:
        keys: ``base`` (a candidate) and parameters of the merge.
    """
    base = keys.pop("base", None)
    if any(not _named(c) for c in (*(c for c, _ in models), *([] if base is None else [base]))):
        return ""
    lines = [f"merge_method: {method}"]
    if base is not None:
        lines.append(f"base_model: {_quoted(base.reference)}")
    lines.append("models:")
    for candidate, weight in models:
        lines.append(f"  - model: {_quoted(candidate.reference)}")
        lines += [] if weight is None else _weight(weight)
    lines += [f"parameters: {_flow(keys)}"] if keys else []
    return "\n".join([*lines, ""])


def average_of(members: Sequence[Candidate]) -> Recipe:
    """The mean of models; config and small files are those of the first."""
    text = written("linear", [(member, None) for member in members])
    if text:
        return parse_recipe(text, name="the soup")
    made = linear(*map(stored_model, members))
    return Recipe(made, donor=main_leaf(made))


def mixture_of(members: Sequence[Candidate], weights: Sequence[Weight]) -> Recipe:
    """The weighted mean of models; config and small files are those of the first.

    Args:
        weights: Of each model; by tensor, with the same tensors for all, which are those that are averaged.
    """
    text = written("linear", list(zip(members, weights, strict=True)))
    if text:
        return parse_recipe(text, name="the soup")
    settings = [
        w if isinstance(w, float) else [{"filter": n, "value": w[n]} for n in _longest_first(w)] for w in weights
    ]
    made = linear(*map(stored_model, members), weight=settings)
    return Recipe(made, donor=main_leaf(made))


def _weight(weight: Weight) -> list[str]:
    if isinstance(weight, float):
        return [f"    parameters: {{weight: {weight!r}}}"]
    cases = [f"        - {{filter: {_quoted(name)}, value: {weight[name]!r}}}" for name in _longest_first(weight)]
    return ["    parameters:", "      weight:", *cases]


def _longest_first(names: Iterable[str]) -> list[str]:
    """``names`` in an order in which each, as a filter, is the first that its own tensor answers to.

    A filter occurs somewhere in a name, so another filter that its tensor answers to is a shorter one.

    >>> _longest_first(["b.weight", "a.b.weight"])
    ['a.b.weight', 'b.weight']
    """
    return sorted(names, key=lambda name: (-len(name), name))


def _named(candidate: Candidate) -> bool:
    """Whether what was written means the model: it is no expression and no arrays."""
    what = candidate.what
    if isinstance(what, Adapted):
        return isinstance(what.of, Leaf) and candidate.reference == f"{what.of.reference}+{what.adapter.reference}"
    return isinstance(what, Leaf) and what.checkpoint is None and candidate.reference == what.reference


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _flow(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "}"

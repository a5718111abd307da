"""The recipes that searches end with, as YAML that ``stockpot merge`` runs from the folder the search was run in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.candidates import Candidate
from stockpot.expression import Adapted, Expression, Leaf
from stockpot.functions import linear
from stockpot.recipe.model import Recipe
from stockpot.recipe.parse import parse_recipe
from stockpot.search.spaces.writing import number_text, word_text
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


def written(
    method: str, models: Sequence[tuple[Candidate, Weight | None]], *, base: Candidate | None = None, **numbers: float
) -> str:
    """A recipe of ``models``, each with its weight where it has one; empty where one has no name to write.

    Args:
        base: The base of the merge, where it has one.
        numbers: Parameters of the merge.
    """
    if any(not _named(c) for c in (*(c for c, _ in models), *([] if base is None else [base]))):
        return ""
    lines = [f"merge_method: {method}"]
    if base is not None:
        lines.append(f"base_model: {word_text(base.reference)}")
    lines.append("models:")
    for candidate, weight in models:
        lines.append(f"  - model: {word_text(candidate.reference)}")
        lines += [] if weight is None else _weight(weight)
    if numbers:
        lines.append(f"parameters: {{{', '.join(f'{name}: {number_text(own)}' for name, own in numbers.items())}}}")
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
        return [f"    parameters: {{weight: {number_text(weight)}}}"]
    given = [(word_text(name), number_text(weight[name])) for name in _longest_first(weight)]
    cases = [f"        - {{filter: {name}, value: {value}}}" for name, value in given]
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

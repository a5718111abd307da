"""The models of a recipe alone, and trials, as candidates that are measured beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from stockpot.errors import StockpotError
from stockpot.evaluate.candidates import Candidate
from stockpot.expression import Adapted, Expression, Leaf
from stockpot.search.objective import Objective
from stockpot.search.spaces.space import Space
from stockpot.search.tuning.trials import Trial, best_of, front_of, scores

__all__ = ["Kind", "Row", "chosen_trials", "every_expression", "row_of", "singles"]

Kind: TypeAlias = Literal["single", "shared", "random", "search"]

_NAMES = {
    "shared": "one number, {place}",
    "random": "random search, trial {number}",
    "search": "search, trial {number}",
}


@dataclass(frozen=True, eq=False)
class Row:
    """Something that is measured on select data.

    Args:
        kind: A model of the recipe, one number for all coefficients, random search, or the search.
        candidate: What it is.
        trial: Which trial; None for a model.
    """

    kind: Kind
    candidate: Candidate
    trial: Trial | None = None

    @property
    def name(self) -> str:
        """As tables call it."""
        return self.candidate.name


def singles(space: Space, limits: Mapping[str, Any]) -> list[Row]:
    """Each model of the recipe once, those that only a choice names among them; adapters as they stand on models."""
    found: dict[Any, Expression] = {}
    for expression in every_expression(space):
        for model in _models(expression):
            found.setdefault(_identity(model), model)
    names = _names(list(found.values()))
    return [
        Row("single", Candidate(name, model, name, dict(limits)))
        for name, model in zip(names, found.values(), strict=True)
    ]


def every_expression(space: Space) -> Iterator[Expression]:
    """The recipe at its first guess, and with each choice there: together they name every model that a trial can."""
    start = space.start()
    others = [{**start, one.name: choice} for one in space.dimensions if one.kind == "choice" for choice in one.choices]
    for values in (start, *others):
        try:
            yield space.recipe(values).expression
        except StockpotError:
            continue  # a trial with these values fails, and tells why


def row_of(space: Space, kind: Kind, trial: Trial, limits: Mapping[str, Any], place: float | None = None) -> Row:
    """A trial as a row; one number for all is told by that number, or by its place where ranges differ."""
    own = {trial.values[one.name] for one in space.coefficients}
    told = f"{own.pop():.6g}" if len(own) == 1 else f"{100 * (place or 0):.4g} % of each range"
    name = _NAMES[kind].format(number=trial.number, place=told)
    return Row(kind, Candidate(name, space.recipe(trial.values), name, dict(limits)), trial)


def chosen_trials(trials: Sequence[Trial], objectives: Sequence[Objective], top: int, *, front: bool) -> list[Trial]:
    """Those that are worth measuring on select data, the best first, no values twice.

    Args:
        top: How many.
        front: All that no other dominates instead.
    """
    known: dict[tuple[Any, ...], Trial] = {}
    for trial in trials:
        if trial.figures is not None:
            known.setdefault(tuple(trial.values.items()), trial)
    sound = list(known.values())
    given = [scores(trial.figures or (), objectives) for trial in sound]
    places = front_of(given) if front else best_of(given)[:top]
    return [sound[i] for i in places]


def _models(expression: Expression) -> Iterator[Expression]:
    """Stored models and models with adapters on them, in order; what is only read beside a merge is none."""
    if isinstance(expression, Adapted) and isinstance(expression.of, Leaf):
        yield expression
    elif isinstance(expression, Leaf):
        if not expression.adapter:
            yield expression
    else:
        for part in expression.merged:
            yield from _models(part)


def _identity(model: Expression) -> Any:
    if isinstance(model, Adapted):
        assert isinstance(model.of, Leaf)
        return model.of.key, model.adapter.key
    assert isinstance(model, Leaf)
    return model.key


def _names(models: Sequence[Expression]) -> list[str]:
    """References as written, numbered where two are the same."""
    given = [_name(model) for model in models]
    return [name if given.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(given)]


def _name(model: Expression) -> str:
    if isinstance(model, Adapted):
        return f"{_name(model.of)}+{model.adapter.reference}"
    assert isinstance(model, Leaf)
    return model.reference

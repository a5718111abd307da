"""Model soups: averages of fine-tunes of one start, chosen on held-out data."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from stockpot.errors import ExecutionError, Problem, RecipeError, StockpotError
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate, named
from stockpot.evaluate.ensemble import Average, Ensemble
from stockpot.evaluate.results import Result
from stockpot.evaluate.run import told
from stockpot.evaluate.suite import Suite
from stockpot.expression import Adapted, Leaf
from stockpot.recipe.model import Recipe
from stockpot.search.average import RunningAverage
from stockpot.search.judge import Judge, Tell
from stockpot.search.mixing.cocktail import Cocktail, Mixing, mix
from stockpot.search.mixing.learned import Learned, Learning, learn
from stockpot.search.mixing.losses import fitting
from stockpot.search.objective import Objective, objective_of
from stockpot.search.recipes import average_of, stored_model
from stockpot.search.rule import Step, greedy, ranked

__all__ = ["KINDS", "Soup", "soup", "unused"]

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "greedy": "each model is kept if the average with it is no worse (Wortsman et al., 2022, recipe 1)",
        "uniform": "the average of all models (Wortsman et al., 2022)",
        "diwa": "runs of one start under mild settings, restricted selection: the greedy rule (Ramé et al., 2022)",
        "ratatouille": "runs that were started from fine-tunes on other tasks, averaged uniformly (Ramé et al., 2023)",
        "learned": "shares of models, or of their tensors, by gradients of a loss (Wortsman et al., 2022)",
        "cocktail": "shares are a softmax of minus the models' losses on a few examples (Xiao et al., 2023)",
    }
)
"""Kind → what it is."""

_CHOSEN = ("greedy", "diwa")
_MIXED = ("learned", "cocktail")


@dataclass(frozen=True)
class Soup:
    """A soup, how it came about, and what it is worth.

    Args:
        kind: One of :data:`KINDS`.
        strict: Whether an average had to be better, not only as good.
        objective: What it was chosen by.
        steps: What was done with each model, in order; empty where all are averaged.
        models: Names of all models that were given, the best first.
        members: Of those that it is the mean of, in the order of the sum.
        name: As tables call it.
        recipe: How it is made.
        select: Models, soups and ensembles on the data that chose.
        report: The same on untouched data; None when the suite has none.
        mixture: How the members' shares came about; None where all have the same.
    """

    kind: str
    strict: bool
    objective: Objective
    steps: tuple[Step, ...]
    models: tuple[str, ...]
    members: tuple[str, ...]
    name: str
    recipe: Recipe
    select: Result
    report: Result | None
    mixture: Learned | Cocktail | None = None

    @property
    def failed(self) -> bool:
        """Whether a model, a soup, an ensemble or an average that was tried could not be measured."""
        cells = self.select.failed + (() if self.report is None else self.report.failed)
        rejected = isinstance(self.mixture, Cocktail) and bool(self.mixture.rejected)
        return bool(cells) or rejected or any(step.error is not None for step in self.steps)

    @property
    def sound(self) -> bool:
        """Whether the soup itself could be measured on all select data, so that it is worth writing."""
        return all(cell.error is None for cell in self.select.cells if cell.model == self.name)

    def value(self, step: Step) -> float | None:
        """The score of a step as the figure that it is; None where it failed."""
        if step.score == -math.inf:
            return None
        return step.score if self.objective.better == "higher" else -step.score

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data."""
        told = {name: getattr(self, name) for name in ("kind", "strict", "models", "members", "name")}
        return {
            "format": 1,
            **told,
            "objective": asdict(self.objective),
            "steps": [asdict(step) | {"score": self.value(step)} for step in self.steps],
            "recipe": self.recipe.text,
            "select": self.select.as_data(),
            "report": None if self.report is None else self.report.as_data(),
            "mixture": None if self.mixture is None else self.mixture.as_data(),
        }


def soup(
    models: Sequence[Candidate],
    suite: Suite,
    *,
    kind: str = "greedy",
    strict: bool = False,
    how: Learning | Mixing | None = None,
    metrics: Sequence[str] = (),
    ensembles: Sequence[Average] = ("probabilities",),
    cache: Cache | None = None,
    device: str | None = None,
    tell: Tell | None = None,
) -> Soup:
    """Choose a soup of ``models`` on the select data of ``suite``, and measure it beside them and their ensemble.

    A model that cannot be opened or measured is never chosen; it is a failed row.

    Args:
        models: Fine-tunes of one start, at least one; no recipes.
        kind: One of :data:`KINDS`.
        strict: An average must be better than without the model, not only as good.
        how: How shares are found, for the kinds ``learned`` and ``cocktail``; None takes the defaults.
        metrics: TASK.METRIC that chooses, or several for their mean; see :func:`objective_of`.
        ensembles: What output ensembles of the soup's members average, for the rows that they get.
        cache: Where predictions are kept; None forgets them in the end.
        device, tell: As for :func:`stockpot.evaluate.evaluate`.

    Raises:
        RecipeError: for an unknown kind or figure, a recipe among the models, a suite without select data, or none to
            fit shares with.
        ExecutionError: when no model could be measured, or a loss is not finite.
        UnsupportedError: when a task cannot be differentiated.
    """
    peers, how = _checked(models, kind, strict), _matching(kind, how)
    objective = objective_of(suite, metrics)
    given, target = _with_target(peers, how)
    own_names = {c.name for c in given[: len(peers)]}
    if how is not None:
        fitting(suite, objective, how.fit)
    choosing = f"{kind} soup" if kind in (*_CHOSEN, *_MIXED) else None
    with Judge.of(suite, cache, device, tell, choosing) as judge:
        own = judge.chosen(given, objective.within(suite), "select")
        ranking = ranked({c.name: objective.score(own, c.name) for c in given})
        if not ranking:
            raise ExecutionError(Problem("no model could be measured", fix=own.failed[0].error))
        by_name = {c.name: c for c in given}
        if how is None:
            pot = _plain(kind, by_name, objective, judge, ranking, strict)
        else:
            pot = _mixed([by_name[name] for name, _ in ranking], own_names, target, how, objective, judge)
        rows = _rows(given, [name for name, _ in ranking], pot, kind)
        beside = _ensembles(ensembles, pot.members, rows)
        select = judge.chosen(rows, suite.for_choosing(), "select", beside)
        report = judge.report(rows, beside)
    names = tuple(row.name for row in rows[: len(given)])
    name = rows[-1].name
    return Soup(kind, strict, objective, pot.steps, names, pot.members, name, pot.recipe, select, report, pot.mixture)


@dataclass(frozen=True)
class _Made:
    """What is in a soup, how it is made, and how that was found; see :class:`Soup`."""

    members: tuple[str, ...]
    recipe: Recipe
    steps: tuple[Step, ...] = ()
    mixture: Learned | Cocktail | None = None


def _plain(
    kind: str,
    given: Mapping[str, Candidate],
    objective: Objective,
    judge: Judge,
    ranking: Sequence[tuple[str, float]],
    strict: bool,
) -> _Made:
    """A mean of models, all of which have the same share."""
    if kind not in _CHOSEN:
        return _Made(tuple(given), average_of([*given.values()]))
    steps = _Pot(given, objective, judge).greedy(ranking, strict)
    members = tuple(step.name for step in steps if step.kept)
    return _Made(members, average_of([given[member] for member in members]), steps)


def _mixed(
    sound: Sequence[Candidate],
    peers: AbstractSet[str],
    target: str | None,
    how: Learning | Mixing,
    objective: Objective,
    judge: Judge,
) -> _Made:
    """A weighted mean; ``sound`` are the models that could be measured, the best first."""
    if isinstance(how, Learning):
        recipe, learned = learn(sound, objective, judge, how)
        return _Made(learned.models, recipe, mixture=learned)
    if target is not None and target not in {c.name for c in sound}:
        raise ExecutionError(Problem(f"the target {target} could not be measured"))
    recipe, cocktail = mix(sound, target, [c.name for c in sound if c.name in peers], objective, judge, how)
    return _Made(cocktail.models, recipe, mixture=cocktail)


def _matching(kind: str, how: Learning | Mixing | None) -> Learning | Mixing | None:
    """How shares are found, for the kinds that have some.

    Raises:
        RecipeError: when ``how`` is for another kind.
    """
    wanted = {"learned": Learning, "cocktail": Mixing}.get(kind)
    if how is None:
        return None if wanted is None else wanted()
    if wanted is None or not isinstance(how, wanted):
        fix = "Learning(…) for the kind learned, Mixing(…) for cocktail, nothing for others"
        raise RecipeError(Problem(f"how is not for a soup of the kind {kind}: {how}", fix=fix))
    return how


def _with_target(peers: Sequence[Candidate], how: Learning | Mixing | None) -> tuple[list[Candidate], str | None]:
    """The models with the target of a cocktail, where it is none of them, and its name."""
    if not isinstance(how, Mixing) or how.target is None:
        return list(peers), None
    stored_model(how.target)
    same = next((c.name for c in peers if _place(c) == _place(how.target)), None)
    if same is not None:
        return list(peers), same
    given = named([*peers, how.target])
    return given, given[-1].name


def _checked(models: Sequence[Candidate], kind: str, strict: bool) -> list[Candidate]:
    """``models`` with names that differ."""
    if kind not in KINDS:
        raise RecipeError(Problem(f"unknown kind of soup {kind!r}", fix=f"one of {', '.join(KINDS)}"))
    if strict and kind != "greedy":
        raise RecipeError(Problem(f"strict has no meaning for a soup of the kind {kind}", fix="leave it out"))
    if not models:
        raise RecipeError(Problem("a soup needs models"))
    for one in models:
        stored_model(one)
    places = [_place(one) for one in models]
    twice = next((one for i, one in enumerate(models) if places[i] in places[:i]), None)
    if twice is not None:
        raise RecipeError(Problem(f"{twice.reference} is given twice", fix="a soup has a model once: leave one out"))
    return named(models)


def _place(one: Candidate) -> str | int:
    """What tells models apart: the folder or file, however it is written; what is no path, as it is written."""
    if not one.recipe and isinstance(one.what, Leaf) and one.what.checkpoint is None:
        return os.path.realpath(one.reference) if os.path.exists(one.reference) else one.reference  # noqa: PTH110
    return one.reference if isinstance(one.what, Adapted) else id(one.what)


class _Pot:
    """Averages of models, each scored once; the models' sum is kept, so that one more costs one addition."""

    def __init__(self, given: Mapping[str, Candidate], objective: Objective, judge: Judge) -> None:
        self._given, self._objective, self._judge = given, objective, judge
        self._suite = objective.within(judge.suite)
        self._running: RunningAverage | None = None
        self._alike = True
        self._errors: dict[str, str] = {}

    def greedy(self, ranking: Sequence[tuple[str, float]], strict: bool) -> tuple[Step, ...]:
        """What is done with each model."""
        steps = greedy(ranking, self.score, kept=self.keep, strict=strict)
        return tuple(replace(step, error=self._errors.get(step.name)) for step in steps)

    def score(self, members: tuple[str, ...]) -> float:
        """Of the average of ``members``, of which all but the last were kept."""
        name = members[-1]
        try:
            one = self._average([self._given[member] for member in members])
        except StockpotError as error:
            self._errors[name] = told(error)
            return -math.inf
        result = self._judge.chosen([one], self._suite, "select")
        for cell in result.failed:
            self._errors[name] = cell.error or ""
        return self._objective.score(result, one.name)

    def keep(self) -> None:
        """The model that was just tried stays."""
        if self._running is not None:
            self._running.keep()

    def _average(self, members: Sequence[Candidate]) -> Candidate:
        first, limits = members[0], members[0].limits
        label = f"average of {len(members)}"
        merge = Candidate(label, average_of(members), label, limits)
        self._alike = self._alike and _layout(merge) == _layout(first)
        if not self._alike:  # such as a tensor that only some of the models have: no plain mean of arrays
            self._running = None
            return merge
        if self._running is None:
            self._running = RunningAverage(first.opened())
        return Candidate(label, self._running.tried(members[-1].opened()), label, limits)


def _layout(one: Candidate) -> dict[str, tuple[Any, ...]]:
    return {step.name: (step.dtype, step.shape) for step in one.plan.steps}


def _rows(given: Sequence[Candidate], ranking: Sequence[str], pot: _Made, kind: str) -> list[Candidate]:
    """The models, the best first and those that failed last; the uniform soup; the soup."""
    by_name = {c.name: c for c in given}
    models = [by_name[name] for name in dict.fromkeys((*ranking, *by_name))]
    names = set(by_name)
    soups = [(f"{kind} soup", pot.recipe, by_name[pot.members[0]])]
    if set(pot.members) != names or pot.mixture is not None:
        soups.insert(0, ("uniform soup", average_of(given), given[0]))
    for name, recipe, first in soups:
        label = unused(name, names)
        models.append(Candidate(label, recipe, label, first.limits))
        names.add(label)
    return models


def _ensembles(of: Sequence[Average], members: tuple[str, ...], rows: Sequence[Candidate]) -> list[Ensemble]:
    names = {row.name for row in rows}
    labels = {one: f"ensemble of {len(members)}" + (" (logits)" if one == "logits" else "") for one in of}
    return [Ensemble(unused(label, names), members, one) for one, label in labels.items()]


def unused(name: str, names: AbstractSet[str]) -> str:
    """``name``, marked until no other is called so."""
    while name in names:
        name += "'"
    return name

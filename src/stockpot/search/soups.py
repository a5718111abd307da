"""Model soups: averages of fine-tunes of one start, chosen on held-out data."""

from __future__ import annotations

import math
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
from stockpot.recipe.model import Recipe
from stockpot.search.average import RunningAverage
from stockpot.search.judge import Judge, Tell
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
    }
)
"""Kind → what it is."""

_CHOSEN = ("greedy", "diwa")


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

    @property
    def failed(self) -> bool:
        """Whether a model, a soup, an ensemble or an average that was tried could not be measured."""
        cells = self.select.failed + (() if self.report is None else self.report.failed)
        return bool(cells) or any(step.error is not None for step in self.steps)

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
        }


def soup(
    models: Sequence[Candidate],
    suite: Suite,
    *,
    kind: str = "greedy",
    strict: bool = False,
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
        metrics: TASK.METRIC that chooses, or several for their mean; see :func:`objective_of`.
        ensembles: What output ensembles of the soup's members average, for the rows that they get.
        cache: Where predictions are kept; None forgets them in the end.
        device, tell: As for :func:`stockpot.evaluate.evaluate`.

    Raises:
        RecipeError: for an unknown kind or figure, a recipe among the models, or a suite without select data.
        ExecutionError: when no model could be measured.
    """
    given, objective = _checked(models, kind, strict), objective_of(suite, metrics)
    choosing = f"{kind} soup" if kind in _CHOSEN else None
    with Judge.of(suite, cache, device, tell, choosing) as judge:
        own = judge.chosen(given, objective.within(suite), "select")
        ranking = ranked({c.name: objective.score(own, c.name) for c in given})
        if not ranking:
            raise ExecutionError(Problem("no model could be measured", fix=own.failed[0].error))
        steps: tuple[Step, ...] = ()
        members = tuple(c.name for c in given)
        if kind in _CHOSEN:
            steps = _Pot({c.name: c for c in given}, objective, judge).greedy(ranking, strict)
            members = tuple(step.name for step in steps if step.kept)
        rows = _rows(given, [name for name, _ in ranking], members, kind)
        beside = _ensembles(ensembles, members, rows)
        select = judge.chosen(rows, suite.for_choosing(), "select", beside)
        report = judge.report(rows, beside)
    recipe = rows[-1].what
    assert isinstance(recipe, Recipe)
    names = tuple(row.name for row in rows[: len(given)])
    return Soup(kind, strict, objective, steps, names, members, rows[-1].name, recipe, select, report)


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
    return named(models)


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


def _rows(given: Sequence[Candidate], ranking: Sequence[str], members: Sequence[str], kind: str) -> list[Candidate]:
    """The models, the best first and those that failed last; the uniform soup; the soup."""
    by_name = {c.name: c for c in given}
    models = [by_name[name] for name in dict.fromkeys((*ranking, *by_name))]
    names = set(by_name)
    soups = [("uniform soup", tuple(by_name))] if set(members) != names else []
    soups.append((f"{kind} soup", tuple(members)))
    for name, own in soups:
        recipe = average_of([by_name[member] for member in own])
        label = unused(name, names)
        models.append(Candidate(label, recipe, label, by_name[own[0]].limits))
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

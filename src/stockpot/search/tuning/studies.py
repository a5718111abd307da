"""The studies of one search: one number for all coefficients, random search, and the search itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from stockpot.errors import ExecutionError, Problem, StockpotError
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.examples import digest
from stockpot.evaluate.identity import content_hash, model_hash
from stockpot.evaluate.suite import Suite
from stockpot.execute.versions import versions, versions_of
from stockpot.planning.build import open_all
from stockpot.planning.inputs import Inputs
from stockpot.search.judge import Judge
from stockpot.search.spaces.dimensions import Value
from stockpot.search.spaces.space import Space
from stockpot.search.tuning.bench import Bench, hashes_of
from stockpot.search.tuning.checks import Asked
from stockpot.search.tuning.rounds import TellTrial, carry_out
from stockpot.search.tuning.rows import every_expression
from stockpot.search.tuning.samplers import Keyed, grid, sampler_of
from stockpot.search.tuning.study import Shelf
from stockpot.search.tuning.trials import Trial, commonest
from stockpot.search.tuning.workers import crew_of

__all__ = ["Counts", "Made", "Studies", "StudyName", "Workers", "places"]

StudyName: TypeAlias = Literal["shared", "random", "search"]
Made: TypeAlias = Mapping[StudyName, tuple[Trial, ...]]
"""Study → its trials."""


@dataclass(frozen=True)
class Counts:
    """How many trials: of the search, of random search, of one number for all."""

    search: int
    random: int
    shared: int


@dataclass(frozen=True)
class Workers:
    """What evaluates.

    Args:
        jobs: Processes; 0 for this one.
        loader: Loads the suite in them, where it cannot be sent.
        seconds: A trial in a process that takes longer has failed; None waits.
    """

    jobs: int
    loader: Callable[[], Suite] | None
    seconds: float | None = None


@dataclass(frozen=True)
class _Plan:
    """One study that is to be carried out."""

    name: StudyName
    label: str
    sampler: Keyed | Sequence[Mapping[str, Value]]
    count: int
    facts: Mapping[str, Any]
    stops: int
    first: Mapping[str, Value] | None = None


@dataclass(frozen=True)
class Studies:
    """What is searched, and how.

    Args:
        space: The recipe with holes.
        suite: The tasks.
        asked: What chooses, the sampler, the data.
        shares: Of the data, after which a trial may be stopped.
        seed: Of the samplers.
        limits: Further arguments of :func:`stockpot.plan`.
        device: Where torch runs models.
        name: Of the recipe.
        grid_points: Of the grid: values of a range without a step.
    """

    space: Space
    suite: Suite
    asked: Asked
    shares: tuple[float, ...]
    seed: int
    limits: Mapping[str, Any]
    device: str | None
    name: str
    grid_points: int

    def facts(self, cache: Cache) -> dict[str, Any]:
        """What figures depend on, as JSON data.

        Raises:
            StockpotError: when the first guess cannot be planned, as without a model.
        """
        first = Candidate("start", self.space.recipe(self.space.start()), "start", self.limits)
        return {
            "recipe": digest(self.space.text).hex(),
            "models": self._models(first, cache),
            "methods and small files": model_hash(first.plan, cache),
            "data": hashes_of(self.suite, self.asked.objectives, self.asked.role),
            "role": self.asked.role,
            "metrics": [str(one) for one in self.asked.objectives],
            "seed": self.seed,
            "versions": {**versions(), **versions_of("optuna", "cmaes")},
        }

    def _models(self, first: Candidate, cache: Cache) -> list[str]:
        """Hashes of all models that a trial may read, those that only a choice names among them."""
        found = {content_hash(source, cache) for source in first.plan.sources.values()}
        inputs = Inputs()
        for expression in every_expression(self.space):
            with contextlib.suppress(StockpotError):  # a trial with that choice fails, and tells why
                found |= {content_hash(source, cache) for source in open_all(expression, inputs)[1].values()}
        return sorted(found)

    def noted(self, judge: Judge) -> None:
        """Note that the data chooses, before it does."""
        needed = {task for one in self.asked.objectives for task, _ in one.parts}
        for task in self.suite.tasks:
            if task.name in needed:
                judge.cache.choose(task.content(self.asked.role), judge.choosing or "")

    def carried_out(
        self, shelf: Shelf, facts: Mapping[str, Any], counts: Counts, workers: Workers, tell: TellTrial | None
    ) -> Made:
        """The trials of each study.

        Raises:
            ExecutionError: when all of the search failed.
        """
        threads = max(1, (self.limits.get("threads") or _cores()) // max(1, workers.jobs))
        made: dict[StudyName, tuple[Trial, ...]] = {"shared": (), "random": ()}
        with crew_of(self._bench(facts["data"], workers, threads), workers.jobs, threads, workers.seconds) as crew:
            for own in self._plans(counts, parallel=workers.jobs > 1):
                study = shelf.study(
                    own.label,
                    self.space.dimensions,
                    own.sampler,
                    self.asked.objectives,
                    {**facts, **own.facts},
                    own.first,
                )
                made[own.name] = carry_out(
                    study, crew, self.asked.objectives, trials=own.count, stops=own.stops, tell=tell
                )
                if own.name == "search":
                    _check_search(made["search"])
        return made

    def combinations(self) -> list[dict[str, Value]]:
        """All points of the grid, in the order in which they are tried."""
        return grid(self.space.dimensions, self.grid_points, self.seed)

    def _plans(self, counts: Counts, *, parallel: bool) -> Iterator[_Plan]:
        """In the order in which they are carried out: what is stopped early has the search, not what it should beat."""
        start, name = self.space.start(), self.asked.sampler
        rungs, stops = {"rungs": list(self.shares)}, len(self.shares) - 1
        if counts.shared and any(one.kind != "choice" for one in self.space.dimensions):
            shared = [self.space.shared(place) for place in places(counts.shared)]
            yield _Plan("shared", f"shared {counts.shared}", shared, counts.shared, rungs, 0)
        facts: dict[str, Any] = {**rungs, "sampler": name}
        if name == "grid":
            facts |= {"grid points": self.grid_points}
            yield _Plan("search", "search", self.combinations(), counts.search, facts, stops)
        else:
            sampler = sampler_of(name, self.seed, start, parallel=parallel)
            first = start if name != "random" else None
            yield _Plan("search", "search", sampler, counts.search, facts, stops, first)
        if counts.random and name != "random":
            drawn = sampler_of("random", self.seed, start)
            yield _Plan("random", "random", drawn, counts.random, rungs, stops)

    def _bench(self, hashes: Mapping[str, str], workers: Workers, threads: int) -> Bench:
        """What evaluates; processes share threads and memory."""
        limits, suite = dict(self.limits), self.suite.for_choosing()
        if workers.jobs:
            limits["threads"] = threads
        if workers.jobs and "memory" in limits:
            limits["memory"] //= workers.jobs
        load = workers.loader if workers.jobs else None
        return Bench(
            space=self.space,
            suite=suite if load is None else load,
            hashes=hashes,
            role=self.asked.role,
            objectives=self.asked.objectives,
            shares=self.shares,
            seed=self.seed,
            device=self.device,
            limits=limits,
        )


def _check_search(trials: tuple[Trial, ...]) -> None:
    if all(trial.figures is None for trial in trials):
        raise ExecutionError(Problem(f"all {len(trials)} trials failed, most often so: {commonest(trials)}"))


def places(points: int) -> list[float]:
    """Evenly from 0 to 1; one alone is in the middle.

    >>> places(5), places(1)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.5])
    """
    return [0.5] if points == 1 else [round(i / (points - 1), 12) for i in range(points)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""The studies of one search: one number for all dimensions, random search, and the search itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.examples import digest
from stockpot.evaluate.identity import content_hash
from stockpot.evaluate.suite import Suite
from stockpot.execute.versions import versions, versions_of
from stockpot.search.judge import Judge
from stockpot.search.tuning.bench import Bench, hashes_of
from stockpot.search.tuning.checks import Asked
from stockpot.search.tuning.rounds import TellTrial, carry_out
from stockpot.search.tuning.samplers import Keyed, grid, sampler_of
from stockpot.search.tuning.study import Shelf
from stockpot.search.tuning.trials import Trial, commonest

if TYPE_CHECKING:
    from stockpot.search.tuning.space import Space, Value

__all__ = ["Counts", "Studies", "Workers", "places"]

StudyName: TypeAlias = Literal["shared", "random", "search"]
Made: TypeAlias = Mapping[StudyName, tuple[Trial, ...]]


@dataclass(frozen=True)
class Counts:
    """How many trials: of the search, of random search, of one number for all; and points of the grid's ranges."""

    search: int
    random: int
    shared: int
    grid: int


@dataclass(frozen=True)
class Workers:
    """What evaluates.

    Args:
        jobs: Processes; 0 for this one.
        loader: Loads the suite in them, where it cannot be sent.
    """

    jobs: int
    loader: Callable[[], Suite] | None


@dataclass(frozen=True)
class _Plan:
    """One study that is to be carried out."""

    name: StudyName
    label: str
    sampler: Keyed | Sequence[Mapping[str, Value]]
    count: int
    facts: Mapping[str, Any]
    shares: tuple[float, ...]
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
    """

    space: Space
    suite: Suite
    asked: Asked
    shares: tuple[float, ...]
    seed: int
    limits: Mapping[str, Any]
    device: str | None
    name: str

    def facts(self, cache: Cache) -> dict[str, Any]:
        """What figures depend on, as JSON data.

        Raises:
            StockpotError: when the first guess cannot be planned, as without a model.
        """
        first = Candidate("start", self.space.recipe(self.space.start()), "start", self.limits)
        return {
            "recipe": digest(self.space.text).hex(),
            "models": {label: content_hash(source, cache) for label, source in first.plan.sources.items()},
            "data": hashes_of(self.suite, self.asked.objectives, self.asked.role),
            "role": self.asked.role,
            "metrics": [str(one) for one in self.asked.objectives],
            "seed": self.seed,
            "versions": {**versions(), **versions_of("optuna", "cmaes")},
        }

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
        objectives = self.asked.objectives
        for own in self._plans(counts, parallel=workers.jobs > 1):
            bench = self._bench(facts["data"], own.shares, workers, threads)
            study = shelf.study(
                own.label, self.space.dimensions, own.sampler, objectives, {**facts, **own.facts}, own.first
            )
            made[own.name] = carry_out(
                study,
                bench,
                objectives,
                trials=own.count,
                shares=len(own.shares),
                jobs=workers.jobs,
                threads=threads,
                tell=tell,
            )
        if all(trial.figures is None for trial in made["search"]):
            why = commonest(made["search"])
            raise ExecutionError(Problem(f"all {len(made['search'])} trials failed, most often so: {why}"))
        return made

    def _plans(self, counts: Counts, *, parallel: bool) -> Iterator[_Plan]:
        """In the order in which they are carried out."""
        start, name, rungs = self.space.start(), self.asked.sampler, {"rungs": list(self.shares)}
        if counts.shared and any(one.kind != "choice" for one in self.space.dimensions):
            shared = [self.space.shared(place) for place in places(counts.shared)]
            yield _Plan("shared", f"shared {counts.shared}", shared, counts.shared, {}, (1.0,))
        if counts.random and name != "random":
            drawn = sampler_of("random", self.seed, start)
            yield _Plan("random", "random", drawn, counts.random, rungs, self.shares)
        facts = {**rungs, "sampler": name, **({"grid points": counts.grid} if name == "grid" else {})}
        if name == "grid":
            points = grid(self.space.dimensions, counts.grid, self.seed)
            yield _Plan("search", "search", points, counts.search, facts, self.shares)
        else:
            sampler = sampler_of(name, self.seed, start, parallel=parallel)
            first = start if name != "random" else None
            yield _Plan("search", "search", sampler, counts.search, facts, self.shares, first)

    def _bench(self, hashes: Mapping[str, str], shares: tuple[float, ...], workers: Workers, threads: int) -> Bench:
        loaded = workers.loader is None or not workers.jobs
        limits = dict(self.limits)
        if workers.jobs:
            limits["threads"] = threads
        if workers.jobs and "memory" in limits:
            limits["memory"] //= workers.jobs
        made = Bench(
            self.space, self.suite.for_choosing(), hashes, self.asked.role, self.asked.objectives, shares, self.seed
        )
        suite = made.suite if loaded or workers.loader is None else workers.loader
        return replace(made, suite=suite, device=self.device, limits=limits)


def places(points: int) -> list[float]:
    """Evenly from 0 to 1; one alone is in the middle.

    >>> places(5), places(1)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.5])
    """
    return [0.5] if points == 1 else [round(i / (points - 1), 12) for i in range(points)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

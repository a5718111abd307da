"""What evaluates trials, as it is sent to processes: a recipe with holes, data to choose with, objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from stockpot.errors import PlanError, Problem
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.run import task_hash
from stockpot.evaluate.suite import Suite
from stockpot.planning.inputs import Inputs
from stockpot.search.objective import Objective
from stockpot.search.spaces.dimensions import Value
from stockpot.search.spaces.space import Space
from stockpot.search.tuning.rungs import Rungs
from stockpot.search.tuning.trials import Figures

__all__ = ["Bench", "hashes_of"]


@dataclass(frozen=True)
class Bench:
    """Makes the evaluator of a search; see :class:`stockpot.search.tuning.rungs.Rungs`.

    Args:
        space: The recipe with holes.
        suite: The tasks, or what loads them where they cannot be sent to another process.
        hashes: Task → hash of task, metrics and data: what is loaded later must be the same.
        role: Of the data.
        objectives: What is measured.
        shares: Cumulative shares of the data.
        seed: Which examples come first.
        device: Where torch runs models.
        limits: Further arguments of :func:`stockpot.plan`.
    """

    space: Space
    suite: Suite | Callable[[], Suite]
    hashes: Mapping[str, str]
    role: str
    objectives: tuple[Objective, ...]
    shares: tuple[float, ...] = (1.0,)
    seed: int = 0
    device: str | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def __call__(self) -> Iterator[_Evaluator]:
        """What evaluates, in this process."""
        suite = (self.suite if isinstance(self.suite, Suite) else self.suite()).for_choosing()
        if hashes_of(suite, self.objectives, self.role) != dict(self.hashes):
            raise PlanError(Problem("the suite or its data has changed since the search began", fix="begin it again"))
        with Rungs(suite, self.role, self.objectives, self.shares, seed=self.seed, device=self.device) as rungs:
            yield _Evaluator(self, rungs)


class _Evaluator:
    """Values → figures."""

    def __init__(self, bench: Bench, rungs: Rungs) -> None:
        self._space, self._rungs = bench.space, rungs
        self._limits = {**bench.limits, "inputs": Inputs()}  # models are opened once for all trials

    def values(self, values: Mapping[str, Value]) -> Iterator[Figures]:
        """The figures after each rung."""
        recipe = self._space.recipe(values)
        yield from self._rungs.values(Candidate("trial", recipe, "trial", self._limits))


def hashes_of(suite: Suite, objectives: tuple[Objective, ...], role: str) -> dict[str, str]:
    """Task → hash of it, of the code of metrics of the user's own, and of its data, for those that objectives name."""
    names = {task for one in objectives for task, _ in one.parts}
    return {task.name: task_hash(task, role) + task.measured for task in suite.tasks if task.name in names}

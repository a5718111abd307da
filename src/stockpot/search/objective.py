"""What is chosen by: one figure, or the mean of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.protocol import Direction
from stockpot.evaluate.results import Result
from stockpot.evaluate.suite import Suite

__all__ = ["Objective", "objective_of"]


@dataclass(frozen=True)
class Objective:
    """The mean of some figures.

    Args:
        parts: (task, metric), at least one.
        better: Which is better, the same for all.
    """

    parts: tuple[tuple[str, str], ...]
    better: Direction

    def __str__(self) -> str:
        names = [f"{task}.{metric}" for task, metric in self.parts]
        return names[0] if len(names) == 1 else f"mean of {', '.join(names)}"

    def value(self, result: Result, model: str) -> float | None:
        """The mean over the parts; None when one of them failed."""
        cells = {task: result.cell(model, task) for task, _ in self.parts}
        return self.mean({(task, f.metric): f.value for task, cell in cells.items() for f in cell.figures})

    def mean(self, figures: Mapping[tuple[str, str], float]) -> float | None:
        """The mean of those of ``figures``, by (task, metric), that are the parts; None when one is missing."""
        if any(part not in figures for part in self.parts):
            return None
        return sum(figures[part] for part in self.parts) / len(self.parts)

    def score(self, result: Result, model: str) -> float:
        """:meth:`value` turned so that more is better; -inf when a part failed."""
        value = self.value(result, model)
        if value is None:
            return -math.inf
        return value if self.better == "higher" else -value

    def within(self, suite: Suite) -> Suite:
        """``suite`` with the tasks that are needed, and no data that figures are reported on."""
        needed = {task for task, _ in self.parts}
        chosen = suite.for_choosing()
        return replace(chosen, tasks=tuple(t for t in chosen.tasks if t.name in needed))


def objective_of(suite: Suite, wanted: Sequence[str] = (), *, split: str = "select") -> Objective:
    """The objective that ``wanted`` (TASK.METRIC, …) names; none is the ranking metric of all tasks, where it is one.

    Args:
        split: The role of the data that figures are taken from; only tasks that have it count.

    Raises:
        RecipeError: for an unknown figure, figures of both directions, or when none is named and tasks rank by several.
    """
    tasks = suite.having(split)
    known = {f"{t.name}.{m.name}": (t.name, m) for t in tasks for m in t.task.metrics}
    unknown = [name for name in wanted if name not in known]
    fix = f"--metric TASK.METRIC, with {split} data: {', '.join(known)}"
    if unknown:
        raise RecipeError(Problem(f"there is no figure {unknown[0]!r}", fix=fix))
    parts = [known[name] for name in dict.fromkeys(wanted)] or [(t.name, t.task.metrics[0]) for t in tasks]
    if not wanted and len({metric.name for _, metric in parts}) > 1:
        ranking = ", ".join(f"{task} by {metric.name}" for task, metric in parts)
        raise RecipeError(Problem(f"which figure chooses? The tasks rank by several: {ranking}", fix=fix))
    if len({metric.better for _, metric in parts}) > 1:
        raise RecipeError(Problem("figures of which some are better higher, others lower, have no mean", fix=fix))
    return Objective(tuple((task, metric.name) for task, metric in parts), parts[0][1].better)

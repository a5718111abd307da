"""What an evaluation finds, as plain values; the table, the page and the JSON are made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from stockpot.evaluate.protocol import Direction
from stockpot.evaluate.why import Triple

__all__ = ["Cell", "Figure", "ModelRow", "Result"]


@dataclass(frozen=True)
class Figure:
    """One metric of one model on one task.

    Args:
        metric: Its name; ``PART/name`` for a part of the task, as a member of a group is.
        value: The figure over all examples.
        low, high: Its bootstrap interval.
        difference: To the first model's figure; None for the first, and where the two have other examples.
        difference_low, difference_high: Interval of the difference, examples drawn in pairs.
        retention: Share of the reference that is kept: value / reference, or reference / value where lower is better;
            None where what is divided by is not positive, or the other is negative.
        part: The part of the task that it is of; empty for the whole.
    """

    metric: str
    better: Direction
    value: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    retention: float | None = None
    part: str = ""

    @property
    def drawn(self) -> tuple[float, float]:
        """The interval; the figure itself where it has none, as when no resample has a figure."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return (self.low, self.high) if known else (self.value, self.value)


@dataclass(frozen=True)
class Cell:
    """One model on one task.

    Args:
        figures: One for each metric, the ranking one first; empty when it failed, and of an ensemble on a task without
            probabilities.
        examples: How many.
        error: Why it failed.
        seconds: What predicting took; 0 where predictions were known.
        known: Whether they were.
    """

    model: str
    task: str
    figures: tuple[Figure, ...] = ()
    examples: int = 0
    error: str | None = None
    seconds: float = 0.0
    known: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the task that have figures of their own, in order."""
        return tuple(dict.fromkeys(figure.part for figure in self.figures if figure.part))

    def of(self, part: str = "") -> Cell:
        """The same of one part of the task, metrics by the names that they have for the whole; else of the whole."""
        own = (figure for figure in self.figures if figure.part == part)
        start = f"{part}/" if part else ""
        return replace(self, figures=tuple(replace(f, metric=f.metric.removeprefix(start), part="") for f in own))


@dataclass(frozen=True)
class ModelRow:
    """A model and its summary over tasks.

    Args:
        name: As tables call it.
        reference: As it was written.
        recipe: Text of its recipe; empty for a stored model.
        hash: Of what it is computed from; empty when it could not be planned.
        seconds: What merging (or reading) took; None when nothing was computed, as for ensembles.
        retention: Mean over tasks of the ranking metrics' retention; None when a task failed or has none.
        worst: (task, retention) of the least.
    """

    name: str
    reference: str
    recipe: str = ""
    hash: str = ""
    seconds: float | None = None
    retention: float | None = None
    worst: tuple[str, float] | None = None


@dataclass(frozen=True)
class Result:
    """An evaluation.

    Args:
        suite: Its name.
        split: The role of the data.
        reference: The model that retention is relative to; None for the best of each task.
        marks: Task → why its figures are no unbiased report: the data served to choose.
        triples: Base, fine-tuned and merged model compared example by example, where three or more models were given.
        skipped: Tasks that have no data for ``split``.
        level, resamples, seed: Of the bootstrap.
    """

    suite: str
    split: str
    models: tuple[ModelRow, ...]
    cells: tuple[Cell, ...]
    reference: str | None = None
    marks: Mapping[str, str] | None = None
    triples: tuple[Triple, ...] = ()
    skipped: tuple[str, ...] = ()
    level: float = 0.95
    resamples: int = 1000
    seed: int = 0

    @cached_property
    def _cells(self) -> dict[tuple[str, str], Cell]:
        return {(cell.model, cell.task): cell for cell in self.cells}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks in order."""
        return tuple(dict.fromkeys(cell.task for cell in self.cells))

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells without figures."""
        return tuple(cell for cell in self.cells if cell.error is not None)

    def cell(self, model: str, task: str) -> Cell:
        """The cell of a model and a task, by name; a model also as it was written, where one alone was written so.

        Raises:
            KeyError: when there is no such cell; tells the names.
        """
        found = self._cells.get((model, task))
        if found is None:
            written = [row.name for row in self.models if row.reference == model]
            found = self._cells.get((written[0], task)) if len(written) == 1 else None
        if found is None:
            names = ", ".join(row.name for row in self.models)
            raise KeyError(f"no model {model!r} on a task {task!r}; models: {names}; tasks: {', '.join(self.tasks)}")
        return found

    def score(self, model: str, task: str) -> float:
        """The ranking figure, turned so that more is better; -inf for a cell that failed: what searchers maximise."""
        cell = self.cell(model, task)
        if not cell.figures:
            return float("-inf")
        first = cell.figures[0]
        return first.value if first.better == "higher" else -first.value

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return {"format": 1, **asdict(self)}

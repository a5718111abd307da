"""What a search finds, as plain values; the lines, the page and the JSON are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stockpot.evaluate.results import Result
from stockpot.recipe.model import Recipe
from stockpot.search.objective import Objective
from stockpot.search.spaces.dimensions import Dimension, Value
from stockpot.search.tuning.rows import Kind
from stockpot.search.tuning.trials import Trial

__all__ = ["ROLES", "Search", "Told", "Values"]

ROLES = ("tune", "select", "report")

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Told:
    """What is told of the best model, the best single number, random search, or the search.

    Args:
        kind: Which of them; ``front`` for further points of the front.
        name: As tables call it.
        values: Dimension → value; None for a model.
        trial: Number of the trial in its study; None for a model.
        figures: Role → the figure of each objective, None where it is missing; roles that were not measured are absent.
    """

    kind: Kind | str
    name: str
    values: Mapping[str, Value] | None
    trial: int | None
    figures: Mapping[str, Values]

    def gap(self, role: str, objectives: tuple[Objective, ...]) -> Values:
        """How much worse each figure is on report data than on those of ``role``; negative where it is better."""
        before, after = self.figures.get(role), self.figures.get("report")
        if before is None or after is None:
            return tuple(None for _ in objectives)
        return tuple(
            None if a is None or b is None else (a - b if one.better == "higher" else b - a)
            for one, a, b in zip(objectives, before, after, strict=True)
        )


@dataclass(frozen=True)
class Search:
    """A search.

    Args:
        name: Of the recipe.
        text: The recipe with holes, as written.
        dimensions: What was searched.
        objectives: What chose; several make a front.
        sampler: One of :data:`SAMPLERS`.
        seed: Its key.
        role: The data that trials were measured on: ``tune``, or ``select``.
        shares: Of that data, after which a trial could be stopped.
        trials: Of the search.
        random: Of random search; empty without it.
        shared: One number for all coefficients, from the low ends to the high ends; empty without.
        chosen: Numbers of the trials that were measured on select data.
        candidates: All that was measured on select data to choose among it, models of the recipe first.
        rows: Best single model, best single number, random search's and the search's winner, and the rest of the front.
        recipe: The winner.
        tune: The rows on the data that trials saw; None where that was select data.
        select: The rows on the data that chose among the best trials.
        report: The rows on untouched data; None when the suite has none.
        study: The file; None when nothing was kept.
        notes: Things worth telling.
    """

    name: str
    text: str
    dimensions: tuple[Dimension, ...]
    objectives: tuple[Objective, ...]
    sampler: str
    seed: int
    role: str
    shares: tuple[float, ...]
    trials: tuple[Trial, ...]
    random: tuple[Trial, ...]
    shared: tuple[Trial, ...]
    chosen: tuple[int, ...]
    candidates: Result
    rows: tuple[Told, ...]
    recipe: Recipe
    tune: Result | None
    select: Result
    report: Result | None
    study: Path | None
    notes: tuple[str, ...] = ()

    @property
    def winner(self) -> Told:
        """The row of the search."""
        return next(row for row in self.rows if row.kind == "search")

    @property
    def front(self) -> tuple[Told, ...]:
        """The points that no other dominates on select data; the winner alone with one objective."""
        return tuple(row for row in self.rows if row.kind in ("search", "front"))

    @property
    def failed_trials(self) -> tuple[Trial, ...]:
        """Of the search."""
        return tuple(trial for trial in self.trials if trial.state == "failed")

    @property
    def failed(self) -> bool:
        """Whether a model, or something in the tables, could not be measured; a trial that failed is none of it."""
        results = (self.candidates, self.tune, self.select, self.report)
        return any(result.failed for result in results if result is not None)

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return {
            "format": 1,
            **{key: getattr(self, key) for key in ("name", "sampler", "seed", "role", "shares", "chosen", "notes")},
            "objectives": [asdict(one) for one in self.objectives],
            "dimensions": [asdict(one) for one in self.dimensions],
            "space": self.text,
            "recipe": self.recipe.text,
            "study": None if self.study is None else str(self.study),
            "rows": [self._row(row) for row in self.rows],
            "front": [row.trial for row in self.front],
            **{key: [trial.as_data() for trial in getattr(self, key)] for key in ("trials", "random", "shared")},
            "candidates": self.candidates.as_data(),
            **{role: None if (own := getattr(self, role)) is None else own.as_data() for role in ROLES},
        }

    def _row(self, row: Told) -> dict[str, Any]:
        gaps = {f"gap_{role}_report": row.gap(role, self.objectives) for role in ROLES[:2]}
        return {**{key: getattr(row, key) for key in ("kind", "name", "values", "trial", "figures")}, **gaps}

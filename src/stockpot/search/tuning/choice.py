"""The end of a search: the best few are measured on select data, the best there on report data, beside baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stockpot.errors import ExecutionError, Problem
from stockpot.evaluate.results import Result
from stockpot.evaluate.suite import Suite
from stockpot.search.judge import Judge
from stockpot.search.objective import Objective
from stockpot.search.tuning.found import Search, Told, Values
from stockpot.search.tuning.rows import Kind, Row, chosen_trials, row_of, singles
from stockpot.search.tuning.studies import Made, Studies, StudyName, places
from stockpot.search.tuning.trials import best_of, front_of, scores

__all__ = ["Choice"]


class Choice:
    """Chooses among trials, and measures what is chosen.

    Args:
        studies: What was searched.
        judge: Measures.
        made: The trials.
        top: How many of the best of each study are measured on select data.
    """

    def __init__(self, studies: Studies, judge: Judge, made: Made, top: int) -> None:
        self._own, self._judge, self._made, self._top = studies, judge, made, top
        self._objectives = studies.asked.objectives

    def found(self, study: Path | None) -> Search:
        """The search, told.

        Raises:
            ExecutionError: when no trial could be measured on select data.
        """
        own, candidates = self._own, self._candidates()
        measured = self._judge.chosen([row.candidate for row in candidates], self._within(), "select")
        kept = self._kept(candidates, measured)
        rows = [row.candidate for row in kept]
        seen = own.suite.for_choosing()
        tune = self._judge.chosen(rows, seen, "tune") if own.asked.role == "tune" else None
        select, report = self._judge.chosen(rows, seen, "select"), self._judge.report(rows)
        every = {"tune": tune, "select": select, "report": report}
        results = {role: one for role, one in every.items() if one is not None}
        winner = next(row for row in kept if row.kind == "search")
        told = tuple(
            self._told(i, row, results, front=row.kind == "search" and row is not winner) for i, row in enumerate(kept)
        )
        assert winner.trial is not None
        numbers = tuple(row.trial.number for row in candidates if row.kind == "search" and row.trial is not None)
        return Search(
            name=own.name,
            text=own.space.text,
            dimensions=own.space.dimensions,
            objectives=self._objectives,
            sampler=own.asked.sampler,
            seed=own.seed,
            role=own.asked.role,
            shares=own.shares,
            trials=self._made["search"],
            random=self._made["random"],
            shared=self._made["shared"],
            chosen=numbers,
            candidates=measured,
            rows=told,
            recipe=own.space.recipe(winner.trial.values),
            tune=tune,
            select=select,
            report=report,
            study=study,
            notes=(*own.asked.notes, *self._left_out()),
        )

    def _left_out(self) -> list[str]:
        """What the budget left of the grid."""
        if self._own.asked.sampler != "grid":
            return []
        done, every = len(self._made["search"]), len(self._own.combinations())
        return [f"the grid has {every} combinations, of which {done} were tried"] if done < every else []

    def _candidates(self) -> list[Row]:
        """All that is measured on select data to choose among it."""
        space, limits, several = self._own.space, self._own.limits, len(self._objectives) > 1
        found = singles(space, limits)
        at = dict(enumerate(places(max(1, len(self._made["shared"])))))
        studies: tuple[StudyName, ...] = ("shared", "random", "search")
        for kind in studies:
            front = several and kind == "search"
            best = chosen_trials(self._made[kind], self._objectives, self._top, front=front)
            found += [row_of(space, kind, trial, limits, at.get(trial.number)) for trial in best]
        return found

    def _kept(self, candidates: Sequence[Row], result: Result) -> list[Row]:
        """The best of each kind on select data, and what else is on the front there."""
        given = [scores(self._figures(i, result), self._objectives) for i in range(len(candidates))]
        kept: list[Row] = []
        kinds: tuple[Kind, ...] = ("single", "shared", "random", "search")
        for kind in kinds:
            own = [i for i, row in enumerate(candidates) if row.kind == kind]
            order = best_of([given[i] for i in own])
            kept += [candidates[own[order[0]]]] if order else []
        if not any(row.kind == "search" for row in kept):
            why = next((cell.error for cell in result.failed), "")
            raise ExecutionError(Problem("none of the best trials could be measured on select data", fix=why))
        if len(self._objectives) > 1:
            own = [i for i, row in enumerate(candidates) if row.kind == "search"]
            front = [candidates[own[i]] for i in front_of([given[i] for i in own])]
            kept += [row for row in front if row is not kept[-1]]
        return kept

    def _within(self) -> Suite:
        """The tasks that choose."""
        parts = tuple(part for one in self._objectives for part in one.parts)
        return Objective(parts, "higher").within(self._own.suite)

    def _told(self, i: int, row: Row, results: Mapping[str, Result], *, front: bool) -> Told:
        figures = {role: self._figures(i, result) for role, result in results.items()}
        values, number = (None, None) if row.trial is None else (dict(row.trial.values), row.trial.number)
        name = results["select"].models[i].name  # as the tables call it
        return Told("front" if front else row.kind, name, values, number, figures)

    def _figures(self, i: int, result: Result) -> Values:
        """The objectives of the model in a row."""
        name, there = result.models[i].name, set(result.tasks)
        return tuple(
            one.value(result, name) if {task for task, _ in one.parts} <= there else None for one in self._objectives
        )

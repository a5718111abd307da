"""The trials of one study, carried out: in this process or in others, from where they were left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from stockpot.search.objective import Objective
from stockpot.search.tuning.halving import survives
from stockpot.search.tuning.study import Study
from stockpot.search.tuning.trials import Figures, Outcome, Trial, best_of, scores
from stockpot.search.tuning.workers import Crew

__all__ = ["Progress", "TellTrial", "best_trial", "carry_out"]


@dataclass(frozen=True)
class Progress:
    """A trial that has just ended, among its like.

    Args:
        study: Name of the study.
        trial: What ended.
        done: How many have.
        total: How many there will be.
        best: The best so far; None before the first that is complete.
        left: Seconds that the others will take, if they take as long as those of this run; None before one of them.
    """

    study: str
    trial: Trial
    done: int
    total: int
    best: Trial | None
    left: float | None


TellTrial: TypeAlias = Callable[[Progress], None]


def carry_out(
    study: Study,
    crew: Crew,
    objectives: Sequence[Objective],
    *,
    trials: int,
    stops: int = 0,
    tell: TellTrial | None = None,
) -> tuple[Trial, ...]:
    """Trials until ``trials`` have ended, those of earlier runs among them; those that were running begin again.

    Args:
        study: Where they are kept.
        crew: What evaluates.
        objectives: What figures are.
        trials: How many there shall be.
        stops: After how many rungs of data, from the first, a trial may be stopped.
        tell: Called with each trial that ends.
    """
    desk = _Desk(study, objectives, int(min(trials, study.most)), stops, tell)
    crew.run(desk)
    return tuple(study.trials)


class _Desk:
    """Hands out trials and notes what comes of them."""

    def __init__(
        self, study: Study, objectives: Sequence[Objective], total: int, stops: int, tell: TellTrial | None
    ) -> None:
        self._study, self._objectives, self._stops, self._tell = study, objectives, stops, tell
        had = study.trials
        self._total, self._begun = max(total, len(had)), len(had)
        self._running = [trial for trial in had if trial.state == "running"]
        self._ended = [trial for trial in had if trial.state != "running"]
        self._known = {_key(trial): trial for trial in self._ended if trial.state == "complete"}
        self._rungs: dict[int, list[tuple[int, float]]] = {}
        for trial in self._ended:
            self._reached(trial.number, trial.outcome.rungs)
        self._started, self._new = 0.0, 0

    def next(self) -> Trial | None:
        """Another trial whose values were not measured before; those that were end at once."""
        if self._running:
            return self._running.pop(0)
        while self._begun < self._total:
            trial = self._study.ask()
            self._begun += 1
            known = self._known.get(_key(trial))
            if known is None:
                return trial
            self.done(trial, Outcome("complete", known.outcome.rungs))
        return None

    def goes_on(self, trial: Trial, rungs: tuple[Figures, ...]) -> bool:
        """Whether a trial is good enough for more data."""
        if len(rungs) > self._stops:
            return True
        others = [score for number, score in self._rungs.get(len(rungs) - 1, []) if number != trial.number]
        (score,) = scores(rungs[-1], self._objectives)
        self._reached(trial.number, rungs)
        return survives(score, others)

    def done(self, trial: Trial, outcome: Outcome) -> None:
        """Note the end of a trial and tell of it."""
        ended = self._study.tell(trial.number, outcome)
        self._ended.append(ended)
        self._started = self._started or time.perf_counter() - outcome.seconds  # a process takes long to begin
        self._new += 1
        self._reached(trial.number, outcome.rungs)
        if ended.state == "complete":
            self._known.setdefault(_key(ended), ended)
        if self._tell is not None:
            per = (time.perf_counter() - self._started) / self._new
            best = best_trial(self._ended, self._objectives)
            done = len(self._ended)
            self._tell(Progress(self._study.name, ended, done, self._total, best, per * (self._total - done)))

    def _reached(self, number: int, rungs: tuple[Figures, ...]) -> None:
        """Note the scores of a trial at the rungs that may stop one, each once."""
        for rung, figures in enumerate(rungs[: self._stops]):
            own = self._rungs.setdefault(rung, [])
            if all(known != number for known, _ in own):
                own.append((number, scores(figures, self._objectives)[0]))


def best_trial(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """The best of those that are complete, of equal ones the first."""
    sound = [trial for trial in trials if trial.figures is not None]
    order = best_of([scores(trial.figures or (), objectives) for trial in sound])
    return sound[order[0]] if order else None


def _key(trial: Trial) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(trial.values.items()))

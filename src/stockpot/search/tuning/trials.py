"""What a trial came to, and which of several are the best, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from stockpot.search.objective import Objective
from stockpot.search.spaces.dimensions import Value

__all__ = ["Figures", "Outcome", "State", "Trial", "best_of", "commonest", "dominated", "front_of", "scores"]

State: TypeAlias = Literal["complete", "stopped", "failed", "running"]

Figures: TypeAlias = tuple[float, ...]
"""One figure for each objective."""


@dataclass(frozen=True)
class Outcome:
    """What came of evaluating one set of values.

    Args:
        state: ``complete`` on all data, ``stopped`` at an earlier rung, or ``failed``.
        rungs: The figures after each rung of data that was reached.
        error: Why it failed.
        seconds: What it took.
    """

    state: State
    rungs: tuple[Figures, ...] = ()
    error: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    Args:
        number: From 0, in the order in which they were begun.
        values: Dimension → value.
        outcome: What came of it.
    """

    number: int
    values: Mapping[str, Value]
    outcome: Outcome

    @property
    def state(self) -> State:
        """Of its outcome."""
        return self.outcome.state

    @property
    def figures(self) -> Figures | None:
        """The figures on all data; None unless it is complete."""
        return self.outcome.rungs[-1] if self.state == "complete" else None

    def as_data(self) -> dict[str, Any]:
        """Everything as JSON data."""
        told = self.outcome
        return {
            "number": self.number,
            "state": told.state,
            "values": dict(self.values),
            "figures": self.figures,
            "rungs": told.rungs,
            "error": told.error,
            "seconds": told.seconds,
        }


def scores(figures: Sequence[float | None], objectives: Sequence[Objective]) -> Figures:
    """Figures turned so that more is better; -inf where one is missing."""
    return tuple(
        -math.inf if value is None else value if one.better == "higher" else -value
        for value, one in zip(figures, objectives, strict=True)
    )


def dominated(one: Figures, other: Figures) -> bool:
    """Whether ``other`` is at least as good in all scores, and better in one.

    >>> dominated((1, 0), (1, 1)), dominated((1, 0), (0, 1)), dominated((1, 1), (1, 1))
    (True, False, False)
    """
    return other != one and all(theirs >= mine for mine, theirs in zip(one, other, strict=True))


def front_of(given: Sequence[Figures]) -> list[int]:
    """Places of the scores that no other dominates, those without a missing figure; of equal ones the first.

    >>> front_of([(0, 3), (1, 1), (2, 2), (2, 2), (float("-inf"), 9)])
    [0, 2]
    """
    sound = [i for i, one in enumerate(given) if -math.inf not in one]
    first = {given[i]: i for i in reversed(sound)}
    return sorted(i for one, i in first.items() if not any(dominated(one, other) for other in first))


def best_of(given: Sequence[Figures]) -> list[int]:
    """Places of scores, the best first, without those that miss a figure; equal ones in their order.

    With several scores: the front first, its point nearest to the ideal (the best of each score, each scaled to [0, 1]
    over the front) at the head, then the front of what is left, and so on.

    >>> best_of([(1.0,), (3.0,), (2.0,), (float("-inf"),)])
    [1, 2, 0]
    >>> best_of([(0, 3), (2, 2), (3, 0), (1, 1)])
    [1, 0, 2, 3]
    """
    left = [i for i, one in enumerate(given) if -math.inf not in one]
    if all(len(given[i]) == 1 for i in left):
        return sorted(left, key=lambda i: (-given[i][0], i))
    found: list[int] = []
    while left:
        values = [given[i] for i in left]
        first = [i for i in left if not any(dominated(given[i], other) for other in values)]
        found += sorted(first, key=lambda i: (_distance(given[i], [given[j] for j in first]), i))
        left = [i for i in left if i not in set(first)]
    return found


def _distance(one: Figures, front: Sequence[Figures]) -> float:
    """To the best of each score over a front, each scaled to [0, 1]."""
    highs, lows = [max(column) for column in zip(*front, strict=True)], [min(c) for c in zip(*front, strict=True)]
    parts = [(h - v) / (h - low) if h > low else 0.0 for v, h, low in zip(one, highs, lows, strict=True)]
    return math.hypot(*parts)


def commonest(trials: Sequence[Trial]) -> str:
    """The message that failed trials have most often; empty without any."""
    told = [trial.outcome.error or "" for trial in trials if trial.state == "failed"]
    return max(told, key=told.count, default="")

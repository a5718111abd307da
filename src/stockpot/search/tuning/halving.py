"""Which trials go on to more data: asynchronous successive halving."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["REDUCTION", "survives"]

REDUCTION = 3
"""One of so many goes on, as in the paper."""


def survives(score: float, others: Sequence[float], reduction: int = REDUCTION) -> bool:
    """Whether a trial goes on: its score at this rung is among the best ``1 / reduction`` of all so far.

    ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020, algorithm 2), where a trial that
    does not go on at once never does. At least the best goes on; equal scores do.

    Args:
        score: Of the trial, more being better.
        others: Of the trials that reached this rung before.

    >>> survives(0.5, []), survives(0.5, [0.6]), survives(0.5, [0.6, 0.4, 0.3, 0.2, 0.1])
    (True, False, True)
    """
    kept = max(1, (len(others) + 1) // reduction)
    return sum(other > score for other in others) < kept

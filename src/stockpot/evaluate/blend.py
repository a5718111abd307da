"""Many points between two models: both ends are read once and kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from stockpot.api import compute
from stockpot.api import open as opened
from stockpot.errors import PlanError, Problem
from stockpot.expression import Leaf

__all__ = ["Blend"]

Arrays = Mapping[str, npt.NDArray[Any]]


class Blend:
    """(1 - t) · start + t · end for any number t, as a merge would write it.

    >>> import numpy as np
    >>> blend = Blend({"w": np.zeros(2)}, {"w": np.ones(2)})
    >>> blend.at(0.25)["w"], blend.at(1.5)["w"]
    (array([0.25, 0.25]), array([1.5, 1.5]))

    Args:
        start, end: Name → array, equal names and shapes. A delta is the end that lies it away: base and base + delta.
        threads: Worker threads; None takes one per core.

    Raises:
        PlanError: when names or shapes differ.
    """

    def __init__(self, start: Arrays, end: Arrays, *, threads: int | None = None) -> None:
        _fit(start, end)
        self._start, self._end, self._threads = start, end, threads
        self._leaves: tuple[Leaf, Leaf] = (opened(start, name="start"), opened(end, name="end"))

    def at(self, t: float) -> Arrays:
        """The tensors at ``t``; the ends themselves, not copies, at 0 and 1."""
        if t in (0, 1):
            return self._end if t else self._start
        start, end = self._leaves
        return compute((1 - t) * start + t * end, threads=self._threads)


def _fit(start: Arrays, end: Arrays) -> None:
    shapes = [{name: array.shape for name, array in arrays.items()} for arrays in (start, end)]
    wrong = sorted(name for name in {**start, **end} if shapes[0].get(name) != shapes[1].get(name))
    if wrong:
        told = " and ".join(str(s.get(wrong[0], "absent")) for s in shapes)
        raise PlanError(Problem(f"the two ends do not fit: {told}", tensor=wrong[0]))

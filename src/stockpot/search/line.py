"""Points on a line from a model along a difference: start + λ · delta for many λ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.model import Checkpoint
from stockpot.evaluate.blend import beside_of, in_memory
from stockpot.evaluate.candidates import Candidate, candidate
from stockpot.execute.noise import normal_numbers
from stockpot.expression import Expression
from stockpot.functions import task_arithmetic

__all__ = ["Line"]

Arrays = Mapping[str, npt.NDArray[Any]]


class Line:
    """start + λ · (end - start) for any number λ, as the merge ``start + λ · Σ deltas`` would write it.

    The end is held in float64 and the difference is taken first, as merges do: (1 - λ) · start + λ · end is the same
    number but for its rounding, which may then fall to the other side.

    Args:
        start: Name → array; gives dtypes and integers.
        end: start + delta, in float64.
        beside: What lies beside the points' tensors; None for nothing.
        limits: Further arguments of :func:`stockpot.plan` for every point.
    """

    def __init__(self, start: Arrays, end: Arrays, *, beside: Checkpoint | None = None, **limits: Any) -> None:
        self._arrays, self._beside, self._limits = (start, end), beside, limits
        self._start, self._end = in_memory("start", start, beside), in_memory("end", end)

    @classmethod
    def of(cls, start: Candidate, end: Expression) -> Self:
        """From a model to ``end``, both read or merged once, block by block."""
        opened = start.opened()
        there = candidate(end, dtype="float64", **start.limits).opened()
        return cls(opened.tensors, there.tensors, beside=beside_of(opened), **start.limits)

    def randomised(self, seed: int = 0) -> Self:
        """The line from the same start along a random vector, which has the norm of the difference in each tensor.

        Its normal numbers are keyed by ``seed`` and the tensor's name: the same for any number of threads.
        """
        start, end = self._arrays
        found = {
            name: _random(name, start[name], array, seed) if array.dtype == np.float64 else array
            for name, array in end.items()
        }
        return type(self)(start, found, beside=self._beside, **self._limits)

    def candidate(self, value: float, name: str) -> Candidate:
        """The point at λ = ``value``; its arrays are made when it is opened."""
        what = self._start + value * task_arithmetic(self._end - self._start)
        return Candidate(name, what, f"start + {value!r} delta", self._limits)


_PIECE = 1 << 20
"""Elements that random numbers are drawn for at a time."""


def _random(name: str, start: npt.NDArray[Any], end: npt.NDArray[Any], seed: int) -> npt.NDArray[np.float64]:
    """start + a random vector as long as end - start."""
    found = np.empty(end.size)
    own, drawn = 0.0, 0.0
    first, last = start.reshape(-1), end.reshape(-1)
    for at in range(0, end.size, _PIECE):
        piece = slice(at, min(at + _PIECE, end.size))
        found[piece] = normal_numbers(at, piece.stop - at, name, seed, "random control")
        own += float(np.sum(np.square(last[piece] - first[piece].astype(np.float64))))
        drawn += float(np.sum(np.square(found[piece])))
    found *= math.sqrt(own / drawn) if drawn else 0.0
    found += first.astype(np.float64)
    return found.reshape(end.shape)

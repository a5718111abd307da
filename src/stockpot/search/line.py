"""Points on a line from a model along a difference: start + λ · delta for many λ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy.typing as npt

from stockpot.checkpoint.model import Checkpoint
from stockpot.evaluate.blend import beside_of, in_memory
from stockpot.evaluate.candidates import Candidate, candidate
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
        self._start, self._end = in_memory("start", start, beside), in_memory("end", end)
        self._limits = limits

    @classmethod
    def of(cls, start: Candidate, end: Expression) -> Self:
        """From a model to ``end``, both read or merged once, block by block."""
        opened = start.opened()
        there = candidate(end, dtype="float64", **start.limits).opened()
        return cls(opened.tensors, there.tensors, beside=beside_of(opened), **start.limits)

    def candidate(self, value: float, name: str) -> Candidate:
        """The point at λ = ``value``; its arrays are made when it is opened."""
        what = self._start + value * task_arithmetic(self._end - self._start)
        return Candidate(name, what, f"start + {value!r} delta", self._limits)

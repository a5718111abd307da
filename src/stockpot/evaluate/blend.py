"""Many points between two models: both ends are read once and kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy.typing as npt

from stockpot.api import compute
from stockpot.checkpoint.model import Checkpoint, from_arrays
from stockpot.errors import PlanError, Problem
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.opened import Opened
from stockpot.execute.receipt import labels_of
from stockpot.expression import Expression, Leaf
from stockpot.planning.model import Plan

__all__ = ["Blend", "beside_of", "in_memory"]

Arrays = Mapping[str, npt.NDArray[Any]]


class Blend:
    """(1 - t) · start + t · end for any number t, as a merge would write it.

    >>> import numpy as np
    >>> blend = Blend({"w": np.zeros(2)}, {"w": np.ones(2)})
    >>> blend.at(0.25)["w"], blend.at(1.5)["w"]
    (array([0.25, 0.25]), array([1.5, 1.5]))

    Args:
        start, end: Name → array, equal names and shapes. For λ times a delta the ends are base and base + delta.
        beside: What lies beside the points' tensors: a checkpoint's config and small files; None for nothing.
        threads: Worker threads; None takes one per core.

    Raises:
        PlanError: when names or shapes differ.
    """

    def __init__(
        self, start: Arrays, end: Arrays, *, beside: Checkpoint | None = None, threads: int | None = None
    ) -> None:
        _fit(start, end)
        self._ends, self._threads = (start, end), threads
        self._leaves = tuple(in_memory(name, arrays, beside) for name, arrays in (("start", start), ("end", end)))

    @classmethod
    def of(cls, start: Candidate, end: Candidate, *, threads: int | None = None) -> Self:
        """Between two models, adapters or merges, read or merged once; points have the small files of ``start``."""
        opened = start.opened()
        return cls(opened.tensors, end.opened().tensors, beside=beside_of(opened), threads=threads)

    def at(self, t: float) -> Arrays:
        """The tensors at ``t``; the ends themselves, not copies, at 0 and 1."""
        if t in (0, 1):
            return self._ends[int(t)]
        return compute(self._point(t), threads=self._threads)

    def candidate(self, t: float, name: str | None = None) -> Candidate:
        """The point at ``t`` as what :func:`evaluate` takes."""
        return Candidate(name or f"t = {t:g}", self._point(t), f"blend at {t!r}", {"threads": self._threads})

    def _point(self, t: float) -> Expression:
        start, end = self._leaves
        return (1 - t) * start + t * end


def in_memory(name: str, arrays: Arrays, beside: Checkpoint | None = None) -> Leaf:
    """A model made of arrays, with the small files and config of ``beside``; see :func:`beside_of`."""
    stored = from_arrays(name, arrays)
    return Leaf(name, stored if beside is None else replace(stored, folder=beside.folder, config=beside.config))


def beside_of(opened: Opened) -> Checkpoint:
    """The checkpoint whose small files a model has, with the model's own config."""
    return replace(_donor(opened.plan), config=opened.config)


def _donor(plan: Plan) -> Checkpoint:
    """The checkpoint whose small files a merge takes."""
    donor = None if plan.recipe is None else plan.recipe.donor
    return next(iter(plan.sources.values())) if donor is None else plan.sources[labels_of(plan)[donor.key]]


def _fit(start: Arrays, end: Arrays) -> None:
    shapes = [{name: array.shape for name, array in arrays.items()} for arrays in (start, end)]
    wrong = sorted(name for name in {**start, **end} if shapes[0].get(name) != shapes[1].get(name))
    if wrong:
        told = " and ".join(str(s.get(wrong[0], "absent")) for s in shapes)
        raise PlanError(Problem(f"the two ends do not fit: {told}", tensor=wrong[0]))

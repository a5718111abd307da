"""Weighted means of stored models, and the inner products of a gradient with each of them, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.api import plan
from stockpot.checkpoint.dtypes import dtype_named
from stockpot.evaluate.candidates import Candidate
from stockpot.execute.local import compute, stream
from stockpot.functions import linear
from stockpot.planning.model import Compute, Read, Step
from stockpot.search.recipes import stored_model

__all__ = ["Ingredients"]

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]


class Ingredients:
    """Models of one architecture, of which only headers are held: their weights are read each time.

    The mean with given shares, and which tensors have shares, is what a ``linear`` merge makes of them: integers are
    the first model's, a tied head goes by its embedding. Memory does not depend on how many models there are.

    Args:
        members: At least two; the first gives what is not averaged.

    Attributes:
        dtype: That means are computed to: ``float64`` where the result has it, else ``float32``.
        names: Of the tensors that have shares of their own, sorted.
        sizes: Their numbers of elements.

    Raises:
        PlanError: when they do not fit each other.
    """

    def __init__(self, members: Sequence[Candidate]) -> None:
        self.members = tuple(members)
        expression, limits = linear(*map(stored_model, members), weight=[1.0] * len(members)), members[0].limits
        wide = any(step.dtype.code == "F64" for step in plan(expression, **limits).steps)
        self.dtype = "float64" if wide else "float32"
        self._plan = plan(expression, dtype=self.dtype, **limits)
        self._group = {step.name: source.key[0] for step in self._plan.steps if (source := _weighted(step)) is not None}
        self.names = tuple(sorted(set(self._group.values())))
        self.sizes = {self._group[step.name]: step.elements for step in self._plan.steps if step.name in self._group}
        self._rows = {name: i for i, name in enumerate(self.names)}

    def mean(self, shares: Floats) -> Arrays:
        """The weighted mean as name → array, floats in :attr:`dtype`.

        Args:
            shares: ``(tensors, models)`` in the order of :attr:`names`.
        """
        return compute(replace(self._plan, steps=tuple(self._shared(step, shares) for step in self._plan.steps)))

    def products(self, gradients: Arrays) -> Floats:
        """The inner product of each tensor's gradient with that tensor of each model: ``(tensors, models)``.

        Sums are in float64 over fixed blocks in their order, so they do not depend on threads. A tensor without a
        gradient has products of 0.
        """
        flat = {name: gradient.reshape(-1) for name, gradient in gradients.items()}
        return np.stack([self._products(model, flat) for model in range(len(self.members))], axis=1)

    def _products(self, model: int, gradients: Arrays) -> Floats:
        found: dict[tuple[str, int], float] = {}

        def sink(step: Step, start: int, data: npt.NDArray[np.uint8]) -> None:
            assert step.dtype.numpy is not None  # it is one of floats
            values = data.view(step.dtype.numpy).astype(np.float64)
            first = start // step.dtype.itemsize
            own = gradients[step.name][first : first + len(values)].astype(np.float64)
            found[step.name, first] = float((values * own).sum())  # a BLAS product depends on its threads

        steps = tuple(_alone(s, model) for s in self._plan.steps if s.name in self._group and s.name in gradients)
        stream(replace(self._plan, steps=steps), sink)
        sums = np.zeros(len(self.names))
        for (name, _), value in sorted(found.items()):
            sums[self._rows[self._group[name]]] += value
        return sums

    def _shared(self, step: Step, shares: Floats) -> Step:
        """``step`` with the shares of its tensor."""
        source = _weighted(step)
        if source is None or source.resolved is None:
            return step
        own = tuple(map(float, shares[self._rows[source.key[0]]]))
        return replace(step, source=replace(source, resolved=replace(source.resolved, each={"weight": own})))


def _weighted(step: Step) -> Compute | None:
    """The mean that ``step`` makes; None where it copies."""
    source = step.source
    linear_one = isinstance(source, Compute) and source.method is not None and source.method.name == "linear"
    return source if linear_one and isinstance(source, Compute) else None


def _alone(step: Step, model: int) -> Step:
    """``step`` as that tensor of one model: as it is stored, or in float64 where it is computed."""
    source = _weighted(step)
    assert source is not None
    own = source.inputs[model]
    return replace(step, source=own, dtype=own.dtype if isinstance(own, Read) else dtype_named("float64"), passes=1)

"""How alike task vectors are: cosines between them, over the whole model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stockpot.errors import PlanError, Problem
from stockpot.evaluate.candidates import Candidate, named
from stockpot.execute.local import compute
from stockpot.kernels.gram import gram_rows
from stockpot.kernels.sizes import ROW
from stockpot.planning.model import Plan

__all__ = ["Cosine", "cosines"]

_BATCH = 64 << 20
"""Bytes of the base's tensors that are read at a time, if none is larger."""


@dataclass(frozen=True)
class Cosine:
    """Of the task vectors of two models.

    Args:
        models: Their names, as in tables.
        cosine: In [-1, 1]; None where one of them is zero.
    """

    models: tuple[str, str]
    cosine: float | None


def cosines(models: Sequence[Candidate]) -> tuple[Cosine, ...]:
    """Of each pair of fine-tunes of a base: ⟨a - base, b - base⟩ / (‖a - base‖ ‖b - base‖), over all float tensors.

    Sums are in float64, in a fixed order. All models are read once together, some 64 MB of each at a time, or one
    tensor where that is larger.

    Args:
        models: The base, and fine-tunes of it.

    Raises:
        PlanError: when they do not have the same tensors.
    """
    given = named(models)
    plans = [one.plan for one in given]
    _fit(plans)
    count = len(given) - 1
    total = np.zeros((count, count))
    for batch in _batches(plans[0]):
        arrays = [compute(_only(plan, batch)) for plan in plans]
        kernels = [{step.name: step.dtype.kernel for step in plan.steps} for plan in plans]
        for name in batch:
            total += _gram([own[name] for own in arrays], [codes[name] for codes in kernels])
    norms = np.sqrt(np.diagonal(total))
    names = [one.name for one in given[1:]]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return tuple(Cosine((names[i], names[j]), _cosine(total[i, j], norms[i] * norms[j])) for i, j in pairs)


def _cosine(product: float, norms: float) -> float | None:
    if norms == 0 or not math.isfinite(norms):
        return None
    return min(max(float(product / norms), -1.0), 1.0)


def _batches(plan: Plan) -> Iterator[frozenset[str]]:
    """Names of the float tensors, some at a time."""
    batch: list[str] = []
    size = 0
    for step in plan.steps:
        if not step.dtype.is_float:
            continue
        if batch and size + step.nbytes > _BATCH:
            yield frozenset(batch)
            batch, size = [], 0
        batch.append(step.name)
        size += step.nbytes
    if batch:
        yield frozenset(batch)


def _only(plan: Plan, names: frozenset[str]) -> Plan:
    return replace(plan, steps=tuple(step for step in plan.steps if step.name in names))


def _gram(arrays: Sequence[npt.NDArray[np.generic]], kernels: Sequence[int]) -> npt.NDArray[np.float64]:
    """Products of all pairs of the arrays after the first, less the first; above the diagonal and on it."""
    base, *others = (array.reshape(-1).view(np.uint8) for array in arrays)
    count, wide = len(others), max(array.itemsize for array in arrays)
    n = arrays[0].size
    raw = np.empty((count + 1, n * wide), np.uint8)
    for row, own in zip(raw, (*others, base), strict=True):
        row[: len(own)] = own
    codes = np.array([*kernels[1:], kernels[0]])
    found = np.zeros((1, count, count))
    gram_rows(raw, codes, 1, n, count, count, found, np.empty((count + 3, ROW)))
    return found.reshape(count, count)


def _fit(plans: Sequence[Plan]) -> None:
    shapes = [{step.name: step.shape for step in plan.steps} for plan in plans]
    for other in shapes[1:]:
        wrong = sorted(name for name in {**shapes[0], **other} if shapes[0].get(name) != other.get(name))
        if wrong:
            told = " and ".join(str(own.get(wrong[0], "absent")) for own in (shapes[0], other))
            raise PlanError(Problem(f"the models do not fit: {told}", tensor=wrong[0]))

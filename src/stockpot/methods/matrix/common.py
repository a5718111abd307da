"""What matrix methods share: parameters, and what other tensors get."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Floats, Parameter, Resolved
from stockpot.methods.matrix.svd import NOISE, workspace

__all__ = [
    "MATRIX",
    "WEIGHT",
    "averaged",
    "one_unit",
    "rounding",
    "scaled",
    "two_copies",
    "unit_per_model",
    "weighted",
    "weighted_sum",
]

MATRIX = Parameter(
    "matrix",
    "whether 2-D tensors are treated as matrices; false: as vectors are",
    default=True,
    kind="bool",
)
"""The parameter of every matrix method."""

WEIGHT = Parameter("weight", "factor of each task vector", default=1.0, per_model=True)


def weighted(p: Resolved) -> Floats:
    """Coefficients of the weighted sum."""
    return np.asarray(p["weight"], np.float64)


def averaged(p: Resolved) -> Floats:
    """Coefficients of the mean of the weighted task vectors."""
    return weighted(p) / p.models


def scaled(delta: Floats, weight: float) -> Floats:
    """``weight * delta``, without a copy where the weight is 1."""
    return delta if weight == 1.0 else weight * delta


def rounding(deltas: Sequence[Floats], weights: Sequence[float]) -> float:
    """Size up to which singular values of sums and differences of the task vectors are noise: these may cancel."""
    return NOISE * max(abs(w) * float(np.linalg.norm(d)) for w, d in zip(weights, deltas, strict=True))


def weighted_sum(deltas: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """The sum of w_i delta_i, in the order of the models."""
    total = weights[0] * deltas[0]
    for weight, delta in zip(weights[1:], deltas[1:], strict=True):
        total += scaled(delta, weight)
    return total


def one_unit(_p: Resolved, _shape: tuple[int, int]) -> int:
    """Units of a method of a single decomposition."""
    return 1


def unit_per_model(p: Resolved, _shape: tuple[int, int]) -> int:
    """Units of a method that decomposes a matrix of each model."""
    return p.models


def two_copies(_p: Resolved, shape: tuple[int, int]) -> int:
    """Numbers held by a method that decomposes one matrix and builds another beside it."""
    rows, columns = shape
    return workspace(rows, columns) + 2 * rows * columns

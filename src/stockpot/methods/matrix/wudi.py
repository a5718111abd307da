"""WUDI: the task vector that interferes least with the inputs that each task vector spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Matrix, Method, Parameter, Resolved, Work
from stockpot.methods.matrix.common import MATRIX, weighted
from stockpot.methods.matrix.svd import leading, rebuilt, workspace

__all__ = ["WUDI"]

_CHENG_2025 = Citation(
    "Runxi Cheng and Feng Xiong and Yongxian Wei and Wanyun Zhu and Chun Yuan",
    "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors",
    2025,
    "arXiv:2503.08099",
    "algorithm 1",
)

_DECAY = (0.9, 0.999)
_EPSILON = 1e-8
"""Adam's usual constants."""


def _solve(deltas: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    norms = [float(np.linalg.norm(delta)) for delta in deltas]
    used = [i for i, (norm, weight) in enumerate(zip(norms, p["weight"], strict=True)) if norm != 0.0 and weight > 0.0]
    factors = [np.sqrt(p["weight"][i]) / norms[i] for i in used]
    if p["solver"] == "iterative":
        return _descend(deltas, [deltas[i] for i in used], factors, p, work)
    result = _least([deltas[i] for i in used], factors) if used else np.zeros_like(deltas[0])
    work.tick()
    return result


def _least(deltas: Sequence[Floats], factors: Sequence[float]) -> Floats:
    """The minimiser of least norm.

    tau B = C in the sense of least squares, B = [f_i tau_i^T], C = [f_i tau_i tau_i^T]. With the SVD
    B^T = U S V it is C U S^-1 V: no product of the task vectors is inverted.
    """
    rows, columns = deltas[0].shape
    stack = np.empty((len(deltas), rows, columns))
    for unit, delta, factor in zip(stack, deltas, factors, strict=True):
        np.multiply(delta, factor, out=unit)
    u, s, v = leading(stack.reshape(-1, columns), min(len(deltas) * rows, columns))
    blocks = u.reshape(len(deltas), rows, -1)
    right = np.zeros((rows, len(s)))
    for delta, unit, block in zip(deltas, stack, blocks, strict=True):
        right += delta @ (unit.T @ block)
    return rebuilt((right, 1.0 / s, v))


def _descend(
    deltas: Sequence[Floats], used: Sequence[Floats], factors: Sequence[float], p: Resolved, work: Work
) -> Floats:
    """Adam from the sum of the task vectors.

    Half the gradient is sum_i (sum_j tau_j - tau_i) G_i, plus what was moved since times sum_i G_i: in this
    form it is exactly zero for a single task vector, whose rounding errors Adam would amplify.
    """
    start = np.sum(deltas, axis=0)
    slope, grams = np.zeros_like(start), np.zeros((start.shape[1],) * 2)
    for delta, factor in zip(used, factors, strict=True):
        unit = factor * delta
        slope += ((start - delta) @ unit.T) @ unit
        grams += unit.T @ unit
    moved, mean, square = (np.zeros_like(start) for _ in range(3))
    for step in range(1, int(p["steps"]) + 1):
        gradient = 2.0 * (moved @ grams + slope)
        mean += (1.0 - _DECAY[0]) * (gradient - mean)
        square += (1.0 - _DECAY[1]) * (gradient * gradient - square)
        rate = p["learning_rate"] / (1.0 - _DECAY[0] ** step)
        moved -= rate * mean / (np.sqrt(square / (1.0 - _DECAY[1] ** step)) + _EPSILON)
        work.tick()
    result: Floats = start + moved
    return result


def _otherwise(p: Resolved) -> Floats:
    weights = weighted(p)
    total = weights.sum()
    return weights / total if total > 0.0 else weights


def _units(p: Resolved, _shape: tuple[int, int]) -> int:
    return int(p["steps"]) if p["solver"] == "iterative" else 1


def _copies(p: Resolved, shape: tuple[int, int]) -> int:
    rows, columns = shape
    one, stacked = rows * columns, p.models * rows * columns
    if p["solver"] == "iterative":
        return 9 * one + 2 * columns * columns + rows * rows
    return stacked + workspace(p.models * rows, columns) + 3 * one


WUDI = Method(
    name="wudi",
    summary="Finds the task vector that interferes least with every task, from the task vectors alone.",
    formula="base + lambda * argmin_t sum_i w_i ||(t - t_i) t_i^T||^2 / ||t_i||^2,  t_i = x_i - base",
    cites=_CHENG_2025,
    family=Matrix(_solve, _otherwise, _units, _copies),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        Parameter("weight", "factor of each model's term, at least 0", default=1.0, per_model=True, low=0.0),
        Parameter(
            "solver",
            "closed: the minimum itself; iterative: some steps of Adam from the sum of the task vectors",
            default="closed",
            kind="choice",
            choices=("closed", "iterative"),
        ),
        Parameter("steps", "steps of the iterative solver", default=300, kind="int", low=0),
        Parameter("learning_rate", "step size of the iterative solver, in units of the weights", default=1e-5, low=0.0),
        MATRIX,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "The closed form is the minimum of least norm, found by a pseudo-inverse of the stacked task vectors without "
        "a ridge; singular values below 1e-10 of the largest count as zero.",
        "The authors' code takes 300 steps of Adam from the sum of the task vectors and stops on the way to the "
        "minimum; solver: iterative does the same, in float64. It uses 1e-5 for vision models and 2e-5 for language "
        "models. That solver does not reproduce copies of one model.",
        "Task vectors that are zero are left out; the authors' code divides by their norm.",
        "Tensors that are not matrices get the weighted mean of the task vectors. The authors' code leaves them, and "
        "all tensors outside attention and MLP blocks, at the base.",
    ),
)

"""RegMean: the matrix whose outputs are closest to those of every model on its own inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Base, Citation, Companion, Floats, Law, Matrix, Method, Parameter, Resolved, Work
from stockpot.methods.matrix.common import MATRIX, weighted

__all__ = ["REGMEAN"]

_JIN_2023 = Citation(
    "Xisen Jin and Xiang Ren and Daniel Preoţiuc-Pietro and Pengxiang Cheng",
    "Dataless Knowledge Fusion by Merging Weights of Language Models",
    2023,
    "arXiv:2212.09849",
    "equation 2",
)

_RIDGE = 1e-8
"""Share of the mean diagonal entry that is added to every Gram matrix."""


def _shares(p: Resolved) -> Floats:
    weights = weighted(p)
    total = weights.sum()
    return weights / total if total > 0.0 else np.full(p.models, 1.0 / p.models)


def _shrunk(gram: Floats, factor: float, ridge: float) -> Floats:
    """The Gram matrix with its off-diagonal entries times ``factor``, and a ridge."""
    result = gram * factor
    np.fill_diagonal(result, np.diagonal(gram) + ridge)
    return result


def _solve(models: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    """The mean plus (sum_i s_i (W_i - mean) G_i) (sum_i s_i G_i)^-1: copies of one model stay exact."""
    shares = _shares(p)
    grams = work.companion("gram")
    mean = models[0] + sum(s * (x - models[0]) for s, x in zip(shares, models, strict=True))
    columns = mean.shape[1]
    ridge = _RIDGE * sum(s * np.trace(g) for s, g in zip(shares, grams, strict=True)) / max(1, columns)
    ridge = ridge if ridge > 0.0 else 1.0
    left, right = np.zeros_like(mean), np.zeros((columns, columns))
    for share, x, gram in zip(shares, models, grams, strict=True):
        each = _shrunk(gram, p["off_diagonal"], ridge)
        each *= share
        left += (x - mean) @ each
        right += each
        work.tick()
    result: Floats = mean + np.linalg.solve(right, left.T).T
    work.tick()
    return result


def _units(p: Resolved, _shape: tuple[int, int]) -> int:
    return p.models + 1


def _copies(_p: Resolved, shape: tuple[int, int]) -> int:
    rows, columns = shape
    return 6 * rows * columns + 4 * columns * columns


REGMEAN = Method(
    name="regmean",
    summary="Solves for the matrix whose outputs are closest to those of every model on its own inputs.",
    formula="(sum_i w_i W_i G_i) (sum_i w_i G_i)^-1,  G_i = a X_i^T X_i + (1 - a) diag(X_i^T X_i)",
    cites=_JIN_2023,
    family=Matrix(_solve, _shares, _units, _copies),
    base=Base.NONE,
    on="weights",
    parameters=(
        Parameter("weight", "factor of each model's Gram matrix, at least 0", default=1.0, per_model=True, low=0.0),
        Parameter(
            "off_diagonal",
            "factor a of the off-diagonal entries of the Gram matrices, in [0, 1]",
            default=0.9,
            low=0.0,
            high=1.0,
        ),
        MATRIX,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.DETERMINISTIC}),
    companions=(
        Companion("gram", "Gram matrices X^T X of the inputs of each linear layer", per_model=True, gram=True),
    ),
    notes=(
        "A weight of shape (out, in) needs a Gram matrix of shape (in, in), the mean of x x^T over the inputs of its "
        "layer: the authors' code takes the mean, so that every model counts the same however much data it saw.",
        "To each Gram matrix 1e-8 of the mean diagonal entry is added, so that inputs that never occur get the plain "
        "average; the authors' code inverts the sum as it is.",
        "Tensors without a Gram matrix, such as biases, norms and embeddings, get the weighted average, as in the "
        "authors' code.",
        "The authors use 0.9 for off_diagonal, and 0.1 for DeBERTa and T5.",
    ),
)

"""CART: low-rank differences to the average of the models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Matrix, Method, Parameter, Resolved, Work
from stockpot.methods.matrix.common import MATRIX, unit_per_model
from stockpot.methods.matrix.svd import leading, rebuilt, workspace

__all__ = ["CART"]

_CHOI_2024 = Citation(
    "Jiho Choi and Donggyun Kim and Chanhyuk Lee and Seunghoon Hong",
    "Revisiting Weight Averaging for Model Merging",
    2024,
    "arXiv:2412.12153",
    "section 4",
)


def _rank(full: int, share: float) -> int:
    return max(1, int(share * full)) if share > 0.0 else 0


def _solve(models: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    """The mean, plus lambda times the sum of truncated differences to it."""
    first, *others = models
    mean = first + sum((x - first for x in others), np.zeros_like(first)) / len(models)
    full = min(mean.shape)
    rank = _rank(full, p["rank_share"])
    added = np.zeros_like(mean)
    for x in models:
        if 0 < rank < full:
            added += rebuilt(leading(x - mean, rank))
        work.tick()
    mean += p["lambda"] * added
    return mean


def _otherwise(p: Resolved) -> Floats:
    return np.full(p.models, 1.0 / p.models)


def _copies(_p: Resolved, shape: tuple[int, int]) -> int:
    rows, columns = shape
    return workspace(rows, columns) + 3 * rows * columns


CART = Method(
    name="cart",
    summary="Adds the leading singular directions of each model's difference to the average of the models.",
    formula="m + lambda * sum_i SVD_k(x_i - m),  m = mean_i x_i,  k = rank_share * r",
    cites=_CHOI_2024,
    family=Matrix(_solve, _otherwise, unit_per_model, _copies),
    base=Base.NONE,
    on="weights",
    parameters=(
        Parameter("lambda", "factor of the sum of truncated differences", default=1.0),
        Parameter(
            "rank_share",
            "share of the full rank r = min(rows, columns) that is kept, in [0, 1]; rounded down, at least one "
            "direction unless 0",
            default=0.08,
            low=0.0,
            high=1.0,
        ),
        MATRIX,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.DETERMINISTIC}),
    notes=(
        "The differences to the mean sum to zero, so with the full rank, and with two models at any rank, the result "
        "is the plain average.",
        "Tensors that are not matrices get the plain average, as in the authors' code, which also averages all "
        "matrices outside attention and MLP blocks: set matrix to false for them.",
        "The authors tune lambda on validation data and find 8 % of the full rank best.",
    ),
)

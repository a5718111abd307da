"""Interpolation in the common vocabulary: vectors as weighted means of their nearest rows."""

from __future__ import annotations

import numpy as np

from stockpot.transplanting.nearest import Pool, top
from stockpot.transplanting.table import Combinations, Floats

__all__ = ["interpolate"]


def interpolate(vectors: Floats, pool: Pool, k: int) -> Combinations:
    """Each of ``vectors`` as the mean of its ``k`` nearest members of ``pool``, weighted by their cosines.

    Members that point away (cosine ≤ 0) get no weight; weights sum to 1. A vector of zeros, or one that every member
    points away from, is the empty sum.

    Args:
        vectors: (n, width), float64.
        k: 1 to the number of members.
    """
    wholes = np.linalg.norm(vectors, axis=1)
    units = np.divide(vectors, wholes[:, None], out=np.zeros_like(vectors), where=wholes[:, None] > 0)
    places, cosines = top(units, pool, k)
    weights = np.maximum(cosines, 0.0)
    sums = weights.sum(axis=1, keepdims=True)
    np.divide(weights, sums, out=weights, where=sums > 0)
    used = weights > 0
    found = Combinations(np.where(used, pool.numbers[places], -1), weights, np.zeros(len(vectors)))
    lefts = np.linalg.norm(vectors - found.applied(pool.table), axis=1)
    relative = np.divide(lefts, wholes, out=np.zeros(len(vectors)), where=wholes > 0)
    return Combinations(found.numbers, found.values, relative)

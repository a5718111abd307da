"""Spectra changed: lifted small singular values, and task vectors of low rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Matrix, Method, Parameter, Resolved, Work
from stockpot.methods.matrix.common import (
    MATRIX,
    WEIGHT,
    one_unit,
    rounding,
    scaled,
    two_copies,
    unit_per_model,
    weighted,
    weighted_sum,
)
from stockpot.methods.matrix.svd import Triplets, energy_count, leading, rebuilt, truncated_svd

__all__ = ["LOW_RANK", "SUBSPACE_BOOSTING"]

_SKOROBOGAT_2025 = Citation(
    "Ronald Skorobogat and Karsten Roth and Mariana-Iuliana Georgescu",
    "Subspace-Boosted Model Merging",
    2025,
    "arXiv:2506.16506",
    "section 4",
)
_ECKART_1936 = Citation(
    "Carl Eckart and Gale Young",
    "The approximation of one matrix by another of lower rank",
    1936,
    "Psychometrika 1(3), 211-218",
    "section 3",
)


def _boosted(deltas: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    """The weighted sum with its small singular values raised to that where share beta is reached."""
    total = weighted_sum(deltas, p["weight"])
    u, s, v = leading(total, min(total.shape), rounding(deltas, p["weight"]))
    work.tick()
    if not s.size:
        return np.zeros_like(total)
    held = np.cumsum(s)
    cut = min(int(np.searchsorted(held, p["beta"] * held[-1])), len(s) - 1)
    return rebuilt((u, np.maximum(s, s[cut]), v))


def _kept(delta: Floats, p: Resolved, work: Work) -> Triplets:
    """Triplets up to the rank or the share of energy, whichever comes first."""
    rank = int(p["rank"]) or min(delta.shape)
    u, s, v = truncated_svd(delta, rank, work)
    count = energy_count(s, p["energy"], float(np.vdot(delta, delta)))
    return u[:, :count], s[:count], v[:count]


def _truncated(deltas: Sequence[Floats], p: Resolved, work: Work) -> Floats:
    total = np.zeros_like(deltas[0])
    for delta, weight in zip(deltas, p["weight"], strict=True):
        total += scaled(rebuilt(_kept(delta, p, work)), weight)
        work.tick()
    return total


SUBSPACE_BOOSTING = Method(
    name="subspace_boosting",
    summary="Sums the task vectors and raises small singular values of the sum, against collapse of its rank.",
    formula="base + lambda * U max(S, s_k) V^T,  U S V^T = sum_i w_i (x_i - base),  "
    "k = first with sum_(j <= k) s_j >= beta * sum_j s_j",
    cites=_SKOROBOGAT_2025,
    family=Matrix(_boosted, weighted, one_unit, two_copies),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        WEIGHT,
        Parameter(
            "beta",
            "share of the sum of singular values at which the smaller ones are raised, in [0, 1]; 1 changes nothing",
            default=0.01,
            low=0.0,
            high=1.0,
        ),
        MATRIX,
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA, Law.DETERMINISTIC}),
    scaled=True,
    notes=(
        "With the default of the authors nearly all singular values become the largest, so the difference grows "
        "several times and lambda has to be smaller than for task arithmetic; the authors tune it.",
        "Singular values of zero stay zero: their vectors are arbitrary, and known code raises them too.",
        "It is applied to task arithmetic, one of the merges that the authors boost.",
        "Tensors that are not matrices get the weighted sum. The authors boost attention and MLP weights only, and "
        "query, key and value of a joint projection each on its own: set matrix to false for embeddings and heads.",
    ),
)

LOW_RANK = Method(
    name="low_rank",
    summary="Adds weighted task vectors, each reduced to its leading singular directions.",
    formula="base + lambda * sum_i w_i SVD_k(x_i - base)",
    cites=_ECKART_1936,
    family=Matrix(_truncated, weighted, unit_per_model, two_copies),
    base=Base.REQUIRED,
    on="delta",
    parameters=(
        WEIGHT,
        Parameter("rank", "number of singular directions kept at most; 0: no limit", default=16, kind="int", low=0),
        Parameter(
            "energy",
            "share of the sum of squared singular values at which directions suffice, in (0, 1]",
            default=1.0,
            low=0.0,
            high=1.0,
            open_low=True,
        ),
        MATRIX,
    ),
    laws=frozenset({Law.ORDER_FREE, Law.ZERO_DELTA}),
    scaled=True,
    notes=(
        "Where the rank is a small share of the full one, singular vectors come from a randomised decomposition whose "
        "captured energy is within 1e-3 of the best; its random numbers follow from the seed and the tensor's name.",
        "Tensors that are not matrices get the weighted sum, as in task arithmetic.",
    ),
)

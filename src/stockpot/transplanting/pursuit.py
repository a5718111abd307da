"""Orthogonal matching pursuit: vectors as sums of a few rows, chosen one by one."""

from __future__ import annotations

import numpy as np

from stockpot.transplanting.nearest import Pool, strongest
from stockpot.transplanting.table import Combinations, Floats, Ints

__all__ = ["pursue", "pursuit_bytes"]

_NOTHING = 2.0**-24
"""A residual of this share of a vector's length is below what float32 weights can hold: the pursuit ends."""

_DEPENDENT = 1e-10
"""Square of the sine of the angle between a row and those chosen before, under which it adds nothing new."""

_GATHERED = 1 << 21
"""Elements of rows that are looked at together when the residuals are made."""


def pursue(vectors: Floats, pool: Pool, k: int) -> Combinations:
    """Each of ``vectors`` as a sum of at most ``k`` members of ``pool``.

    Every step takes the member whose cosine with the residual is largest in magnitude, then projects the vector
    on all members taken so far (Pati, Rezaiifar and Krishnaprasad, "Orthogonal matching pursuit", 1993; members scaled
    to length 1). With rows A of unit length, ``M`` is such that M A has orthonormal rows; a step adds a row to M, so
    nothing is solved anew. Ends early where the residual is nothing.

    Args:
        vectors: (n, width), float64. A vector of zeros is the empty sum.
        k: At least 1.

    Returns:
        Numbers of rows of the pool's table, in the order in which they were taken, and coefficients of the rows as
        they are.
    """
    n = len(vectors)
    places = np.full((n, k), -1, np.int64)
    m, along = np.zeros((n, k, k)), np.zeros((n, k))
    coefficients, residuals = np.zeros((n, k)), vectors.copy()
    wholes = np.linalg.norm(vectors, axis=1)
    lefts = wholes.copy()
    live = np.flatnonzero(wholes > 0)
    for step in range(k):
        if not live.size:
            break
        chosen = strongest(residuals[live] / lefts[live, None], pool, places[live, :step])
        live, chosen = live[chosen >= 0], chosen[chosen >= 0]
        places[live, step] = chosen
        group = max(1, _GATHERED // ((step + 1) * pool.table.width))
        for i in range(0, len(live), group):
            _project(live[i : i + group], step, vectors, pool, places, (m, along, coefficients, residuals))
        lefts[live] = np.linalg.norm(residuals[live], axis=1)
        live = live[(lefts[live] > _NOTHING * wholes[live]) & (places[live, step] >= 0)]
    used = places >= 0
    scale = np.where(used, pool.lengths[places], 1.0)
    relative = np.divide(lefts, wholes, out=np.zeros(n), where=wholes > 0)
    relative[relative <= _NOTHING] = 0.0
    return Combinations(np.where(used, pool.numbers[places], -1), np.where(used, coefficients / scale, 0.0), relative)


def _project(
    who: Ints,
    step: int,
    vectors: Floats,
    pool: Pool,
    places: Ints,
    state: tuple[Floats, Floats, Floats, Floats],
) -> None:
    """Bring the newest member into the sums of vectors ``who``; one that adds nothing new is given back."""
    m, along, coefficients, residuals = state
    size = step + 1
    atoms = pool.unit(places[who, :size].reshape(-1)).reshape(len(who), size, -1)
    new = atoms[:, step, :, None]
    products = atoms[:, :step] @ new  # (n, step, 1)
    before = m[who, :step, :step]
    onto = before @ products
    apart = 1.0 - np.einsum("nij,nij->n", onto, onto)
    free = apart > _DEPENDENT
    places[who[~free], step] = -1
    who, atoms, onto, before, apart = who[free], atoms[free], onto[free], before[free], apart[free]
    sine = np.sqrt(apart)
    m[who, step, :step] = -(onto.transpose(0, 2, 1) @ before)[:, 0] / sine[:, None]
    m[who, step, step] = 1.0 / sine
    along[who, step] = np.einsum("nd,nd->n", atoms[:, step], residuals[who]) / sine
    now = (along[who, None, :size] @ m[who, :size, :size])[:, 0]
    coefficients[who, :size] = now
    residuals[who] = vectors[who] - (now[:, None] @ atoms)[:, 0]


def pursuit_bytes(n: int, k: int, width: int) -> int:
    """Bytes that :func:`pursue` holds for ``n`` vectors, beside the vectors and its tiles."""
    gathered = max(_GATHERED, k * width)
    return 8 * (n * (k * k + 4 * k + 4 * width) + 3 * gathered)

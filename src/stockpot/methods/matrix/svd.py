"""Singular values and vectors: exact, leading, randomised; the nearest semi-orthogonal matrix.

All functions take and give float64 and leave their inputs as they are. Singular values below
``NOISE`` times the largest count as zero everywhere: their vectors are arbitrary, and methods
that lift small singular values would turn them into noise.
"""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Floats, Work

__all__ = ["NOISE", "Triplets", "energy_count", "leading", "polar", "rebuilt", "svd", "truncated_svd", "workspace"]

Triplets = tuple[Floats, Floats, Floats]

NOISE = 1e-10
"""Singular values up to this share of the largest are zero: no checkpoint stores weights so finely."""

_GRAM_LIMIT = 1e-6
"""Least share of the largest eigenvalue at which those of a Gram matrix are trusted: singular values of 1e-3."""

_SQUARE = 0.9
"""Share of the longer side from which on the last singular value is nearly always below that limit."""

_SAFE = (1e-100, 1e100)
"""Magnitudes whose squares neither vanish nor overflow."""

_SHARE = 24
"""Randomised only where the full rank is so many times the rank asked: else it gains less than half (measured)."""

_SMALL = 256
"""Full rank below which the exact decomposition takes milliseconds."""

_ROUNDS = 10
"""Rounds after which a spectrum is taken to be flat: together they take half as long as the exact way."""

_TOLERANCE = 1e-4
"""Share of the captured energy that further rounds may still promise; a tenth of what is guaranteed in tests."""


def workspace(rows: int, columns: int) -> int:
    """Numbers that one decomposition holds at its peak, its results included and its input not."""
    return 3 * rows * columns + 7 * min(rows, columns) ** 2


def svd(a: Floats) -> Triplets:
    """Exact thin SVD, ``a = (u * s) @ v``.

    Wide matrices are transposed: LAPACK reduces tall ones by QR itself, and is up to twice as fast with
    them. Where its divide and conquer does not converge, the columns are made nearly orthogonal by the
    eigenvectors of the Gram matrix first, which loses no accuracy.

    Args:
        a: Any shape (m, n), also empty.

    Returns:
        u (m, r), s (r,) in falling order, v (r, n), with r = min(m, n).

    Raises:
        ValueError: ``a`` holds NaN or infinity.

    >>> u, s, v = svd(np.array([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]))
    >>> s.tolist()
    [4.0, 3.0]
    """
    if not np.isfinite(a).all():
        raise ValueError("a matrix with NaN or infinity has no singular values")
    if a.shape[0] < a.shape[1]:
        v, s, u = _lapack(a.T)
        return u.T, s, v.T
    return _lapack(a)


def _lapack(a: Floats) -> Triplets:
    try:
        u, s, v = np.linalg.svd(a, full_matrices=False)
    except np.linalg.LinAlgError:
        turn = np.linalg.eigh(a.T @ a)[1]
        u, s, v = np.linalg.svd(a @ turn[:, ::-1], full_matrices=False)
        v = v @ turn[:, ::-1].T
    return u, s, v


def leading(a: Floats, k: int, floor: float = 0.0) -> Triplets:
    """The ``k`` largest nonzero singular values with their vectors; fewer where the rank is lower.

    From the eigenvectors of the smaller Gram matrix where the k-th singular value is at least 1e-3 of the
    first: then the vectors are within 1e-9 of orthonormal and ``(u * s) @ v`` is as near, relative to the first
    singular value, in a half to a third of the time of :func:`svd`, which is called otherwise.

    Args:
        a: Shape (m, n).
        k: At least 0.
        floor: Singular values up to this one count as zero too: rounding errors of what ``a`` was computed from.

    Returns:
        u (m, j), s (j,), v (j, n), j = min(k, rank).

    >>> leading(np.ones((3, 4)), 2)[1].round(6).tolist()
    [3.464102]
    """
    k = min(k, *a.shape)
    u, s, v = _by_gram(a, k) or svd(a)
    return _first(u, s, v, k, floor)


def _first(u: Floats, s: Floats, v: Floats, k: int, floor: float = 0.0) -> Triplets:
    """The first k triplets that are not noise."""
    j = min(k, int(np.count_nonzero(s > np.maximum(NOISE * s[:1], floor))))
    return u[:, :j], s[:j], v[:j]


def _by_gram(a: Floats, k: int) -> Triplets | None:
    """The k largest from the eigenvectors of a Gram matrix; None where they would be inaccurate."""
    if a.shape[0] > a.shape[1]:
        found = _by_gram(a.T, k)
        return found and (found[2].T, found[1], found[0].T)
    if not k or k > _SQUARE * a.shape[1] or not _SAFE[0] < np.abs(a).max() < _SAFE[1]:
        return None
    try:
        values, vectors = np.linalg.eigh(a @ a.T)
    except np.linalg.LinAlgError:
        return None
    if values[-k] < _GRAM_LIMIT * values[-1]:
        return None
    u, s = vectors[:, : -k - 1 : -1], np.sqrt(values[: -k - 1 : -1])
    v = u.T @ a
    v /= s[:, None]
    return u, s, v


def truncated_svd(a: Floats, k: int, work: Work) -> Triplets:
    """As :func:`leading`, faster where ``k`` is a small share of the full rank.

    There it is the randomised SVD of Halko, Martinsson and Tropp (2011, SIAM Review 53(2), algorithms
    4.4 and 5.1): a random sample of the range, orthogonalised after every product with ``a`` or its
    transpose, k/4 (at least 10) columns wider than asked. Rounds are added until the captured
    energy, the sum of the k squared singular values, is expected to grow by less than 1e-4 of itself;
    where ten do not suffice, because the spectrum is flat, :func:`leading` is called.

    The energy is within 1e-3 of the largest possible; spectra that fall quickly are met to about 1e-8.

    Args:
        a: Shape (m, n).
        k: At least 0.
        work: Where the random numbers come from.

    Returns:
        u (m, j), s (j,), v (j, n), j = min(k, rank).
    """
    full = min(a.shape)
    if full < _SMALL or k * _SHARE > full:
        return leading(a, k)
    found = _randomised(a, k, work)
    return leading(a, k) if found is None else _first(*found, k)


def _randomised(a: Floats, k: int, work: Work) -> Triplets | None:
    size = k + max(10, k // 4)
    q = np.linalg.qr(a @ work.normal(a.shape[1], size))[0]
    captured: list[float] = []
    for _ in range(_ROUNDS):
        b = q.T @ a
        captured.append(float(np.linalg.eigvalsh(b @ b.T)[-k:].sum()) if k else 0.0)
        if _settled(captured):
            u, s, v = svd(b)
            return q @ u, s, v
        q = np.linalg.qr(a @ np.linalg.qr(b.T)[0])[0]
    return None


def _settled(captured: list[float]) -> bool:
    """Whether what a geometric series of gains still promises is below the tolerance."""
    if len(captured) < 3:
        return False
    before, gain = captured[-2] - captured[-3], captured[-1] - captured[-2]
    enough = _TOLERANCE * captured[-1]
    if gain <= 0.0 or before <= gain:
        return gain <= 1e-3 * enough
    return gain * gain / (before - gain) <= enough


def polar(a: Floats) -> Floats:
    """The orthogonal factor of the polar decomposition: the nearest semi-orthogonal matrix, u @ v.

    Where ``a`` has lower rank, that of its range alone (a partial isometry), which is unique.

    >>> polar(np.diag([2.0, 0.5])).round(12).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    u, _, v = leading(a, min(a.shape))
    return u @ v


def rebuilt(triplets: Triplets) -> Floats:
    """The matrix (u * s) @ v."""
    u, s, v = triplets
    return (u * s) @ v


def energy_count(s: Floats, share: float, total: float) -> int:
    """How many of the falling ``s`` it takes until their squares sum to ``share`` of ``total``.

    >>> energy_count(np.array([3.0, 2.0, 1.0]), 0.9, 14.0)
    2
    """
    if share >= 1.0:
        return len(s)
    return int(np.searchsorted(np.cumsum(s * s), share * total)) + 1

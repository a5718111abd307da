"""Refactorisation: a change of low rank, or a dense one, as two factors of the rank that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.execute.matrices import Normals, one_thread
from stockpot.methods.declare import Floats
from stockpot.methods.matrix.svd import NOISE, energy_count, leading, svd, truncated_svd, workspace

__all__ = ["Cut", "Product", "Wanted", "as_is", "cut", "cut_bytes", "cut_dense", "dense_bytes", "stacked"]


_COPIES = 7
"""Factors that are held at once: as they are stored, as they were read, stacked, transposed, twice in QR, as Q."""


@dataclass(frozen=True)
class Wanted:
    """How many singular directions are kept; where both are given, the smaller number.

    Args:
        rank: At most so many.
        energy: As many as hold this share of the sum of squared singular values, in (0, 1].
    """

    rank: int | None = None
    energy: float | None = None

    def count(self, s: Floats, total: float) -> int:
        """How many of the falling singular values ``s``, whose squares sum to ``total`` with those left out."""
        kept = int(np.count_nonzero(s > NOISE * s[:1]))
        if self.rank is not None:
            kept = min(kept, self.rank)
        return kept if self.energy is None else min(kept, energy_count(s, self.energy, total))


@dataclass(frozen=True)
class Product:
    """left · right, of shapes (rows, inner) and (inner, columns), float64."""

    left: Floats
    right: Floats

    @property
    def dense(self) -> Floats:
        """The product itself."""
        return self.left @ self.right


@dataclass(frozen=True)
class Cut:
    """A change as two factors, and what was lost.

    Args:
        product: The factors, inner dimension at least 1 (of zeros where nothing changes).
        norm: Frobenius norm of the whole change.
        retained: Share of its square that the factors hold, in [0, 1].
    """

    product: Product
    norm: float
    retained: float

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return int(self.product.left.shape[1])

    @property
    def error(self) -> float:
        """Norm of what is lost over the norm of the whole."""
        return float(np.sqrt(max(0.0, 1.0 - self.retained)))


def stacked(parts: Sequence[Product], rows: int, columns: int) -> Product:
    """The sum of ``parts`` as one product: factors side by side.

    >>> one = Product(np.ones((2, 1)), np.ones((1, 3)))
    >>> stacked([one, one], 2, 3).dense.tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    left = np.hstack([np.zeros((rows, 0)), *(p.left for p in parts)])
    right = np.vstack([np.zeros((0, columns)), *(p.right for p in parts)])
    return Product(left, right)


def as_is(product: Product) -> Cut:
    """``product`` uncut."""
    norm = float(np.sqrt(max(0.0, np.sum((product.left.T @ product.left) * (product.right @ product.right.T)))))
    return Cut(product if product.left.shape[1] else _nothing(product), norm, 1.0)


def cut(product: Product, wanted: Wanted) -> Cut:
    """``product`` at the rank that is wanted: the nearest of that rank, by Eckart and Young.

    QR of both factors leaves a core of the inner dimension, whose SVD is that of the product: O((m + n) R²), the
    product is never formed. Singular values are shared between the factors: B = U √S, A = √S Vᵀ.

    >>> cut(Product(np.eye(3), np.diag([2.0, 1.0, 0.0])), Wanted(rank=1)).retained
    0.8
    """
    with one_thread():
        q_left, r_left = np.linalg.qr(product.left)
        q_right, r_right = np.linalg.qr(product.right.T)
        u, s, v = svd(r_left @ r_right.T)
        total = float(s @ s)
        kept = wanted.count(s, total)
        u, s, v = q_left @ u[:, :kept], s[:kept], v[:kept] @ q_right.T
    return _balanced(product, (u, s, v), total)


def cut_dense(matrix: Floats, wanted: Wanted, normals: Normals) -> Cut:
    """A dense change at the rank that is wanted.

    By rank alone, where that is a small share of the full one, from the randomised SVD of
    :func:`~stockpot.methods.matrix.svd.truncated_svd`, whose energy is within 1e-3 of the best; else exactly.

    Args:
        matrix: Shape (rows, columns).
        normals: Where random numbers come from.
    """
    with one_thread():
        total = float(np.vdot(matrix, matrix))
        if wanted.energy is None:
            rank = min(matrix.shape) if wanted.rank is None else wanted.rank
            found = truncated_svd(matrix, rank, _Work(normals))
        else:
            found = leading(matrix, wanted.count(_values(matrix), total))
    return _balanced(Product(matrix, matrix), found, total)


def _values(matrix: Floats) -> Floats:
    """Singular values from the smaller Gram matrix: squares are exact to 1e-16 of the largest, as energies need."""
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    found: Floats = np.sqrt(np.maximum(np.linalg.eigvalsh(small)[::-1], 0.0))
    return found


def _balanced(of: Product, triplets: tuple[Floats, Floats, Floats], total: float) -> Cut:
    u, s, v = triplets
    norm = float(np.sqrt(total))
    if not s.size:
        return Cut(_nothing(of), norm, 1.0 if total == 0.0 else 0.0)
    root = np.sqrt(s)
    return Cut(Product(u * root, root[:, None] * v), norm, min(1.0, float(s @ s) / total))


def _nothing(of: Product) -> Product:
    """Factors of rank 1 of no change: files hold no empty tensors well."""
    return Product(np.zeros((of.left.shape[0], 1)), np.zeros((1, of.right.shape[1])))


class _Work:
    """What a decomposition is given: random numbers; nobody watches its progress."""

    def __init__(self, normals: Normals) -> None:
        self.normal = normals.normal

    def tick(self) -> None:
        """Untold."""

    def companion(self, name: str) -> Sequence[Floats]:
        """There is none."""
        raise KeyError(name)


def cut_bytes(rows: int, columns: int, inner: int) -> int:
    """Bytes that :func:`cut` and reading its product hold at their peak: factors as read and stacked, Q, R, copies."""
    small = min(inner, rows) + min(inner, columns)
    return 8 * (_COPIES * (rows + columns) * inner + 12 * small * small)


def dense_bytes(rows: int, columns: int, rank: int) -> int:
    """Bytes that :func:`cut_dense` holds at its peak, the matrix included."""
    return 8 * (rows * columns + workspace(rows, columns) + 2 * (rows + columns) * rank)

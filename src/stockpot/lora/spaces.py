"""Spaces in which adapters are merged: their changes themselves, or coordinates in bases that they share.

Both bases are found from the factors by QR and the SVD of what is small. Factors are balanced first (U √S and √S Vᵀ
of the product), so that results depend on the changes alone and not on how they are split in two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stockpot.checkpoint.model import TensorRef, from_arrays
from stockpot.errors import ExecutionError, Problem
from stockpot.execute.matrices import one_thread
from stockpot.lora.factors import Product, Wanted, cut, stacked
from stockpot.methods.declare import Floats
from stockpot.methods.matrix.svd import leading
from stockpot.planning.model import Read

__all__ = ["SPACES", "Shared", "Space", "core", "knots", "placed", "space_bytes"]

Space = Literal["full", "knots", "core"]

SPACES: tuple[Space, ...] = ("full", "knots", "core")


@dataclass(frozen=True)
class Shared:
    """Changes of one weight as coordinates: change i = left · coordinates[i] · right.

    Args:
        coordinates: One array for each adapter, all of one shape.
        left: Shape (rows, k).
        right: Shape (l, columns); None where the coordinates are as wide as the weight.
    """

    coordinates: tuple[Floats, ...]
    left: Floats
    right: Floats | None = None

    def product(self, merged: Floats) -> Product:
        """The change that merged coordinates stand for."""
        return Product(self.left, merged) if self.right is None else Product(self.left @ merged, self.right)


def knots(changes: Sequence[Product]) -> Shared:
    """KnOTS: U Σ [V₁ … Vₙ]ᵀ of the changes side by side; Σ Vᵢᵀ is merged.

    Stoica et al. (2025), Model merging with SVD to tie the KnOTS, arXiv 2410.19735, section 4; Σ goes with V, as in
    the authors' code.
    """
    with one_thread():
        rows, columns = _shape(changes)
        even = [_even(p) for p in changes]
        q, r = np.linalg.qr(np.hstack([np.zeros((rows, 0)), *(p.left for p in even)]))
        places = np.cumsum([0, *(p.left.shape[1] for p in even)])
        parts = [r[:, a:b] @ p.right for a, b, p in zip(places[:-1], places[1:], even, strict=True)]
        u, s, v = leading(np.hstack(parts), q.shape[1])
        u, v = _signed(q @ u, v)
        own = s[:, None] * v
    return Shared(tuple(own[:, i * columns : (i + 1) * columns] for i in range(len(changes))), u)


def core(changes: Sequence[Product]) -> Shared:
    """Core space: Mᵢ = Uᵀ Bᵢ Aᵢ V, with U of the SVD of [B₁ … Bₙ] and V of that of [A₁; …; Aₙ]; exact, no loss.

    Panariello et al. (2025), Accurate and efficient low-rank model merging in core space, arXiv 2509.17786,
    equations 5 to 9. The authors take factors as they were trained; here they are balanced.
    """
    with one_thread():
        rows, columns = _shape(changes)
        even = [_even(p) for p in changes]
        both = stacked(even, rows, columns)
        u, _, _ = leading(both.left, both.left.shape[1])
        _, _, v = leading(both.right, both.right.shape[0])
        u, v = _signed(u, None)[0], _signed(v.T, None)[0].T
        own = tuple((u.T @ p.left) @ (p.right @ v.T) for p in even)
    return Shared(own, u, v)


def _shape(changes: Sequence[Product]) -> tuple[int, int]:
    return changes[0].left.shape[0], changes[0].right.shape[1]


def _even(product: Product) -> Product:
    """The same change with balanced factors, which follow from it."""
    return cut(product, Wanted()).product if product.left.shape[1] else product


def _signed(u: Floats, v: Floats | None) -> tuple[Floats, Floats]:
    """Singular vectors whose largest entry is positive: LAPACK's signs are arbitrary."""
    turn = np.where(u[np.argmax(np.abs(u), axis=0), np.arange(u.shape[1])] < 0, -1.0, 1.0) if u.size else np.ones(0)
    return u * turn, np.empty(0) if v is None else turn[:, None] * v


def placed(name: str, label: str, values: Floats) -> Read:
    """An array in memory as a tensor that the engine reads.

    Raises:
        ExecutionError: for numbers that are not finite.
    """
    if not np.isfinite(values).all():
        raise ExecutionError(Problem(f"{label} has a change that is not finite", tensor=name))
    ref: TensorRef = from_arrays(label, {name: values}).tensors[name]
    return Read(ref, label)


def space_bytes(space: Space, flat: tuple[int, int], inner: int, count: int) -> tuple[int, int]:
    """Bytes of the coordinates and bases of one weight, which are kept until it is written, and of finding them.

    Args:
        flat: (rows, columns).
        inner: Sum of the ranks.
        count: Number of adapters.
    """
    rows, columns = flat
    factors, small = 8 * (rows + columns) * inner, min(inner, rows)
    if space == "full":
        return 0, 0
    if space == "knots":
        side = 8 * small * count * columns
        return side + 8 * small * rows, 4 * factors + 6 * side
    across = min(inner, columns)
    return 8 * (small * rows + across * columns + count * small * across), 10 * factors

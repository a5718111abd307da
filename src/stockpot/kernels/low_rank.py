"""Products of two thin matrices, added to what stands there: what a low-rank adapter does to a weight."""

from __future__ import annotations

from typing import Any

from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.sizes import ROW

__all__ = ["add_low_rank", "scale_lines"]


@inline
def _add4(r0: Any, r1: Any, r2: Any, r3: Any, n: int, f0: float, f1: float, f2: float, f3: float, acc: Any) -> None:
    for i in range(n):
        acc[i] = (((acc[i] + f0 * r0[i]) + f1 * r1[i]) + f2 * r2[i]) + f3 * r3[i]


@inline
def _add1(r0: Any, n: int, f0: float, acc: Any) -> None:
    for i in range(n):
        acc[i] += f0 * r0[i]


@inline
def _product(left: Any, right: Any, column: int, n: int, acc: Any) -> None:
    """acc[:n] = Σ left[k] · right[k, column …], summed in the order of k whatever ``n`` is."""
    rank = left.shape[0]
    last = column + n
    for i in range(n):
        acc[i] = 0.0
    k = 0
    while rank - k >= 4:
        r0, r1, r2, r3 = right[k, column:last], right[k + 1, column:last], right[k + 2, column:last], right[k + 3]
        _add4(r0, r1, r2, r3[column:last], n, left[k], left[k + 1], left[k + 2], left[k + 3], acc)
        k += 4
    while k < rank:
        _add1(right[k, column:last], n, left[k], acc)
        k += 1


@kernel
def add_low_rank(values: Any, column: int, n: int, left: Any, right: Any, scale: float, acc: Any) -> None:
    """Add scale × (left · right) to n elements of a matrix, in the order of its rows.

    Each element is summed over the rank in order, so it does not depend on how the matrix is cut.

    Args:
        values: The elements (float64), the first at ``column`` of the first row of ``left``.
        left: (rows, rank), the rows that the elements lie in.
        right: (rank, columns).
        acc: A row of scratch.
    """
    columns = right.shape[1]
    done, row = 0, 0
    while done < n:
        m = min(columns - column, n - done, ROW)
        _product(left[row], right, column, m, acc)
        for i in range(m):
            values[done + i] += scale * acc[i]
        done += m
        column += m
        if column == columns:
            column = 0
            row += 1


@kernel
def scale_lines(values: Any, row: int, column: int, n: int, columns: int, factors: Any, crossed: bool) -> None:
    """Multiply n elements of a matrix, from (row, column) on, by the factors of their rows, or of their columns.

    Args:
        values: The elements (float64).
        factors: One for each row, or, where ``crossed``, for each column.
    """
    for i in range(n):
        values[i] *= factors[column if crossed else row]
        column += 1
        if column == columns:
            column = 0
            row += 1

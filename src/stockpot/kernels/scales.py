"""Matrices whose blocks have scales: their product, their quotient, and the largest magnitude of each block."""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.compile import inline, kernel

__all__ = ["largest_of_blocks", "scale_blocks"]


@inline
def _times(values: Any, n: int, scale: float, divide: bool) -> None:
    if divide:
        for i in range(n):
            values[i] /= scale
    else:
        for i in range(n):
            values[i] *= scale


@kernel
def scale_blocks(
    values: Any,
    start: int,
    n: int,
    columns: int,
    rows: int,
    down: int,
    across: int,
    scales: Any,
    first: int,
    divide: bool,
) -> None:
    """Multiply values[:n], elements start … of matrices one after the other, by the scales of their blocks.

    Args:
        values: The elements (float64).
        columns, rows: Of a matrix.
        down, across: Rows and columns of a block; the last ones of a matrix may be cut.
        scales: (lines, blocks of a row), from line ``first`` of all on.
        divide: Whether to divide instead.
    """
    lines = -(-rows // down)
    done = 0
    row, column = start // columns, start % columns
    while done < n:
        line = (row // rows) * lines + (row % rows) // down - first
        stop = min(n, done + columns - column)
        while done < stop:
            place = column // across
            m = min(stop - done, (place + 1) * across - column)
            _times(values[done : done + m], m, scales[line, place], divide)
            done += m
            column += m
        row, column = row + 1, 0


@kernel
def largest_of_blocks(values: Any, n: int, columns: int, down: int, across: int, out: Any) -> None:
    """out[line, place] = the largest magnitude of each block of whole rows values[:n]; NaN where one is among them."""
    for line in range(out.shape[0]):
        for place in range(out.shape[1]):
            out[line, place] = 0.0
    for row in range(n // columns):
        for column in range(columns):
            size = np.abs(values[row * columns + column])
            line, place = row // down, column // across
            if size > out[line, place] or np.isnan(size):
                out[line, place] = size

"""Inner products of all pairs of inputs over a block, in float64 with a fixed order of summation.

Sums run in ``LANES`` interleaved partial sums that are added up in order at the end of each piece, so
that the result is the same on every processor, whatever its vector width.
"""

from __future__ import annotations

from typing import Any

from stockpot.kernels.combine import load_base
from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.convert import widen
from stockpot.kernels.sizes import ROW

__all__ = ["LANES", "dot", "gram_columns", "gram_rows", "load"]

LANES = 64


@inline
def dot(a: Any, b: Any, n: int, lanes: Any) -> float:
    """Σ a[i] b[i] over n elements; ``lanes`` is scratch of LANES elements."""
    lanes[:LANES] = 0.0
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += a[i + lane] * b[i + lane]
    for i in range(whole, n):
        lanes[i - whole] += a[i] * b[i]
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


@inline
def load(raw: Any, codes: Any, start: int, n: int, base: int, count: int, scratch: Any) -> None:
    """scratch[k][:n] = input k, less the base, which is kept in scratch[count].

    scratch[count + 1] must hold zeros, and without a base scratch[count] too.
    """
    b = scratch[count]
    load_base(raw, codes, start, n, base, scratch[count + 1], b)
    for k in range(count):
        widen(raw[k], codes[k], start, n, b, scratch[k])


@kernel
def gram_rows(raw: Any, codes: Any, rows: int, length: int, base: int, count: int, out: Any, scratch: Any) -> None:
    """out[r, i, j] (i ≤ j) = inner product of inputs i and j over row r.

    A whole block counts as one row. ``scratch`` has count + 3 rows.
    """
    lanes = scratch[count + 2]
    scratch[count : count + 2] = 0.0
    out[:rows] = 0.0
    for r in range(rows):
        for offset in range(0, length, ROW):
            m = min(ROW, length - offset)
            load(raw, codes, r * length + offset, m, base, count, scratch)
            for i in range(count):
                for j in range(i, count):
                    out[r, i, j] += dot(scratch[i], scratch[j], m, lanes)


@kernel
def gram_columns(raw: Any, codes: Any, rows: int, length: int, base: int, count: int, out: Any, scratch: Any) -> None:
    """out[i, j, c] (i ≤ j) = inner product over column c of a block of ``rows`` rows."""
    scratch[count : count + 2] = 0.0
    out[:] = 0.0
    for r in range(rows):
        for offset in range(0, length, ROW):
            m = min(ROW, length - offset)
            load(raw, codes, r * length + offset, m, base, count, scratch)
            for i in range(count):
                for j in range(i, count):
                    a, b = scratch[i], scratch[j]
                    for c in range(m):
                        out[i, j, offset + c] += a[c] * b[c]

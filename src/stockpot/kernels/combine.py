"""Linear combinations of blocks, with one set of coefficients or one for each row or column.

All take the same first arguments: ``raw`` of shape (inputs [+ base], bytes), one dtype code per row of
it, and ``base``: the row that holds the base, or -1. With a base, inputs stand for differences to it,
and ``anchored`` adds the base to the result. ``scratch`` has four float64 rows. Sums run in float64, in
the order of the inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.convert import accumulate, brain, narrow, widen
from stockpot.kernels.sizes import ROW

__all__ = ["combine_columns", "combine_rows", "combine_tensor", "finish", "load_base"]


@inline
def finish(acc: Any, b: Any, n: int, anchored: bool, scale: float, divisor: float) -> None:
    """acc = scale × (acc / divisor), plus the base when ``anchored``."""
    if divisor != 1.0:
        for i in range(n):
            acc[i] /= divisor
    if scale != 1.0:
        for i in range(n):
            acc[i] *= scale
    if anchored:
        for i in range(n):
            acc[i] += b[i]


@inline
def load_base(raw: Any, codes: Any, start: int, n: int, base: int, zeros: Any, b: Any) -> None:
    """b[:n] = the base, or zeros without one."""
    if base >= 0:
        widen(raw[base], codes[base], start, n, zeros, b)


@inline
def _add3(x0: Any, x1: Any, x2: Any, n: int, f0: float, f1: float, f2: float, acc: Any) -> None:
    for i in range(n):
        acc[i] = ((acc[i] + f0 * brain(x0[i])) + f1 * brain(x1[i])) + f2 * brain(x2[i])


@inline
def _add2(x0: Any, x1: Any, n: int, f0: float, f1: float, acc: Any) -> None:
    for i in range(n):
        acc[i] = (acc[i] + f0 * brain(x0[i])) + f1 * brain(x1[i])


@inline
def _add1(x0: Any, n: int, f0: float, acc: Any) -> None:
    for i in range(n):
        acc[i] += f0 * brain(x0[i])


@inline
def _brains(raw: Any, start: int, n: int, factors: Any, acc: Any) -> None:
    """Inputs of bfloat16, a few at a time: the sum is loaded and stored less often."""
    count = factors.shape[0]
    first, last = 2 * start, 2 * (start + n)
    done = 0
    while count - done >= 3:
        x0, x1 = raw[done, first:last].view(np.uint16), raw[done + 1, first:last].view(np.uint16)
        x2 = raw[done + 2, first:last].view(np.uint16)
        _add3(x0, x1, x2, n, factors[done], factors[done + 1], factors[done + 2], acc)
        done += 3
    if count - done == 2:
        x0, x1 = raw[done, first:last].view(np.uint16), raw[done + 1, first:last].view(np.uint16)
        _add2(x0, x1, n, factors[done], factors[done + 1], acc)
    elif count - done == 1:
        _add1(raw[done, first:last].view(np.uint16), n, factors[done], acc)


@inline
def _combine_piece(
    raw: Any,
    codes: Any,
    start: int,
    n: int,
    base: int,
    anchored: bool,
    scale: float,
    divisor: float,
    factors: Any,
    scratch: Any,
) -> None:
    """scratch[0][:n] = the combination of elements start … start + n; n is at most ROW."""
    acc, b, zeros = scratch[0], scratch[1], scratch[2]
    load_base(raw, codes, start, n, base, zeros, b)
    acc[:n] = -0.0  # what is added to it keeps its sign, zero included
    brains = base < 0
    for k in range(factors.shape[0]):
        brains &= codes[k] == 2
    if brains:
        _brains(raw, start, n, factors, acc)
    else:
        for k in range(factors.shape[0]):
            accumulate(raw[k], codes[k], start, n, b, factors[k], acc)
    finish(acc, b, n, anchored, scale, divisor)


@kernel
def combine_tensor(
    raw: Any,
    codes: Any,
    n: int,
    base: int,
    anchored: bool,
    scale: float,
    divisor: float,
    factors: Any,
    out: Any,
    out_code: int,
    scratch: Any,
) -> bool:
    """Combine n elements with ``factors`` of shape (inputs,); True when a result is not finite."""
    bad = False
    scratch[1:3] = 0.0
    for start in range(0, n, ROW):
        m = min(ROW, n - start)
        _combine_piece(raw, codes, start, m, base, anchored, scale, divisor, factors, scratch)
        bad |= narrow(scratch[0], m, out, out_code, start)
    return bad


@kernel
def combine_rows(
    raw: Any,
    codes: Any,
    rows: int,
    length: int,
    base: int,
    anchored: bool,
    scale: float,
    divisor: float,
    factors: Any,
    out: Any,
    out_code: int,
    scratch: Any,
) -> bool:
    """As :func:`combine_tensor` for ``rows`` rows of ``length``; factors has shape (rows, inputs)."""
    bad = False
    scratch[1:3] = 0.0
    for r in range(rows):
        for offset in range(0, length, ROW):
            m = min(ROW, length - offset)
            start = r * length + offset
            _combine_piece(raw, codes, start, m, base, anchored, scale, divisor, factors[r], scratch)
            bad |= narrow(scratch[0], m, out, out_code, start)
    return bad


@kernel
def combine_columns(
    raw: Any,
    codes: Any,
    rows: int,
    length: int,
    base: int,
    anchored: bool,
    scale: float,
    divisor: float,
    factors: Any,
    out: Any,
    out_code: int,
    scratch: Any,
) -> bool:
    """As :func:`combine_rows` with factors of shape (inputs, length): one for each column."""
    bad = False
    acc, b, zeros, x = scratch[0], scratch[1], scratch[2], scratch[3]
    scratch[1:3] = 0.0
    for r in range(rows):
        for offset in range(0, length, ROW):
            m = min(ROW, length - offset)
            start = r * length + offset
            load_base(raw, codes, start, m, base, zeros, b)
            acc[:m] = -0.0
            for k in range(factors.shape[0]):
                widen(raw[k], codes[k], start, m, b, x)
                for i in range(m):
                    acc[i] += factors[k, offset + i] * x[i]
            finish(acc, b, m, anchored, scale, divisor)
            bad |= narrow(acc, m, out, out_code, start)
    return bad

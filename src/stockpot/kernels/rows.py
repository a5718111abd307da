"""Elementwise methods: a short program of atoms, run on rows that stay in the cache.

A program is an array of operation codes with float64 arguments of shape (operations, inputs). The
kernel loads a row of every input, less the base, runs each operation over it, and stores the result.
One compiled kernel therefore serves every chain of atoms.

Entries are removed by multiplying with 0, never by replacing them: a NaN or infinity that stands in an
input therefore reaches the result as NaN, where it is noticed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.combine import finish
from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.convert import narrow
from stockpot.kernels.gram import LANES, load
from stockpot.kernels.random import philox_row
from stockpot.kernels.sizes import ROW

__all__ = ["DIVIDE", "DROP", "ELECT", "L1_AFTER", "L1_BEFORE", "SCALE", "SUM", "TRIM", "rows_block"]

TRIM, DROP, SCALE, ELECT, L1_BEFORE, L1_AFTER, SUM, DIVIDE = 0, 1, 2, 3, 4, 5, 6, 7


@inline
def _trim(x: Any, n: int, threshold: int, keep_ties: bool, factor: float) -> None:
    least = np.uint32(threshold if keep_ties else threshold + 1)
    for i in range(n):
        key = np.uint32(np.float32(abs(x[i])).view(np.uint32))
        x[i] *= factor if key >= least else 0.0


@inline
def _trim_some_ties(x: Any, n: int, threshold: int, left: int, factor: float) -> int:
    """As :func:`_trim`, keeping the first ``left`` ties; returns how many may still be kept."""
    for i in range(n):
        key = np.uint32(np.float32(abs(x[i])).view(np.uint32))
        tie = key == threshold
        keep = key > threshold or (tie and left > 0)
        left -= 1 if tie and left > 0 else 0
        x[i] *= factor if keep else 0.0
    return left


@inline
def _drop(x: Any, n: int, words: Any, limit: float, factor: float) -> None:
    """Keeps x, times ``factor``, where its random word is below ``limit`` (in [0, 2^32])."""
    bound = np.uint32(min(limit, 4294967295.0))
    for i in range(n):
        x[i] *= factor if words[i] < bound else 0.0


@inline
def _scale(x: Any, n: int, factor: float) -> None:
    for i in range(n):
        x[i] *= factor


@inline
def _add4(x0: Any, x1: Any, x2: Any, x3: Any, n: int, acc: Any) -> None:
    for i in range(n):
        acc[i] = (((acc[i] + x0[i]) + x1[i]) + x2[i]) + x3[i]


@inline
def _sum(x: Any, count: int, n: int, zeros: Any, acc: Any) -> None:
    """acc[:n] = Σ x[k][:n] in order; four at a time, so that the sum is loaded and stored less often."""
    acc[:n] = 0.0
    for k in range(0, count, 4):
        x1, x2, x3 = _row(x, k + 1, count, zeros), _row(x, k + 2, count, zeros), _row(x, k + 3, count, zeros)
        _add4(x[k], x1, x2, x3, n, acc)


@inline
def _elect(x: Any, n: int, total: Any) -> None:
    for i in range(n):
        x[i] = _agreeing(x[i], total[i])


@inline
def _weight(x: float, weight: float) -> float:
    return weight if x != 0.0 else 0.0


@inline
def _agreeing(x: float, total: float) -> float:
    """x where its sign is that of ``total`` (0 counts as +), else 0; NaN stays NaN."""
    return x * (1.0 if (x > 0.0) == (total >= 0.0) else 0.0)


@inline
def _elect4(
    x0: Any,
    x1: Any,
    x2: Any,
    x3: Any,
    n: int,
    total: Any,
    w0: float,
    w1: float,
    w2: float,
    w3: float,
    acc: Any,
    divisor: Any,
) -> None:
    """Elect in four inputs; add what stays to ``acc`` and its weights to ``divisor``."""
    for i in range(n):
        a, b = _agreeing(x0[i], total[i]), _agreeing(x1[i], total[i])
        c, d = _agreeing(x2[i], total[i]), _agreeing(x3[i], total[i])
        acc[i] = (((acc[i] + a) + b) + c) + d
        divisor[i] = (((divisor[i] + _weight(a, w0)) + _weight(b, w1)) + _weight(c, w2)) + _weight(d, w3)


@inline
def _elect_few(
    x0: Any, x1: Any, x2: Any, x3: Any, n: int, w0: float, w1: float, w2: float, w3: float, divides: bool, acc: Any
) -> None:
    """Elect among at most four inputs and combine them, all in registers."""
    for i in range(n):
        total = ((x0[i] + x1[i]) + x2[i]) + x3[i]
        a, b = _agreeing(x0[i], total), _agreeing(x1[i], total)
        c, d = _agreeing(x2[i], total), _agreeing(x3[i], total)
        acc[i] = ((a + b) + c) + d
        if divides:
            weight = ((_weight(a, w0) + _weight(b, w1)) + _weight(c, w2)) + _weight(d, w3)
            acc[i] /= weight if weight != 0.0 else 1.0


@inline
def _elect_many(
    x: Any, count: int, n: int, zeros: Any, weights: Any, divides: bool, total: Any, divisor: Any, acc: Any
) -> None:
    """As :func:`_elect_few` for any number of inputs, four at a time."""
    _sum(x, count, n, zeros, total)
    acc[:n] = 0.0
    divisor[:n] = 0.0
    for k in range(0, count, 4):
        x1, x2, x3 = _row(x, k + 1, count, zeros), _row(x, k + 2, count, zeros), _row(x, k + 3, count, zeros)
        w1, w2, w3 = _at(weights, k + 1, count), _at(weights, k + 2, count), _at(weights, k + 3, count)
        _elect4(x[k], x1, x2, x3, n, total, weights[k], w1, w2, w3, acc, divisor)
    if divides:
        _divide(acc, divisor, n)


@inline
def _row(x: Any, k: int, count: int, zeros: Any) -> Any:
    return x[k] if k < count else zeros


@inline
def _at(weights: Any, k: int, count: int) -> float:
    return weights[k] if k < count else 0.0


@inline
def _l1(x: Any, n: int, lanes: Any) -> float:
    lanes[:LANES] = 0.0
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += abs(x[i + lane])
    for i in range(whole, n):
        lanes[i - whole] += abs(x[i])
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


@inline
def _weigh(x: Any, count: int, n: int, weights: Any, divisor: Any) -> None:
    """divisor[:n] = Σ weights over the inputs that are not 0."""
    divisor[:n] = 0.0
    for k in range(count):
        row, weight = x[k], weights[k]
        for i in range(n):
            divisor[i] += weight if row[i] != 0.0 else 0.0


@inline
def _divide(acc: Any, divisor: Any, n: int) -> None:
    for i in range(n):
        acc[i] = acc[i] / (divisor[i] if divisor[i] != 0.0 else 1.0)


@inline
def _apply(
    op: int,
    k: int,
    x: Any,
    m: int,
    limit: float,
    factor: float,
    thresholds: Any,
    ties: Any,
    block: int,
    random_keys: Any,
    row: int,
    norms: Any,
    spare: Any,
    words: Any,
) -> None:
    """One operation on input k."""
    if op == TRIM:
        if ties[k] <= 0 or ties[k] >= block:
            _trim(x, m, thresholds[k], ties[k] > 0, factor)
        else:
            ties[k] = _trim_some_ties(x, m, thresholds[k], ties[k], factor)
    elif op == DROP and limit < 4294967296.0:
        philox_row(row, random_keys[k, 0], random_keys[k, 1], words)
        _drop(x, m, words, limit, factor)
    elif op == SCALE or op == DROP:
        if factor != 1.0:
            _scale(x, m, factor)
    elif op == L1_BEFORE:
        norms[k, 0] += _l1(x, m, spare)
    else:
        norms[k, 1] += _l1(x, m, spare)


@kernel
def rows_block(
    raw: Any,
    codes: Any,
    n: int,
    base: int,
    anchored: bool,
    scale: float,
    count: int,
    operations: Any,
    limits: Any,
    factors: Any,
    thresholds: Any,
    ties: Any,
    random_keys: Any,
    first: int,
    norms: Any,
    out: Any,
    out_code: int,
    scratch: Any,
    words: Any,
) -> bool:
    """Run a program over n elements, the first of which is element ``first`` of its tensor.

    Args:
        operations: int64 (operations,), the codes of this module; the last is SUM or DIVIDE.
        limits: float64 (operations, inputs): DROP keeps an entry whose random word is below it.
        factors: float64 (operations, inputs): TRIM, DROP and SCALE multiply what stays by it; the
            weights of DIVIDE.
        thresholds: uint32 (inputs,), keys at which TRIM cuts.
        ties: int64 (inputs,), how many entries at the threshold TRIM keeps in this block; n or more
            stands for all of them. Counted down.
        random_keys: int64 (inputs, 2), Philox keys of DROP (as uint32 they would halve the speed of the rounds).
        norms: float64 (inputs, 2); L1_BEFORE and L1_AFTER add the sums of magnitudes here.
        out: bytes of the result; nothing is stored when it is empty (a pass for norms only).
        scratch: float64 (count + 5, ROW); words: uint32 (ROW,).

    Returns:
        Whether a result is not finite.
    """
    bad = False
    b, zeros, acc = scratch[count], scratch[count + 1], scratch[count + 2]
    total, divisor = scratch[count + 3], scratch[count + 4]
    scratch[count : count + 2] = 0.0
    last = operations.shape[0] - 1
    divides = operations[last] == DIVIDE
    weights = factors[last]
    fused = last > 0 and operations[last - 1] == ELECT
    for start in range(0, n, ROW):
        m = min(ROW, n - start)
        row = (first + start) // ROW
        load(raw, codes, start, m, base, count, scratch)
        for p in range(last - 1 if fused else last):
            op = operations[p]
            if op == ELECT:
                _sum(scratch, count, m, zeros, total)
                for k in range(count):
                    _elect(scratch[k], m, total)
                continue
            for k in range(count):
                limit, factor = limits[p, k], factors[p, k]
                _apply(op, k, scratch[k], m, limit, factor, thresholds, ties, n, random_keys, row, norms, total, words)
        if out.shape[0] == 0:
            continue
        if fused and count <= 4:
            x1, x2, x3 = _row(scratch, 1, count, zeros), _row(scratch, 2, count, zeros), _row(scratch, 3, count, zeros)
            w1, w2, w3 = _at(weights, 1, count), _at(weights, 2, count), _at(weights, 3, count)
            _elect_few(scratch[0], x1, x2, x3, m, weights[0], w1, w2, w3, divides, acc)
        elif fused:
            _elect_many(scratch, count, m, zeros, weights, divides, total, divisor, acc)
        else:
            _sum(scratch, count, m, zeros, acc)
            if divides:
                _weigh(scratch, count, m, weights, divisor)
                _divide(acc, divisor, m)
        finish(acc, b, m, anchored, scale, 1.0)
        bad |= narrow(acc, m, out, out_code, start)
    return bad

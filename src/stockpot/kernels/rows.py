"""Elementwise methods: a short program of operations, run on rows that stay in the cache.

A program is an array of operation codes with float64 numbers of shape (operations, 4, inputs). The
kernel loads a row of every input, less the base, runs each operation over it, and stores the result.
One compiled kernel therefore serves every chain of operations.

A program that needs statistics first is run as far as the operation that needs them, to add up sums or to
write keys whose order statistics are then found.
"""

from __future__ import annotations

from typing import Any

from stockpot.kernels import codes as op
from stockpot.kernels.codes import NORM, NORM_BEFORE, SHARED, SQUARES, UNIQUE_COUNT
from stockpot.kernels.combine import finish
from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.convert import narrow, widen
from stockpot.kernels.elect import elect, elect_weighed, elected, total_of, weighed
from stockpot.kernels.gram import LANES, dot
from stockpot.kernels.operations import (
    above,
    agree,
    band,
    band_some_ties,
    binary,
    chosen,
    compete,
    drop,
    drop_ranked,
    elect_as,
    fuse,
    importance_keys,
    keep_varied,
    largest,
    magnitude_keys,
    near,
    overlap,
    precision,
    restore,
    scale,
    score_keys,
    times,
    trim,
    trim_some_ties,
    unique,
    variance,
    variance_keys,
)
from stockpot.kernels.random import philox_row
from stockpot.kernels.sizes import ROW

__all__ = ["COUNTS", "KEYS", "NORMS", "RESULT", "SPARE", "rows_block"]

RESULT, KEYS, NORMS, COUNTS = 0, 1, 2, 3

SPARE = 6
"""Scratch rows beside those of inputs and companions: base, zeros, result, total, divisor, spare."""


@inline
def _l1(x: Any, n: int, lanes: Any) -> float:
    """Σ |x[:n]| in a fixed order of lanes."""
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
def _load(raw: Any, codes: Any, start: int, n: int, base: int, count: int, minus: Any, scratch: Any) -> None:
    """Inputs into scratch[:count], companions into the rows after them, the base and zeros after those."""
    others = minus.shape[0]
    b, zeros = scratch[count + others], scratch[count + others + 1]
    if base >= 0:
        widen(raw[base], codes[base], start, n, zeros, b)
    for k in range(count):
        widen(raw[k], codes[k], start, n, b, scratch[k])
    for j in range(others):
        widen(raw[count + j], codes[count + j], start, n, b if minus[j] else zeros, scratch[count + j])


@inline
def _each(
    code: int,
    k: int,
    x: Any,
    n: int,
    numbers: Any,
    cuts: Any,
    ties: Any,
    block: int,
    keys: Any,
    row: int,
    place: int,
    prepared: Any,
    companion: Any,
    divisor: Any,
    words: Any,
) -> None:
    """One operation on one input; ``numbers``, ``cuts`` and ``ties`` are those of this operation and input."""
    limit, factor = numbers[0], numbers[1]
    if code == op.TRIM:
        if ties[0] <= 0 or ties[0] >= block:
            trim(x, n, cuts[0], ties[0] > 0, factor)
        else:
            ties[0] = trim_some_ties(x, n, cuts[0], ties[0], factor)
    elif code == op.DROP and limit < 4294967296.0:
        philox_row(row, keys[0], keys[1], words)
        drop(x, n, words[place:], limit, factor)
    elif code == op.SCALE or code == op.DROP:
        if factor != 1.0:
            scale(x, n, factor)
    elif code == op.BAND:
        some = (0 < ties[0] < block) or (0 < ties[1] < block)
        if some:
            band_some_ties(x, n, cuts, ties, factor)
        else:
            band(x, n, int(cuts[0]) + (ties[0] <= 0), int(cuts[1]) + (ties[1] <= 0), factor)
    elif code == op.DROP_RANKED:
        philox_row(row, keys[0], keys[1], words)
        drop_ranked(x, n, words[place:], prepared, factor, limit == 1.0)
    elif code == op.ELECT_AS:
        elect_as(x, n, companion, factor)
    elif code == op.ABOVE:
        above(x, n, limit)
    elif code == op.BINARY:
        binary(x, n, factor)
    elif code == op.NEAR:
        near(x, n, limit, factor)
    elif code == op.FUSE:
        fuse(x, n, prepared, limit)
    elif code == op.TIMES:
        times(x, n, companion, factor)
    elif code == op.PRECISION:
        precision(x, n, companion, factor, limit, divisor)


@inline
def _all(code: int, x: Any, count: int, n: int, numbers: Any, cuts: Any, ties: Any, block: int, own: int) -> None:
    """One operation over all inputs; ``numbers`` (4, inputs), ``cuts`` and ``ties`` (2, inputs) are its own."""
    zeros, total, divisor, spare = x[own + 1], x[own + 3], x[own + 4], x[own + 5]
    if code == op.ELECT:
        elect(x, count, n, zeros, total)
    elif code == op.ELECT_WEIGHED:
        elect_weighed(x, count, n, zeros, numbers[1], total, divisor)
    elif code == op.LARGEST:
        largest(x, count, n, total, spare)
    elif code == op.UNIQUE:
        unique(x, count, n, numbers[1], spare)
    elif code == op.VARIANCE:
        variance(x, count, n, spare, total)
        ties[0, 0] = keep_varied(x, count, n, total, cuts[0, 0], ties[0, 0], block)
    else:
        total_of(x, count, n, zeros, total)
        if code == op.AGREE:
            agree(x, count, n, total, numbers[0], numbers[1, 0], spare)
        elif code == op.CHOSEN:
            chosen(x, count, n, total, numbers[0], numbers[1])
        elif code == op.RESTORE:
            restore(x, count, n, total, numbers[1], spare)
        elif code == op.COMPETE:
            compete(x, count, n, total, numbers, divisor, spare)


@inline
def _is_each(code: int) -> bool:
    return (
        code == op.TRIM
        or code == op.DROP
        or code == op.SCALE
        or code == op.BAND
        or code == op.DROP_RANKED
        or code == op.ELECT_AS
        or code == op.ABOVE
        or code == op.BINARY
        or code == op.NEAR
        or code == op.FUSE
        or code == op.TIMES
        or code == op.PRECISION
    )


@inline
def _run(
    x: Any,
    count: int,
    others: int,
    n: int,
    stop: int,
    operations: Any,
    numbers: Any,
    cuts: Any,
    ties: Any,
    block: int,
    random_keys: Any,
    first: int,
    prepared: Any,
    start: int,
    words: Any,
) -> None:
    """The first ``stop`` operations on a row."""
    own = count + others
    divisor = x[own + 4]
    divisor[:n] = 0.0
    row, place = first // ROW, first % ROW
    for p in range(stop):
        code = operations[p]
        if _is_each(code):
            for k in range(count):
                companion = x[count + (k if code != op.ELECT_AS else 0)] if others > 0 else divisor
                _each(
                    code,
                    k,
                    x[k],
                    n,
                    numbers[p, :, k],
                    cuts[p, :, k],
                    ties[p, :, k],
                    block,
                    random_keys[k],
                    row,
                    place,
                    prepared[k % prepared.shape[0], start:] if prepared.shape[0] > 0 else divisor,
                    companion,
                    divisor,
                    words,
                )
        else:
            _all(code, x, count, n, numbers[p], cuts[p], ties[p], block, own)


@inline
def _end(code: int, x: Any, count: int, n: int, own: int, numbers: Any, fused: bool) -> None:
    """The result of a row, from what the operations have left; with the election before it when ``fused``."""
    zeros, acc, total, divisor = x[own + 1], x[own + 2], x[own + 3], x[own + 4]
    if fused:
        elected(x, count, n, zeros, numbers[1], code == op.DIVIDE, total, divisor, acc)
        return
    total_of(x, count, n, zeros, acc)
    if code == op.DIVIDE:
        weighed(x, count, n, numbers[1], divisor, acc)
    elif code == op.QUOTIENT:
        floor = numbers[0, 0]
        for i in range(n):
            below = max(divisor[i], floor)
            acc[i] /= below if below != 0.0 else 1.0


@inline
def _count(x: Any, count: int, n: int, own: int, varied: bool, sums: Any) -> None:
    """Add to the counting columns of ``sums``: of elements that vary where they are ranked, else of what overlaps."""
    spread, spare = x[own + 3], x[own + 5]
    if not varied:
        overlap(x, count, n, spare, sums[:, SHARED], sums[:, UNIQUE_COUNT])
        return
    variance(x, count, n, spare, spread)
    nonzero = 0
    for i in range(n):
        nonzero += 1 if spread[i] != 0.0 else 0
    sums[0, op.NONZERO] += nonzero


@inline
def _measure(x: Any, count: int, others: int, n: int, own: int, sums: Any) -> None:
    """Add to the columns of norms and squares of ``sums``."""
    lanes = x[own + 3]
    for k in range(count):
        sums[k, NORM] += _l1(x[k], n, lanes)
        sums[k, SQUARES] += dot(x[k], x[k], n, lanes)
    for k in range(min(count, others)):
        sums[k, op.COMPANION] += dot(x[count + k], x[count + k], n, lanes)


@inline
def _keys(kind: int, x: Any, count: int, n: int, own: int, numbers: Any, prepared: Any, start: int, keys: Any) -> None:
    """keys[k, start : start + n] = what ``kind`` ranks of input k; of VARIANCES one row for all."""
    zeros, total, spare = x[own + 1], x[own + 3], x[own + 5]
    if kind == op.VARIANCES:
        variance_keys(x, count, n, spare, total, keys[0, start:])
        return
    if kind == op.SCORES:
        total_of(x, count, n, zeros, total)
    for k in range(count):
        if kind == op.SCORES:
            score_keys(x[k], count, n, total, numbers[0, k], numbers[1, k], spare, keys[k, start:])
        elif kind == op.IMPORTANCES:
            importance_keys(x[k], n, prepared[k, start:], keys[k, start:])
        else:
            magnitude_keys(x[k], n, keys[k, start:])


@kernel
def rows_block(
    mode: int,
    raw: Any,
    codes: Any,
    n: int,
    base: int,
    anchored: bool,
    result_scale: float,
    count: int,
    minus: Any,
    stop: int,
    operations: Any,
    numbers: Any,
    cuts: Any,
    ties: Any,
    random_keys: Any,
    first: int,
    prepared: Any,
    out: Any,
    out_code: int,
    kind: int,
    keys: Any,
    sums: Any,
    scratch: Any,
    words: Any,
) -> bool:
    """Run a program over n elements, the first of which is element ``first`` of its tensor.

    Args:
        mode: RESULT stores the result in ``out``; KEYS runs the first ``stop`` operations and writes what
            ``kind`` ranks to ``keys``; NORMS and COUNTS run them and add to the columns of ``sums``.
        minus: bool (companions,), whether the base is subtracted from each companion.
        operations: int64 (operations,), codes of :mod:`stockpot.kernels.codes`; the last is an end.
        numbers: float64 (operations, 5, inputs); what they mean depends on the operation.
        cuts: uint32 (operations, 2, inputs), keys at which TRIM, BAND and VARIANCE cut.
        ties: int64 (operations, 2, inputs), how many entries at the cut they keep in this block; n or more
            stands for all of them. Counted down.
        random_keys: int64 (inputs, 2), Philox keys (as uint32 they would halve the speed of the rounds).
        prepared: float64 (inputs or 0, n), a number for each element that was prepared.
        out: bytes of the result.
        keys: uint32 (inputs, n); sums: float64 (inputs, COLUMNS).
        scratch: float64 (inputs + companions + SPARE, ROW); words: uint32 (ROW,).

    Returns:
        Whether a result is not finite.
    """
    bad = False
    others = minus.shape[0]
    own = count + others
    scratch[own : own + 2] = 0.0
    last = operations.shape[0] - 1
    fused = mode == RESULT and operations[last] != op.QUOTIENT and last > 0 and operations[last - 1] == op.ELECT
    ends = last - 1 if fused else last
    start = 0
    while start < n:
        m = min(ROW - (first + start) % ROW, n - start)
        _load(raw, codes, start, m, base, count, minus, scratch)
        if mode == NORMS:
            for k in range(count):
                sums[k, NORM_BEFORE] += _l1(scratch[k], m, scratch[own + 3])
        _run(
            scratch,
            count,
            others,
            m,
            ends if mode == RESULT else stop,
            operations,
            numbers,
            cuts,
            ties,
            n,
            random_keys,
            first + start,
            prepared,
            start,
            words,
        )
        if mode == RESULT:
            _end(operations[last], scratch, count, m, own, numbers[last], fused)
            finish(scratch[own + 2], scratch[own], m, anchored, result_scale, 1.0)
            bad |= narrow(scratch[own + 2], m, out, out_code, start)
        elif mode == KEYS:
            _keys(kind, scratch, count, m, own, numbers[stop], prepared, start, keys)
        elif mode == NORMS:
            _measure(scratch, count, others, m, own, sums)
        else:
            _count(scratch, count, m, own, operations[stop] == op.VARIANCE, sums)
        start += m
    return bad

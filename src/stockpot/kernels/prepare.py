"""Numbers that are prepared for each element from whole rows of a tensor, before its block is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.combine import load_base
from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.convert import widen
from stockpot.kernels.functions import exponential
from stockpot.kernels.gram import LANES, dot
from stockpot.kernels.operations import magnitude_keys
from stockpot.kernels.sizes import ROW

__all__ = ["chances_block", "divergence_rows"]

_DIGIT = 2048
_LEAST, _MOST = 1e-100, 1e100
_MOVES = 8
"""Moves for each key of a row after which sorting by insertion is given up."""


@inline
def _pass(keys: Any, places: Any, n: int, shift: int, counts: Any, keys_out: Any, places_out: Any) -> None:
    """One pass of a stable radix sort, by the 11 bits from ``shift``, largest first."""
    counts[:_DIGIT] = 0
    mask = np.uint32(_DIGIT - 1)
    for i in range(n):
        counts[mask - ((keys[i] >> np.uint32(shift)) & mask)] += 1
    _starts(counts, _DIGIT)
    for i in range(n):
        digit = mask - ((keys[i] >> np.uint32(shift)) & mask)
        to = counts[digit]
        counts[digit] = to + np.uint32(1)
        keys_out[to] = keys[i]
        places_out[to] = places[i]


@inline
def _starts(counts: Any, n: int) -> None:
    """Counts become the sums of those before them."""
    total = np.uint32(0)
    for i in range(n):
        own = counts[i]
        counts[i] = total
        total = np.uint32(total + own)


@inline
def _insert(keys: Any, places: Any, n: int) -> bool:
    """Sort keys and places by insertion, largest key first, stably; False when that would take too many moves."""
    left = _MOVES * n
    for i in range(1, n):
        key = keys[i]
        if keys[i - 1] < key:
            place, j = places[i], i - 1
            while j >= 0 and keys[j] < key:
                keys[j + 1], places[j + 1] = keys[j], places[j]
                j -= 1
            keys[j + 1], places[j + 1] = key, place
            left -= i - j
            if left < 0:
                return False
    return True


@inline
def _spread(keys: Any, n: int, buckets: int, numbers: Any) -> None:
    """numbers[:n] = bucket of each magnitude, the largest first: about as many of a row fall into each.

    A magnitude x falls into bucket ⌊B m / (m + x)⌋ with m the mean; the quotient falls as x grows.
    """
    sizes = keys[:n].view(np.float32)
    total = 0.0
    for i in range(n):
        total += np.float64(sizes[i])
    mean = np.float32(total / n)
    share = np.float32(np.float32(buckets) * mean)
    if not (share > np.float32(0.0) and share < np.float32(np.inf)):
        numbers[:n] = np.uint32(0)
        return
    for i in range(n):
        numbers[i] = np.uint32(np.int32(share / (mean + sizes[i])))


@inline
def _order(keys: Any, n: int, counts: Any, spare: Any, places: Any, more: Any) -> Any:
    """The places of keys[:n], largest key first, equals in the order of their places; in one of the arrays given.

    Keys are dealt into about n buckets, of which the few in each are sorted by insertion; rows whose keys crowd
    in few buckets are sorted by their digits.
    """
    buckets = min(n, counts.shape[0] - 1)
    _spread(keys, n, buckets, spare)
    counts[: buckets + 1] = 0
    for i in range(n):
        counts[spare[i]] = np.uint32(counts[spare[i]] + np.uint32(1))
    _starts(counts, buckets + 1)
    for i in range(n):
        to = counts[spare[i]]
        counts[spare[i]] = np.uint32(to + np.uint32(1))
        more[to] = keys[i]
        places[to] = i
    if _insert(more, places, n):
        return places
    for i in range(n):
        places[i] = i
    _pass(keys, places, n, 0, counts, spare, more)
    _pass(spare, more, n, 11, counts, keys, places)
    _pass(keys, places, n, 22, counts, spare, more)
    return more


@kernel
def chances_block(
    raw: Any,
    codes: Any,
    rows: int,
    length: int,
    base: int,
    density: Any,
    width: Any,
    out: Any,
    scratch: Any,
    keys: Any,
    places: Any,
    counts: Any,
) -> None:
    """Probabilities of keeping, linear in the rank of a magnitude within its row.

    out[k, e] = density[k] - width[k] + 2 width[k] rank / (length - 1); rank 0 is the smallest magnitude, and of
    equal ones the first ranks highest. A row of one element has density[k]; inputs of density 1 are left at 1.

    Args:
        keys, places: uint32 (2, length); counts: uint32 (at least 2048); scratch: three float64 rows.
    """
    x, b, zeros = scratch[0], scratch[1], scratch[2]
    scratch[1:3] = 0.0
    for k in range(density.shape[0]):
        least, step = density[k] - width[k], 2.0 * width[k] / max(length - 1, 1)
        if density[k] >= 1.0:
            out[k, : rows * length] = 1.0
            continue
        if length == 1:
            out[k, :rows] = density[k]
            continue
        for r in range(rows):
            first = r * length
            for offset in range(0, length, ROW):
                m = min(ROW, length - offset)
                load_base(raw, codes, first + offset, m, base, zeros, b)
                widen(raw[k], codes[k], first + offset, m, b, x)
                magnitude_keys(x, m, keys[0, offset:])
            order = _order(keys[0], length, counts, keys[1], places[0], places[1])
            for j in range(length):
                out[k, first + order[j]] = least + step * (length - 1 - j)


@inline
def _top(x: Any, n: int, lanes: Any, top: float) -> float:
    """The largest of ``top`` and x[:n]; numbers that are none are passed over, and noticed later."""
    lanes[:LANES] = top
    whole = n - n % LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] = max(lanes[lane], x[i + lane])
    for i in range(whole, n):
        top = max(x[i], top)
    for lane in range(LANES):
        top = max(lanes[lane], top)
    return top


@inline
def _powers(x: Any, n: int, top: float, out: Any) -> None:
    for i in range(n):
        out[i] = exponential(x[i] - top)


@inline
def _read(raw: Any, codes: Any, base: int, start: int, n: int, zeros: Any, x: Any, b: Any) -> None:
    widen(raw[0], codes[0], start, n, zeros, x)
    widen(raw[base], codes[base], start, n, zeros, b)


@inline
def _sums(
    raw: Any, codes: Any, base: int, first: int, length: int, top_x: float, top_b: float, scratch: Any
) -> tuple[float, float, float]:
    """Σ e^(x − top), Σ e^(b − top) and Σ e^(x − top) (x − b) over a row."""
    x, b, zeros, p, q, ones, lanes = (
        scratch[0],
        scratch[1],
        scratch[2],
        scratch[3],
        scratch[4],
        scratch[5],
        scratch[6],
    )
    sum_x, sum_b, apart = 0.0, 0.0, 0.0
    for offset in range(0, length, ROW):
        m = min(ROW, length - offset)
        _read(raw, codes, base, first + offset, m, zeros, x, b)
        _powers(x, m, top_x, p)
        _powers(b, m, top_b, q)
        for i in range(m):
            x[i] -= b[i]
        sum_x += dot(p, ones, m, lanes)
        sum_b += dot(q, ones, m, lanes)
        apart += dot(p, x, m, lanes)
    return sum_x, sum_b, apart


@inline
def _tops(raw: Any, codes: Any, base: int, first: int, length: int, scratch: Any) -> tuple[float, float]:
    """The largest element of a row of the input and of the base."""
    x, b, zeros, lanes = scratch[0], scratch[1], scratch[2], scratch[6]
    top_x, top_b = -np.inf, -np.inf
    for offset in range(0, length, ROW):
        m = min(ROW, length - offset)
        _read(raw, codes, base, first + offset, m, zeros, x, b)
        top_x, top_b = _top(x, m, lanes, top_x), _top(b, m, lanes, top_b)
    return top_x, top_b


@inline
def _floored(
    raw: Any,
    codes: Any,
    base: int,
    first: int,
    length: int,
    tops: tuple[float, float],
    sums: tuple[float, float],
    floor: float,
    scratch: Any,
) -> float:
    """KL with ``floor`` added to all probabilities."""
    x, b, zeros, p, q = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    total = 0.0
    for offset in range(0, length, ROW):
        m = min(ROW, length - offset)
        _read(raw, codes, base, first + offset, m, zeros, x, b)
        _powers(x, m, tops[0], p)
        _powers(b, m, tops[1], q)
        for i in range(m):
            own = p[i] / sums[0] + floor
            total += own * np.log(own / (q[i] / sums[1] + floor))
    return total


@kernel
def divergence_rows(
    raw: Any, codes: Any, rows: int, length: int, base: int, floor: float, out: Any, scratch: Any
) -> None:
    """out[r] = KL(softmax(input) ‖ softmax(base)) of row r; ``floor`` is added to probabilities.

    Powers are taken of the elements as they are, which weights allow; where their sums leave the range of
    float64, of their differences to the largest.

    Args:
        scratch: seven float64 rows.
    """
    scratch[2], scratch[5] = 0.0, 1.0
    if length == 1:  # one probability of 1 each: without the rounding of logarithms
        out[:rows] = 0.0
        return
    for r in range(rows):
        first = r * length
        top_x, top_b = 0.0, 0.0
        sum_x, sum_b, apart = _sums(raw, codes, base, first, length, top_x, top_b, scratch)
        if not (_LEAST < sum_x < _MOST and _LEAST < sum_b < _MOST):
            top_x, top_b = _tops(raw, codes, base, first, length, scratch)
            sum_x, sum_b, apart = _sums(raw, codes, base, first, length, top_x, top_b, scratch)
        if floor > 0.0:
            out[r] = _floored(raw, codes, base, first, length, (top_x, top_b), (sum_x, sum_b), floor, scratch)
        else:
            out[r] = max(apart / sum_x - ((top_x + np.log(sum_x)) - (top_b + np.log(sum_b))), 0.0)

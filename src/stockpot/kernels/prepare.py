"""Numbers that are prepared for each element from whole rows of a tensor, before its block is computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.combine import load_base
from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.convert import widen
from stockpot.kernels.operations import magnitude_keys
from stockpot.kernels.sizes import ROW

__all__ = ["chances_block", "divergence_block"]

_DIGIT = 2048
_SHORT = 32


@inline
def _pass(keys: Any, places: Any, n: int, shift: int, counts: Any, keys_out: Any, places_out: Any) -> None:
    """One pass of a stable radix sort, by the 11 bits from ``shift``, largest first."""
    counts[:] = 0
    mask = np.uint32(_DIGIT - 1)
    for i in range(n):
        counts[mask - ((keys[i] >> np.uint32(shift)) & mask)] += 1
    total = 0
    for digit in range(_DIGIT):
        own = counts[digit]
        counts[digit] = total
        total += own
    for i in range(n):
        digit = mask - ((keys[i] >> np.uint32(shift)) & mask)
        to = counts[digit]
        counts[digit] = to + 1
        keys_out[to] = keys[i]
        places_out[to] = places[i]


@inline
def _order(keys: Any, n: int, counts: Any, spare: Any, places: Any, more: Any) -> None:
    """places[:n] = the places of keys[:n], largest key first, equals in the order of their places."""
    for i in range(n):
        places[i] = i
    if n <= _SHORT:
        for i in range(1, n):
            key, place, j = keys[i], places[i], i - 1
            while j >= 0 and keys[j] < key:
                keys[j + 1], places[j + 1] = keys[j], places[j]
                j -= 1
            keys[j + 1], places[j + 1] = key, place
        return
    _pass(keys, places, n, 0, counts, spare, more)
    _pass(spare, more, n, 11, counts, keys, places)
    _pass(keys, places, n, 22, counts, spare, more)
    for i in range(n):
        places[i] = more[i]


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
        keys: uint32 (2, length); places: int64 (2, length); counts: int64 (2048,); scratch: three float64 rows.
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
            _order(keys[0], length, counts, keys[1], places[0], places[1])
            for j in range(length):
                out[k, first + places[0, j]] = least + step * (length - 1 - j)


@inline
def _largest(raw: Any, codes: Any, k: int, first: int, length: int, zeros: Any, x: Any) -> float:
    top = -np.inf
    for offset in range(0, length, ROW):
        m = min(ROW, length - offset)
        widen(raw[k], codes[k], first + offset, m, zeros, x)
        for i in range(m):
            top = x[i] if not (x[i] <= top) else top  # a NaN stays
    return top


@inline
def _partition(raw: Any, codes: Any, k: int, first: int, length: int, top: float, zeros: Any, x: Any) -> float:
    """Σ exp(x − top) over a row."""
    total = 0.0
    for offset in range(0, length, ROW):
        m = min(ROW, length - offset)
        widen(raw[k], codes[k], first + offset, m, zeros, x)
        for i in range(m):
            total += np.exp(x[i] - top)
    return total


@kernel
def divergence_block(
    raw: Any, codes: Any, rows: int, length: int, base: int, floor: float, out: Any, scratch: Any
) -> None:
    """out[0, e] = KL(softmax(input) ‖ softmax(base)) of the row of element e; ``floor`` is added to probabilities."""
    x, b, zeros = scratch[0], scratch[1], scratch[2]
    scratch[2] = 0.0
    for r in range(rows):
        first = r * length
        top, top_base = (
            _largest(raw, codes, 0, first, length, zeros, x),
            _largest(raw, codes, base, first, length, zeros, x),
        )
        sum_x = _partition(raw, codes, 0, first, length, top, zeros, x)
        sum_b = _partition(raw, codes, base, first, length, top_base, zeros, x)
        total = 0.0
        for offset in range(0, length, ROW):
            m = min(ROW, length - offset)
            widen(raw[0], codes[0], first + offset, m, zeros, x)
            widen(raw[base], codes[base], first + offset, m, zeros, b)
            for i in range(m):
                p = np.exp(x[i] - top) / sum_x + floor
                q = np.exp(b[i] - top_base) / sum_b + floor
                if floor > 0.0:
                    total += p * np.log(p / q)
                else:
                    total += p * ((x[i] - top - np.log(sum_x)) - (b[i] - top_base - np.log(sum_b)))
        for i in range(length):
            out[0, first + i] = total if floor > 0.0 else max(total, 0.0)

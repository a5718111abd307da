"""Counting magnitudes against a bracket: the streaming half of an exact k-th value.

A magnitude's key is the bit pattern of |d| as float32, an unsigned integer that orders as |d| does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.combine import load_base
from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.convert import widen
from stockpot.kernels.operations import magnitude_keys
from stockpot.kernels.sizes import ROW

__all__ = ["bracket_block", "bracket_keys", "keys_block"]


@inline
def _brain_keys(x: Any, b: Any, n: int, keys: Any) -> None:
    """Keys of differences of bfloat16 patterns, in float32.

    The same keys as by way of float64: a difference of two bfloat16 numbers is either exact in float64
    or the larger one is what both routes round to.
    """
    for i in range(n):
        wide = np.uint32(np.uint32(x[i]) << np.uint32(16)).view(np.float32)
        less = np.uint32(np.uint32(b[i]) << np.uint32(16)).view(np.float32)
        keys[i] = np.float32(abs(np.float32(wide - less))).view(np.uint32)


@inline
def _keys(raw: Any, codes: Any, k: int, base: int, start: int, n: int, x: Any, b: Any, keys: Any) -> None:
    """keys[:n] = the keys of input k less the base, which ``b`` holds as float64."""
    if base >= 0 and codes[k] == 2 and codes[base] == 2:
        first, last = 2 * start, 2 * (start + n)
        _brain_keys(raw[k, first:last].view(np.uint16), raw[base, first:last].view(np.uint16), n, keys)
    else:
        widen(raw[k], codes[k], start, n, b, x)
        magnitude_keys(x, n, keys)


@inline
def _tally(keys: Any, n: int, low: int, high: int, counts: Any) -> None:
    above, at_high, at_low = np.uint32(0), np.uint32(0), np.uint32(0)
    for i in range(n):
        key = keys[i]
        above = np.uint32(above + np.uint32(key > high))
        at_high = np.uint32(at_high + np.uint32(key == high))
        at_low = np.uint32(at_low + np.uint32(key == low))
    counts[0] += above
    counts[1] += at_high
    counts[3] += at_low


_GROUP = 16


@inline
def _collect(keys: Any, n: int, low: int, high: int, found: Any, place: int) -> int:
    """Append keys strictly inside the bracket; returns the new length.

    Groups without one are skipped. The others are stored without a branch, each key over the last
    one that did not count, so that one slot beyond the result is written.
    """
    least = np.uint32(low + np.uint32(1))
    width = np.uint32(high - least)
    end = np.uint64(place)  # unsigned: a signed index would be tested for wrapping around
    whole = n - n % _GROUP
    for group in range(0, whole, _GROUP):
        some = np.uint32(0)
        for i in range(_GROUP):
            some = np.uint32(some | np.uint32(np.uint32(keys[group + i] - least) < width))
        if some != np.uint32(0):
            for i in range(_GROUP):
                found[end] = keys[group + i]
                end = np.uint64(end + np.uint64(np.uint32(keys[group + i] - least) < width))
    for i in range(whole, n):
        found[end] = keys[i]
        end = np.uint64(end + np.uint64(np.uint32(keys[i] - least) < width))
    return np.int64(end)  # type: ignore[return-value]  # numba's int


@kernel
def keys_block(raw: Any, codes: Any, n: int, base: int, k: int, keys: Any, scratch: Any) -> None:
    """keys[:n] = the keys of input k (less the base); ``scratch`` has three float64 rows."""
    x, b, zeros = scratch[0], scratch[1], scratch[2]
    scratch[1:3] = 0.0
    for start in range(0, n, ROW):
        m = min(ROW, n - start)
        load_base(raw, codes, start, m, base, zeros, b)
        _keys(raw, codes, k, base, start, m, x, b, keys[start : start + m])


@inline
def _search(keys: Any, n: int, s: int, low: Any, high: Any, counts: Any, found: Any) -> None:
    """Count ``keys`` against the bracket of search ``s``."""
    _tally(keys, n, low[s], high[s], counts[s])
    if high[s] > low[s] + np.uint32(1):
        counts[s, 2] = _collect(keys, n, low[s], high[s], found[s], counts[s, 2])


@inline
def _settle(low: Any, high: Any, counts: Any) -> None:
    for s in range(low.shape[0]):
        if low[s] == high[s]:
            counts[s, 3] = 0


@kernel
def bracket_block(
    raw: Any,
    codes: Any,
    n: int,
    base: int,
    sources: Any,
    low: Any,
    high: Any,
    counts: Any,
    found: Any,
    scratch: Any,
    keys: Any,
) -> None:
    """Count n elements of inputs (less the base) against brackets [low, high], one for each search.

    Search s looks at input sources[s]; searches of one input stand together. counts[s] = how many keys are
    above high, equal to high, strictly inside, equal to low (0 when low = high: they count as equal to high).
    The keys strictly inside go to found[s], which holds n + 1. A search whose low is above its high is passed
    over. ``keys`` is uint32 (ROW,).
    """
    x, b, zeros = scratch[0], scratch[1], scratch[2]
    scratch[1:3] = 0.0
    counts[:] = 0
    for start in range(0, n, ROW):
        m = min(ROW, n - start)
        load_base(raw, codes, start, m, base, zeros, b)
        current = -1
        for s in range(low.shape[0]):
            if low[s] > high[s]:
                continue
            if sources[s] != current:
                current = sources[s]
                _keys(raw, codes, current, base, start, m, x, b, keys)
            _search(keys, m, s, low, high, counts, found)
    _settle(low, high, counts)


@kernel
def bracket_keys(keys: Any, n: int, sources: Any, low: Any, high: Any, counts: Any, found: Any) -> None:
    """As :func:`bracket_block` for keys that were made before: row sources[s] of ``keys`` for search s."""
    counts[:] = 0
    for start in range(0, n, ROW):
        m = min(ROW, n - start)
        for s in range(low.shape[0]):
            if low[s] <= high[s]:
                _search(keys[sources[s], start:], m, s, low, high, counts, found)
    _settle(low, high, counts)

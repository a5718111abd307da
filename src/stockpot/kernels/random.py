"""Philox4x32-10: random numbers as a pure function of (key, counter).

Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3. Element e of a tensor
lies in row ⌊e / 2048⌋ at place p = e mod 2048 and takes output ⌊p / 512⌋ of the counter
(row × 512 + p mod 512, 0, 0); so a row's four quarters come from the four outputs of 512 counters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.sizes import ROW

__all__ = ["philox_block", "philox_row"]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_QUARTER = ROW // 4


@inline
def philox_row(row: int, key0: int, key1: int, out: Any) -> None:
    """out[:ROW] (uint32) = the random words of row number ``row``."""
    first = np.uint64(row) * np.uint64(_QUARTER)
    for j in range(_QUARTER):
        counter = np.uint64(first + np.uint64(j))
        c0 = np.uint32(counter & _LOW)
        c1 = np.uint32(counter >> np.uint64(32))
        c2 = np.uint32(0)
        c3 = np.uint32(0)
        k0 = np.uint32(key0)
        k1 = np.uint32(key1)
        for _ in range(10):
            p0 = np.uint64(np.uint64(c0) * _M0)
            p1 = np.uint64(np.uint64(c2) * _M1)
            c0 = np.uint32(np.uint32(np.uint32(p1 >> np.uint64(32)) ^ c1) ^ k0)
            c2 = np.uint32(np.uint32(np.uint32(p0 >> np.uint64(32)) ^ c3) ^ k1)
            c1 = np.uint32(p1 & _LOW)
            c3 = np.uint32(p0 & _LOW)
            k0 = np.uint32(k0 + _W0)
            k1 = np.uint32(k1 + _W1)
        out[j] = c0
        out[_QUARTER + j] = c1
        out[2 * _QUARTER + j] = c2
        out[3 * _QUARTER + j] = c3


@kernel
def philox_block(first_row: int, rows: int, key0: int, key1: int, out: Any) -> None:
    """The random words of ``rows`` rows from ``first_row``, into out[: rows * ROW]."""
    for r in range(rows):
        philox_row(first_row + r, key0, key1, out[r * ROW : (r + 1) * ROW])

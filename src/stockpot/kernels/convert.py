"""Between stored dtypes and float64 rows: exact widening, one correct rounding on the way back.

The codes are those of :class:`stockpot.checkpoint.dtypes.DType`. Rounding is to nearest, ties to even,
straight from float64: there is no intermediate float32, so no double rounding. Values beyond a
format's largest become infinity, or NaN in F8_E4M3, which has none; :func:`narrow` says so.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from stockpot.kernels.compile import inline, kernel
from stockpot.kernels.sizes import ROW

__all__ = [
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "F16",
    "F32",
    "F64",
    "WIDTHS",
    "accumulate",
    "brain",
    "narrow",
    "narrow_block",
    "widen",
    "widen_block",
]

F64, F32, BF16, F16, F8_E4M3, F8_E5M2 = 0, 1, 2, 3, 4, 5
WIDTHS = (8, 4, 2, 2, 1, 1)
"""Bytes of a value of each code."""


def _table(dtype: npt.DTypeLike) -> npt.NDArray[np.float64]:
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)


_E4M3_VALUES = _table(ml_dtypes.float8_e4m3fn)
_E5M2_VALUES = _table(ml_dtypes.float8_e5m2)

# Bit patterns of float64 and float32. They are typed: mixing widths would promote to float64.
_EXPONENT = np.uint64(0x7FF0000000000000)
_TO_QUANTUM = 52
_BIAS64 = 1023
_SIGN32 = np.uint32(0x80000000)
_REST32 = np.uint32(0x7FFFFFFF)
_INFINITE32 = np.uint32(0x7F800000)


@inline
def brain(bits: int) -> float:
    """The value of a bfloat16 pattern."""
    return np.float64(np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32))


@inline
def _half(bits: int) -> float:
    """IEEE half: shift into a float32 pattern and multiply by 2^112, which also mends subnormals."""
    word = np.uint32(bits)
    rest = np.uint32((word & np.uint32(0x7FFF)) << np.uint32(13))
    value = np.float64(rest.view(np.float32)) * 5.192296858534828e33
    wide = np.float64(np.uint32(rest | _INFINITE32).view(np.float32))
    magnitude = wide if rest >= np.uint32(0x0F800000) else value
    return -magnitude if (word & np.uint32(0x8000)) != np.uint32(0) else magnitude


@inline
def widen(raw: Any, code: int, start: int, n: int, b: Any, out: Any) -> None:
    """out[:n] = elements start … start + n of the bytes ``raw``, as float64, less b[:n]."""
    if code == 2:
        words = raw[2 * start : 2 * (start + n)].view(np.uint16)
        for i in range(n):
            out[i] = brain(words[i]) - b[i]
    elif code == 1:
        single = raw[4 * start : 4 * (start + n)].view(np.float32)
        for i in range(n):
            out[i] = np.float64(single[i]) - b[i]
    elif code == 0:
        double = raw[8 * start : 8 * (start + n)].view(np.float64)
        for i in range(n):
            out[i] = double[i] - b[i]
    elif code == 3:
        half = raw[2 * start : 2 * (start + n)].view(np.uint16)
        for i in range(n):
            out[i] = _half(half[i]) - b[i]
    elif code == 4:
        for i in range(n):
            out[i] = _E4M3_VALUES[raw[start + i]] - b[i]
    else:
        for i in range(n):
            out[i] = _E5M2_VALUES[raw[start + i]] - b[i]


@inline
def accumulate(raw: Any, code: int, start: int, n: int, b: Any, factor: float, acc: Any) -> None:
    """acc[:n] += factor × (elements start … start + n of the bytes ``raw``, less b[:n])."""
    if code == 2:
        words = raw[2 * start : 2 * (start + n)].view(np.uint16)
        for i in range(n):
            acc[i] += factor * (brain(words[i]) - b[i])
    elif code == 1:
        single = raw[4 * start : 4 * (start + n)].view(np.float32)
        for i in range(n):
            acc[i] += factor * (np.float64(single[i]) - b[i])
    elif code == 0:
        double = raw[8 * start : 8 * (start + n)].view(np.float64)
        for i in range(n):
            acc[i] += factor * (double[i] - b[i])
    elif code == 3:
        half = raw[2 * start : 2 * (start + n)].view(np.uint16)
        for i in range(n):
            acc[i] += factor * (_half(half[i]) - b[i])
    elif code == 4:
        for i in range(n):
            acc[i] += factor * (_E4M3_VALUES[raw[start + i]] - b[i])
    else:
        for i in range(n):
            acc[i] += factor * (_E5M2_VALUES[raw[start + i]] - b[i])


@inline
def _rounded(x: float, mantissa: int, least: int) -> float:
    """x rounded to ``mantissa`` bits after the point, with exponents no smaller than ``least``.

    Adding and subtracting 1.5 × 2^52 quanta rounds to a whole number of quanta, ties to even.
    """
    exponent = np.uint64(np.float64(x).view(np.uint64) & _EXPONENT)
    exponent = np.uint64(max(exponent, np.uint64((_BIAS64 + least) << 52)))
    exponent = np.uint64(min(exponent, np.uint64((_BIAS64 + 128) << 52)))
    magic = np.uint64(exponent + np.uint64((_TO_QUANTUM - mantissa) << 52)).view(np.float64) * 1.5
    return (x + magic) - magic


@inline
def _narrow_small(row: Any, n: int, out: Any, mantissa: int, least: int, largest: float, beyond: int, nan: int) -> bool:
    """Encode float64 as a format with ``mantissa`` bits and a bias of 1 - ``least``; see :func:`narrow`."""
    scale = np.float32(2.0 ** (-126 - least))
    shift = np.uint32(23 - mantissa)
    width = 8 * out.itemsize
    bad = False
    for i in range(n):
        x = row[i]
        y = _rounded(x, mantissa, least)
        overflow = not (abs(y) <= largest)
        bad |= overflow
        bits = np.uint32(np.float32(np.float32(abs(y)) * scale).view(np.uint32))
        code = np.uint32(bits >> shift)
        code = np.uint32(beyond) if overflow else code
        code = np.uint32(nan) if np.isnan(x) else code
        sign = np.uint32(np.float32(x).view(np.uint32) & _SIGN32)
        out[i] = np.uint32(code | np.uint32(sign >> np.uint32(32 - width)))
    return bad


@inline
def narrow(row: Any, n: int, raw: Any, code: int, start: int) -> bool:
    """Round row[:n] into elements start … of ``raw``; True when one was not finite or became so."""
    bad = False
    if code == 2:
        words = raw[2 * start : 2 * (start + n)].view(np.uint16)
        for i in range(n):
            y = np.float32(np.copysign(_rounded(row[i], 7, -126), row[i]))  # rounding to 0 keeps the sign
            words[i] = np.uint16(np.uint32(y.view(np.uint32)) >> np.uint32(16))
            bad |= not (abs(y) < np.float32(np.inf))
    elif code == 1:
        single = raw[4 * start : 4 * (start + n)].view(np.float32)
        for i in range(n):
            y = np.float32(row[i])
            single[i] = y
            bad |= not (abs(y) < np.float32(np.inf))
    elif code == 0:
        double = raw[8 * start : 8 * (start + n)].view(np.float64)
        for i in range(n):
            double[i] = row[i]
            bad |= not (abs(row[i]) < np.inf)
    elif code == 3:
        bad = _narrow_small(row, n, raw[2 * start : 2 * (start + n)].view(np.uint16), 10, -14, 65504.0, 0x7C00, 0x7E00)
    elif code == 4:
        bad = _narrow_small(row, n, raw[start : start + n], 3, -6, 448.0, 0x7F, 0x7F)
    else:
        bad = _narrow_small(row, n, raw[start : start + n], 2, -14, 57344.0, 0x7C, 0x7E)
    return bad


@kernel
def widen_block(raw: Any, code: int, n: int, out: Any, zeros: Any) -> None:
    """out[:n] (float64) = the first n elements of the bytes ``raw``; ``zeros`` is a row of zeros."""
    for start in range(0, n, ROW):
        widen(raw, code, start, min(ROW, n - start), zeros, out[start:])


@kernel
def narrow_block(row: Any, n: int, raw: Any, code: int) -> bool:
    """Round the float64 values row[:n] into ``raw``; True when one was not finite or became so."""
    return narrow(row, n, raw, code, 0)

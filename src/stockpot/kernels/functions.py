"""exp and tanh from additions and products alone: the same bits on every processor, several values at a time.

The C library's functions differ between platforms in the last bit and take one value at a time.
"""

from __future__ import annotations

import numpy as np

from stockpot.kernels.compile import inline

__all__ = ["SMALL", "exponential", "hyperbolic_tangent", "small_tangent"]

SMALL = 0.25

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.693147180369123816490
_LN2_LOW = 1.90821492927058770002e-10
_MAGIC = 6755399441055744.0
"""1.5 × 2^52: adding it rounds to a whole number, which then stands in the lowest bits."""


@inline
def exponential(x: float) -> float:
    """e^x, limited to x in [-708, 708]; within 4 units in the last place."""
    x = min(max(x, -708.0), 708.0)
    shifted = np.float64(x * _LOG2_E + _MAGIC)
    whole = shifted - _MAGIC
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    p = 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = np.int64((shifted.view(np.int64) + np.int64(1023)) << np.int64(52)).view(np.float64)
    return p * power


@inline
def small_tangent(x: float) -> float:
    """tanh x for |x| < 1/4, by its series; within 1e-12 of it relatively."""
    square = x * x
    p = 929569.0 / 638512875.0
    p = 21844.0 / 6081075.0 - p * square
    p = 1382.0 / 155925.0 - p * square
    p = 62.0 / 2835.0 - p * square
    p = 17.0 / 315.0 - p * square
    p = 2.0 / 15.0 - p * square
    p = 1.0 / 3.0 - p * square
    return x - x * square * p


@inline
def hyperbolic_tangent(x: float) -> float:
    """tanh x, within 1e-12 of it relatively; below 1/4 the same bits as :func:`small_tangent`."""
    e = exponential(-2.0 * abs(x))
    large = np.copysign((1.0 - e) / (1.0 + e), x)
    return small_tangent(x) if abs(x) < SMALL else large

"""Sums over the inputs of a row and elections of signs, four inputs at a time and in registers where they fit."""

from __future__ import annotations

from typing import Any

from stockpot.kernels.compile import inline

__all__ = ["agreeing", "elect", "elect_weighed", "elected", "total_of", "weighed"]


@inline
def _add4(x0: Any, x1: Any, x2: Any, x3: Any, n: int, acc: Any) -> None:
    for i in range(n):
        acc[i] = (((acc[i] + x0[i]) + x1[i]) + x2[i]) + x3[i]


@inline
def total_of(x: Any, count: int, n: int, zeros: Any, acc: Any) -> None:
    """acc[:n] = Σ x[k][:n] in order; four at a time, so that the sum is loaded and stored less often."""
    acc[:n] = 0.0
    for k in range(0, count, 4):
        x1, x2, x3 = _row(x, k + 1, count, zeros), _row(x, k + 2, count, zeros), _row(x, k + 3, count, zeros)
        _add4(x[k], x1, x2, x3, n, acc)


@inline
def _elect(x: Any, n: int, total: Any) -> None:
    for i in range(n):
        x[i] = agreeing(x[i], total[i])


@inline
def _weight(x: float, weight: float) -> float:
    return weight if x != 0.0 else 0.0


@inline
def agreeing(x: float, total: float) -> float:
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
        a, b = agreeing(x0[i], total[i]), agreeing(x1[i], total[i])
        c, d = agreeing(x2[i], total[i]), agreeing(x3[i], total[i])
        acc[i] = (((acc[i] + a) + b) + c) + d
        divisor[i] = (((divisor[i] + _weight(a, w0)) + _weight(b, w1)) + _weight(c, w2)) + _weight(d, w3)


@inline
def _elect_few(
    x0: Any, x1: Any, x2: Any, x3: Any, n: int, w0: float, w1: float, w2: float, w3: float, divides: bool, acc: Any
) -> None:
    """Elect among at most four inputs and combine them, all in registers."""
    for i in range(n):
        total = ((x0[i] + x1[i]) + x2[i]) + x3[i]
        a, b = agreeing(x0[i], total), agreeing(x1[i], total)
        c, d = agreeing(x2[i], total), agreeing(x3[i], total)
        acc[i] = ((a + b) + c) + d
        if divides:
            weight = ((_weight(a, w0) + _weight(b, w1)) + _weight(c, w2)) + _weight(d, w3)
            acc[i] /= weight if weight != 0.0 else 1.0


@inline
def _elect_many(
    x: Any, count: int, n: int, zeros: Any, weights: Any, divides: bool, total: Any, divisor: Any, acc: Any
) -> None:
    """As :func:`_elect_few` for any number of inputs, four at a time."""
    total_of(x, count, n, zeros, total)
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
def elect(x: Any, count: int, n: int, zeros: Any, total: Any) -> None:
    """Set entries to 0 whose sign is not that of the sum."""
    total_of(x, count, n, zeros, total)
    for k in range(count):
        _elect(x[k], n, total)


@inline
def elect_weighed(x: Any, count: int, n: int, zeros: Any, factors: Any, total: Any, divisor: Any) -> None:
    """As :func:`elect`; what stays is multiplied by its input's factor, and those factors are added up."""
    total_of(x, count, n, zeros, total)
    for k in range(count):
        row, factor = x[k], factors[k]
        for i in range(n):
            kept = agreeing(row[i], total[i])
            row[i] = kept * factor
            divisor[i] += factor if kept != 0.0 else 0.0


@inline
def elected(
    x: Any, count: int, n: int, zeros: Any, weights: Any, divides: bool, total: Any, divisor: Any, acc: Any
) -> None:
    """acc[:n] = the sum of the entries that agree with its sign, divided by their weights where ``divides``."""
    if count <= 4:
        x1, x2, x3 = _row(x, 1, count, zeros), _row(x, 2, count, zeros), _row(x, 3, count, zeros)
        w1, w2, w3 = _at(weights, 1, count), _at(weights, 2, count), _at(weights, 3, count)
        _elect_few(x[0], x1, x2, x3, n, weights[0], w1, w2, w3, divides, acc)
    else:
        _elect_many(x, count, n, zeros, weights, divides, total, divisor, acc)


@inline
def weighed(x: Any, count: int, n: int, weights: Any, divisor: Any, acc: Any) -> None:
    """Divide acc[:n] by the weights of the entries that are not 0; by 1 where there are none."""
    _weigh(x, count, n, weights, divisor)
    _divide(acc, divisor, n)

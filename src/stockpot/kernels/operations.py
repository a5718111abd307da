"""What one operation does to a row of one input, or of all inputs.

Entries are removed by multiplying with 0, never by replacing them: a NaN or infinity that stands in an
input therefore reaches the result as NaN, where it is noticed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.kernels.compile import inline
from stockpot.kernels.elect import agreeing
from stockpot.kernels.functions import SMALL, exponential, hyperbolic_tangent, small_tangent

__all__ = [
    "above",
    "agree",
    "band",
    "band_some_ties",
    "binary",
    "chosen",
    "compete",
    "drop",
    "drop_ranked",
    "elect_as",
    "fuse",
    "importance_keys",
    "keep_varied",
    "largest",
    "magnitude_keys",
    "near",
    "overlap",
    "precision",
    "restore",
    "scale",
    "score_keys",
    "times",
    "trim",
    "trim_some_ties",
    "unique",
    "variance",
    "variance_keys",
]


@inline
def trim(x: Any, n: int, threshold: int, keep_ties: bool, factor: float) -> None:
    """Keeps x, times ``factor``, where its key is above ``threshold``, or at it when ``keep_ties``."""
    least = np.uint32(threshold if keep_ties else threshold + 1)
    for i in range(n):
        key = np.uint32(np.float32(abs(x[i])).view(np.uint32))
        x[i] *= factor if key >= least else 0.0


@inline
def trim_some_ties(x: Any, n: int, threshold: int, left: int, factor: float) -> int:
    """As :func:`trim`, keeping the first ``left`` ties; returns how many may still be kept."""
    for i in range(n):
        key = np.uint32(np.float32(abs(x[i])).view(np.uint32))
        tie = key == threshold
        keep = key > threshold or (tie and left > 0)
        left -= 1 if tie and left > 0 else 0
        x[i] *= factor if keep else 0.0
    return left


@inline
def drop(x: Any, n: int, words: Any, limit: float, factor: float) -> None:
    """Keeps x, times ``factor``, where its random word is below ``limit`` (in [0, 2^32])."""
    bound = np.uint32(min(limit, 4294967295.0))
    for i in range(n):
        x[i] *= factor if words[i] < bound else 0.0


@inline
def scale(x: Any, n: int, factor: float) -> None:
    """x *= factor."""
    for i in range(n):
        x[i] *= factor


@inline
def band(x: Any, n: int, low: int, high: int, factor: float) -> None:
    """Keeps x, times ``factor``, where its key is in [low, high)."""
    least, width = np.uint32(low), np.uint32(max(high - low, 0))
    for i in range(n):
        key = np.uint32(np.float32(abs(x[i])).view(np.uint32))
        x[i] *= factor if np.uint32(key - least) < width else 0.0


@inline
def band_some_ties(x: Any, n: int, cuts: Any, left: Any, factor: float) -> None:
    """Keeps what a trim at (cuts[0], left[0]) keeps and one at (cuts[1], left[1]) does not; counts ``left`` down."""
    low, high = np.uint32(cuts[0]), np.uint32(cuts[1])
    low_left, high_left = left[0], left[1]
    for i in range(n):
        key = np.uint32(np.float32(abs(x[i])).view(np.uint32))
        at_low, at_high = key == low, key == high
        inner = key > low or (at_low and low_left > 0)
        outer = key > high or (at_high and high_left > 0)
        low_left -= 1 if at_low and low_left > 0 else 0
        high_left -= 1 if at_high and high_left > 0 else 0
        x[i] *= factor if inner and not outer else 0.0
    left[0], left[1] = low_left, high_left


@inline
def drop_ranked(x: Any, n: int, words: Any, chances: Any, factor: float, divides: bool) -> None:
    """Keeps x with probability chances[i]; what stays is multiplied by ``factor``, and divided by its chance."""
    for i in range(n):
        kept = factor if np.float64(words[i]) < chances[i] * 4294967296.0 else 0.0
        x[i] *= kept / chances[i] if divides and kept != 0.0 else kept


@inline
def elect_as(x: Any, n: int, leader: Any, factor: float) -> None:
    """Keeps x, times ``factor``, where its sign is that of ``leader`` (0 counts as +)."""
    for i in range(n):
        x[i] = agreeing(x[i], leader[i]) * factor + leader[i] * 0.0  # NaN and infinity are noticed


@inline
def largest(x: Any, count: int, n: int, best: Any, places: Any) -> None:
    """Keeps the entry of largest magnitude among the inputs, the first of equals; the others become 0."""
    for i in range(n):
        best[i] = abs(x[0][i])
        places[i] = 0.0
    for k in range(1, count):
        row = x[k]
        for i in range(n):
            more = abs(row[i]) > best[i]
            best[i] = abs(row[i]) if more else best[i]
            places[i] = np.float64(k) if more else places[i]
    for k in range(count):
        row, own = x[k], np.float64(k)
        for i in range(n):
            row[i] *= 1.0 if places[i] == own else 0.0


@inline
def above(x: Any, n: int, limit: float) -> None:
    """Keeps x where |x| > limit."""
    for i in range(n):
        x[i] *= 1.0 if abs(x[i]) > limit else 0.0


@inline
def _others(x: Any, count: int, n: int, present: Any) -> None:
    """present[:n] = how many inputs are not 0."""
    present[:n] = 0.0
    for k in range(count):
        row = x[k]
        for i in range(n):
            present[i] += 1.0 if row[i] != 0.0 else 0.0


@inline
def unique(x: Any, count: int, n: int, factors: Any, present: Any) -> None:
    """Multiplies entries that are alone by their input's factor."""
    _others(x, count, n, present)
    for k in range(count):
        row, factor = x[k], factors[k]
        for i in range(n):
            row[i] *= factor if present[i] == 1.0 else 1.0


@inline
def overlap(x: Any, count: int, n: int, present: Any, shared: Any, alone: Any) -> None:
    """Adds to shared[k] and alone[k] how many entries of input k others have too, or no other has."""
    _others(x, count, n, present)
    for k in range(count):
        row = x[k]
        both, one = 0, 0
        for i in range(n):
            both += 1 if row[i] != 0.0 and present[i] > 1.0 else 0
            one += 1 if row[i] != 0.0 and present[i] == 1.0 else 0
        shared[k] += both
        alone[k] += one


@inline
def agree(x: Any, count: int, n: int, total: Any, limits: Any, least: float, votes: Any) -> None:
    """Keeps the elements where at least ``least`` inputs have |x| > limit × |total − x|."""
    votes[:n] = 0.0
    for k in range(count):
        row, limit = x[k], limits[k]
        for i in range(n):
            votes[i] += 1.0 if abs(row[i]) > limit * abs(total[i] - row[i]) else 0.0
    for k in range(count):
        row = x[k]
        for i in range(n):
            row[i] *= 1.0 if votes[i] >= least else 0.0


@inline
def chosen(x: Any, count: int, n: int, total: Any, limits: Any, factors: Any) -> None:
    """1 where an input of factor 1 has |x| > limit × |total − x|; 0 elsewhere, and in the other inputs."""
    for k in range(count):
        row, limit, factor = x[k], limits[k], factors[k]
        for i in range(n):
            mine = 1.0 if abs(row[i]) > limit * abs(total[i] - row[i]) else 0.0
            row[i] = mine * factor + row[i] * 0.0


@inline
def restore(x: Any, count: int, n: int, total: Any, factors: Any, best: Any) -> None:
    """The unified entry, sign(total) × max of the agreeing |x|, where an input of factor 1 has that sign."""
    best[:n] = 0.0
    for k in range(count):
        row = x[k]
        for i in range(n):
            best[i] = max(best[i], abs(agreeing(row[i], total[i])))
    for k in range(count):
        row, factor = x[k], factors[k]
        for i in range(n):
            sign = (1.0 if total[i] >= 0.0 else -1.0) if agreeing(row[i], total[i]) != 0.0 else 0.0
            row[i] = sign * best[i] * factor + row[i] * 0.0


@inline
def binary(x: Any, n: int, factor: float) -> None:
    """``factor`` where x is not 0."""
    for i in range(n):
        x[i] = (factor if x[i] != 0.0 else 0.0) + x[i] * 0.0


@inline
def variance(x: Any, count: int, n: int, mean: Any, out: Any) -> None:
    """out[:n] = Σ (x − mean)² / count over the inputs; exactly 0 where all are equal, as the first is taken off."""
    first, share = x[0], 1.0 / count
    mean[:n] = 0.0
    for k in range(1, count):
        row = x[k]
        for i in range(n):
            mean[i] += row[i] - first[i]
    for i in range(n):
        mean[i] *= share
        out[i] = mean[i] * mean[i]
    for k in range(1, count):
        row = x[k]
        for i in range(n):
            apart = (row[i] - first[i]) - mean[i]
            out[i] += apart * apart
    for i in range(n):
        out[i] *= share


@inline
def keep_varied(x: Any, count: int, n: int, spread: Any, cut: int, left: int, block: int) -> int:
    """Keeps elements whose ``spread`` has a key above ``cut``, and the first ``left`` at it; returns what is left."""
    threshold = np.uint32(cut)
    if left <= 0 or left >= block:
        least = np.uint32(cut if left > 0 else cut + 1)
        for i in range(n):
            spread[i] = 1.0 if np.uint32(np.float32(spread[i]).view(np.uint32)) >= least else 0.0
    else:
        for i in range(n):
            key = np.uint32(np.float32(spread[i]).view(np.uint32))
            tie = key == threshold
            keep = key > threshold or (tie and left > 0)
            left -= 1 if tie and left > 0 else 0
            spread[i] = 1.0 if keep else 0.0
    for k in range(count):
        row = x[k]
        for i in range(n):
            row[i] *= spread[i]
    return left


@inline
def _scores(x: Any, n: int, total: Any, low: float, high: float, count: int, out: Any) -> None:
    """PCB's balance as float32: exp(count × ((min(max(|x|, low), high) − low) / (high − low))²) × tanh(x × total)."""
    inverse = 1.0 / (high - low) if high > low else 0.0
    large = 0
    for i in range(n):
        out[i] = x[i] * total[i]
        large += 0 if abs(out[i]) < SMALL else 1
    if large:
        for i in range(n):
            out[i] = hyperbolic_tangent(out[i])
    else:
        for i in range(n):
            out[i] = small_tangent(out[i])
    for i in range(n):
        place = (min(max(abs(x[i]), low), high) - low) * inverse
        out[i] = np.float32(exponential(count * (place * place)) * out[i])


@inline
def compete(x: Any, count: int, n: int, total: Any, numbers: Any, divisor: Any, scores: Any) -> None:
    """Entries limited to magnitudes in [low, high], times their shares; the shares are added to ``divisor``.

    A share is weight × (score − cut) / (top − cut), for scores above the cut; 1 for equals of a single value.
    ``numbers`` has rows of low, high, cut, top and weight.
    """
    for k in range(count):
        row, low, high, cut = x[k], numbers[0, k], numbers[1, k], numbers[2, k]
        top, weight = numbers[3, k], numbers[4, k]
        _scores(row, n, total, low, high, count, scores)
        factor, least = (weight / (top - cut), 0.0) if top > cut else (0.0, weight)
        for i in range(n):
            share = max(scores[i] - cut, 0.0) * factor + least
            limited = np.copysign(min(max(abs(row[i]), low), high), row[i]) + (row[i] - row[i])
            row[i] = share * limited
            divisor[i] += share


@inline
def near(x: Any, n: int, limit: float, floor: float) -> None:
    """x *= min(1, max(0, limit / max(|x|, floor)))."""
    for i in range(n):
        x[i] *= min(1.0, max(0.0, limit / max(abs(x[i]), floor)))


@inline
def fuse(x: Any, n: int, prepared: Any, limit: float) -> None:
    """Keeps x where |x| × prepared, as float32, is at least ``limit``."""
    for i in range(n):
        x[i] *= 1.0 if np.float64(np.float32(abs(x[i]) * prepared[i])) >= limit else 0.0


@inline
def times(x: Any, n: int, companion: Any, factor: float) -> None:
    """x *= companion × factor."""
    for i in range(n):
        x[i] *= companion[i] * factor


@inline
def precision(x: Any, n: int, companion: Any, factor: float, floor: float, divisor: Any) -> None:
    """x *= weight and divisor += weight, with weight = factor × max(companion, floor)."""
    for i in range(n):
        weight = factor * (max(companion[i], floor) + (companion[i] - companion[i]))  # NaN stays NaN
        x[i] *= weight
        divisor[i] += weight


@inline
def _key(value: float) -> Any:
    """The bit pattern of |value| as float32, which orders as |value| does; 0 for a NaN.

    The difference of infinities that models share in a mask is a NaN: the mask is no statistic of the others.
    """
    bits = np.float32(abs(value)).view(np.uint32)
    return np.uint32(bits if bits <= np.uint32(0x7F800000) else np.uint32(0))


@inline
def magnitude_keys(x: Any, n: int, keys: Any) -> None:
    """keys[:n] = those of |x|."""
    for i in range(n):
        keys[i] = _key(x[i])


@inline
def importance_keys(x: Any, n: int, prepared: Any, keys: Any) -> None:
    """As :func:`magnitude_keys` for |x| × prepared, which is negative only by rounding."""
    for i in range(n):
        keys[i] = _key(abs(x[i]) * prepared[i])


@inline
def variance_keys(x: Any, count: int, n: int, mean: Any, spread: Any, keys: Any) -> None:
    """As :func:`magnitude_keys` for the variance over the inputs."""
    variance(x, count, n, mean, spread)
    magnitude_keys(spread, n, keys)


@inline
def score_keys(x: Any, count: int, n: int, total: Any, low: float, high: float, scores: Any, keys: Any) -> None:
    """Keys of PCB's scores of one input: bit patterns turned so that signed numbers are in order."""
    _scores(x, n, total, low, high, count, scores)
    for i in range(n):
        bits = np.uint32(np.float32(scores[i] if abs(scores[i]) < np.inf else 0.0).view(np.uint32))
        turned = np.uint32(np.uint32(0) - (bits >> np.uint32(31))) | np.uint32(0x80000000)
        keys[i] = np.uint32(bits ^ np.uint32(turned))

"""From values of examples to figures: bootstrap intervals, ratios, rank correlation, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpot.evaluate.protocol import mean

__all__ = ["BINS", "Bootstrap", "Part", "Strata", "calibration_error", "ratio", "spearman"]

Floats: TypeAlias = npt.NDArray[np.float64]

BINS = 15
"""Bins of equal width in which confidence is compared with accuracy."""

_CHUNK = 4_000_000
"""Indices that are drawn at a time."""
_HELD = 1_000_000
"""Of one count of examples, that are kept for the next model: 8 MB."""


@dataclass(frozen=True)
class Bootstrap:
    """The percentile bootstrap over examples (Efron, 1979): examples are drawn with replacement, ``resamples`` times.

    The draws depend on ``seed`` and the number of examples alone, so that two models are compared on the same ones.

    Args:
        seed: Key of the draws.
        resamples: How many.
        level: Share of resampled figures that an interval holds, in (0, 1).
    """

    seed: int = 0
    resamples: int = 1000
    level: float = 0.95

    def figures(self, values: npt.NDArray[Any], figure: Callable[[npt.NDArray[Any]], float]) -> Floats:
        """The figure of each resample of the rows of ``values``: ``(resamples,)``."""
        if isinstance(figure, Strata):
            return figure.drawn(values, self)
        parts = [
            values[rows].mean(axis=1)
            if figure is mean and values.ndim == 1
            else np.array([figure(values[drawn]) for drawn in rows], dtype=np.float64)
            for rows in _draws(self.seed, len(values), self.resamples)
        ]
        return np.concatenate(parts)

    def interval(self, figures: Floats) -> tuple[float, float]:
        """The percentiles that leave the same share of ``figures`` on both sides.

        Figures that are not finite, as of a resample of one example many times, are left out; NaN when all are.
        """
        figures = figures[np.isfinite(figures)]
        if not len(figures):
            return float("nan"), float("nan")
        tail = 50 * (1 - self.level)
        low, high = np.percentile(figures, (tail, 100 - tail))
        return float(low), float(high)


@dataclass(frozen=True)
class Part:
    """Some of the rows, and a figure of them.

    Args:
        number: What stands in the first column of these rows.
        width: Columns after the first that the figure is of; it sees ``(n,)`` where this is 1.
        figure: As of a metric.
    """

    number: int
    width: int
    figure: Callable[[npt.NDArray[Any]], float]

    def rows(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Those rows of ``values`` that are its own."""
        own = values[values[:, 0] == self.number, 1 : 1 + self.width]
        return own[:, 0] if self.width == 1 else own


@dataclass(frozen=True)
class Strata:
    """The mean of figures of parts of the rows, each of which has as many examples in every resample as it has.

    >>> of = Strata((Part(0, 1, mean), Part(1, 1, mean)), by_size=True)
    >>> of(np.array([[0, 1], [0, 0], [0, 0], [1, 1.0]]))
    0.5

    Args:
        parts: At least one, none of them empty.
        by_size: Whether a part counts as often as it has rows, or once.
    """

    parts: tuple[Part, ...]
    by_size: bool

    def __call__(self, values: npt.NDArray[Any]) -> float:
        """The figure."""
        rows = [part.rows(values) for part in self.parts]
        figures = [[part.figure(own)] for part, own in zip(self.parts, rows, strict=True)]
        return float(self._mean(np.array(figures, dtype=np.float64), rows)[0])

    def drawn(self, values: npt.NDArray[Any], bootstrap: Bootstrap) -> Floats:
        """The figure of each resample; parts are drawn from apart, the first with the draws that it has alone."""
        rows = [part.rows(values) for part in self.parts]
        found = [
            replace(bootstrap, seed=bootstrap.seed + i).figures(own, part.figure)
            for i, (part, own) in enumerate(zip(self.parts, rows, strict=True))
        ]
        return self._mean(np.stack(found), rows)

    def _mean(self, figures: Floats, rows: Sequence[npt.NDArray[Any]]) -> Floats:
        weights = [len(own) if self.by_size and len(rows) > 1 else 1 for own in rows]  # of one, to the last bit
        return np.asarray(np.average(figures, axis=0, weights=weights), dtype=np.float64)


def _draws(seed: int, count: int, resamples: int) -> Iterable[npt.NDArray[np.int64]]:
    """Places of examples, ``(some, count)`` at a time, ``resamples`` rows in all."""
    if count * resamples <= _HELD:
        return (_held(seed, count, resamples),)
    return _drawn(seed, count, resamples)


def _drawn(seed: int, count: int, resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    rng = np.random.default_rng((seed, count))
    step = max(1, _CHUNK // max(1, count))
    for start in range(0, resamples, step):
        yield rng.integers(0, count, (min(step, resamples - start), count))


@lru_cache(maxsize=4)
def _held(seed: int, count: int, resamples: int) -> npt.NDArray[np.int64]:
    """All of them at once; they are the same for every model and metric, and cost more than what is made of them."""
    found = np.concatenate(list(_drawn(seed, count, resamples)))
    found.flags.writeable = False
    return found


def ratio(values: npt.NDArray[Any]) -> float:
    """Σ of the first column over Σ of the second of ``(n, 2)``: a mean over tokens or bytes, not over examples."""
    above, below = values.sum(axis=0)
    return float(above / below)


def spearman(values: npt.NDArray[Any]) -> float:
    """Rank correlation of the two columns of ``(n, 2)``, ties by mean rank; NaN where one of them is constant.

    >>> round(spearman(np.array([[1, 10], [2, 20], [3, 15.0]])), 6)
    0.5
    """
    ranks = [_ranks(column) for column in values.T]
    centred = [r - r.mean() for r in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / scale) if scale else float("nan")


def _ranks(column: npt.NDArray[Any]) -> Floats:
    _, place, counts = np.unique(column, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], dtype=np.float64)


def calibration_error(values: npt.NDArray[Any]) -> float:
    """Expected calibration error of ``(n, 2)`` rows (right or wrong, confidence in [0, 1]), in :data:`BINS` bins.

    ECE = Σ_b n_b / n · abs(accuracy_b - mean confidence_b) over bins ((b-1)/B, b/B], the first with its left end
    (Guo, Pleiss, Sun and Weinberger, 2017, equation 3).

    >>> round(calibration_error(np.array([[1, 0.9], [0, 0.9]])), 6)
    0.4
    """
    right, confidence = values[:, 0].astype(np.float64), values[:, 1].astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, right - confidence, BINS)
    return float(np.abs(gaps).sum() / len(values))

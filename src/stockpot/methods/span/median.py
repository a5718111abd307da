"""The geometric median: the point of least summed distance to the models."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import SCOPE, Base, Citation, Floats, Law, Method, Parameter, Resolved, Span
from stockpot.methods.span.sphere import shares_of

__all__ = ["GEOMETRIC_MEDIAN"]

_VARDI_2000 = Citation(
    "Yehuda Vardi and Cun-Hui Zhang",
    "The multivariate L1-median and associated data depth",
    2000,
    "Proceedings of the National Academy of Sciences 97(4)",
    "section 2 (modified Weiszfeld algorithm)",
)

_SAME = 1e-14
"""Squared distances below this share of the squared norms are rounding: the points are the same."""

_BALANCED = 1e-10
"""Forces on a point this much above its own weight are rounding: the point is a median."""


def _squared_distances(gram: Floats) -> Floats:
    squares = np.diagonal(gram)
    sums = squares[:, None] + squares[None, :]
    found = sums - gram - gram.T
    distances: Floats = np.where(found <= _SAME * sums, 0.0, found)
    return distances


def _inverse(weights: Floats, distances: Floats) -> Floats:
    """Weights over distances; 0 where the distance is."""
    far = distances > 0.0
    quotients: Floats = np.where(far, weights / np.where(far, distances, 1.0), 0.0)
    return quotients


def _forces(squared: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """For each point: how strongly the points elsewhere pull at it, and the weight that lies on it."""
    pulls = _inverse(shares[None, :], np.sqrt(squared))
    inner = (squared[:, :, None] + squared[:, None, :] - squared[None, :, :]) / 2.0
    force = np.sqrt(np.maximum(np.einsum("ki,kj,kij->k", pulls, pulls, inner), 0.0))
    held = np.where(squared == 0.0, shares[None, :], 0.0).sum(axis=1)
    return force, held


def _weiszfeld(squared: Floats, shares: Floats, steps: int, tolerance: float) -> Floats:
    """From the mean, towards the points by share / distance; a point that is met holds back by its own weight."""
    at = shares
    spread = float(shares @ squared @ shares) / 2.0
    for _ in range(steps):
        away = squared @ at - float(at @ squared @ at) / 2.0
        met = away <= _SAME * spread
        pulls = _inverse(shares, np.sqrt(np.where(met, 0.0, away)))
        step = pulls / pulls.sum() - at
        length = float(np.sqrt(max(-float(step @ squared @ step) / 2.0, 0.0)))
        force = length * float(pulls.sum())
        held = float(shares[met].sum())
        free = 1.0 - held / force if force > held else 0.0
        at = at + free * step
        if length * free <= tolerance * np.sqrt(spread):
            break
    return at


def _median(squared: Floats, shares: Floats, steps: int, tolerance: float) -> Floats:
    force, held = _forces(squared, shares)
    medians = force <= held + _BALANCED
    if medians.any():  # more than one only on a line, where all between them are medians too
        chosen = np.where(medians, shares, 0.0)
        return chosen / float(chosen.sum())
    return _weiszfeld(squared, shares, steps, tolerance)


def _geometric_median(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    shares = shares_of(np.asarray(p["weight"], np.float64))
    kept = np.flatnonzero(shares > 0.0)
    coefficients = np.zeros_like(shares)
    squared = _squared_distances(gram[0][np.ix_(kept, kept)])
    coefficients[kept] = _median(squared, shares[kept], int(p["max_iter"]), float(p["tol"]))
    return coefficients


GEOMETRIC_MEDIAN = Method(
    name="geometric_median",
    summary="The point of least summed distance to the models: a mean that a single outlier cannot move far.",
    formula="argmin_y sum_i w_i |x_i - y|",
    cites=_VARDI_2000,
    family=Span(_geometric_median, gram=True),
    base=Base.OPTIONAL,
    on="either",
    parameters=(
        Parameter("weight", "weight of each model's distance, 0 or more", default=1.0, per_model=True),
        Parameter("max_iter", "most steps", default=1000, kind="int", low=0.0),
        Parameter(
            "tol",
            "step, in shares of the models' spread around their mean, below which the iteration ends",
            default=1e-12,
            low=0.0,
        ),
        SCOPE,
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ZERO_DELTA, Law.ENDPOINTS, Law.DETERMINISTIC}),
    notes=(
        "A base changes no value beyond rounding: the median moves with the models. With one, distances between close "
        "fine-tunes are those of small differences, and more accurate.",
        "Whether a model itself is the median is tested first; of several (two models of equal weight, an even number "
        "on a line) the weighted mean of those is taken, as in the median of numbers.",
    ),
)

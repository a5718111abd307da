"""Means of directions on the sphere: multislerp and karcher.

Everything happens in coefficients: a direction is Σ c_i u_i of the unit vectors u_i, and the inner
products that the iteration needs are those of the Gram matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stockpot.methods.declare import SCOPE, Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["KARCHER", "MULTISLERP", "shares_of"]

_BUSS_2001 = Citation(
    "Samuel R. Buss and Jay P. Fillmore",
    "Spherical averages and applications to spherical splines and interpolation",
    2001,
    "ACM Transactions on Graphics 20(2)",
    "algorithm A1",
)

_STEPS = 1000
_TOLERANCE = 1e-14
"""Multislerp iterates until the mean moves by less than this angle, which is float64's own accuracy."""

_CANCELLED = 1e-12
_OPPOSITE = -1.0 + 1e-12

_Pull = Callable[[Floats], Floats]


def shares_of(weights: Floats) -> Floats:
    """Weights divided by their sum.

    Raises:
        ValueError: for a negative weight, and when all are 0.
    """
    if np.any(weights < 0.0):
        raise ValueError("a negative weight has no meaning in a mean on the sphere; use task_arithmetic or linear")
    total = float(weights.sum())
    if total == 0.0:
        raise ValueError("its weights are all 0; give at least one model a weight above 0")
    return weights / total


def _cosines(gram: Floats, norms: Floats) -> Floats:
    """Cosines of shape (models, models) of vectors that are not 0; exactly 1 of a vector with itself."""
    cosines = np.clip(gram / (norms[:, None] * norms[None, :]), -1.0, 1.0)
    np.fill_diagonal(cosines, 1.0)
    return cosines


def _length(coefficients: Floats, cosines: Floats) -> float:
    return float(np.sqrt(max(float(coefficients @ cosines @ coefficients), 0.0)))


def _pull(near: Floats) -> Floats:
    """θ / sin θ of the angles to the mean, from their cosines."""
    if near.min() <= _OPPOSITE:
        raise ValueError("models point in opposite directions, which have no mean on the sphere; use linear")
    below = np.minimum(near, 1.0)
    sine = np.sqrt((1.0 - below) * (1.0 + below))
    ratio: Floats = np.where(sine == 0.0, 1.0, np.arccos(below) / np.where(sine == 0.0, 1.0, sine))
    return ratio


def _compat_pull(tolerance: float) -> _Pull:
    """As mergekit: an angle below the tolerance, and one of exactly 180°, does not pull."""

    def pull(near: Floats) -> Floats:
        angle = np.arccos(np.clip(near, -1.0, 1.0))
        idle = (angle < tolerance) | (near <= _OPPOSITE)
        ratio: Floats = np.where(idle, 0.0, angle / np.where(idle, 1.0, np.sin(angle)))
        return ratio

    return pull


def _descend(
    start: Floats, cosines: Floats, shares: Floats, steps: int, tolerance: float, pull: _Pull
) -> tuple[Floats, bool]:
    """The unit vector of least Σ share × angle², by gradient steps on the sphere, and whether it was reached."""
    at = start
    for _ in range(steps):
        near = cosines @ at
        force = shares * pull(near)
        tangent = force - float(force @ near) * at
        angle = _length(tangent, cosines)
        if angle < tolerance:
            return at, True
        at = np.cos(angle) * at + np.sin(angle) / angle * tangent
        at = at / _length(at, cosines)
    return at, False


def _start(cosines: Floats, shares: Floats) -> Floats:
    length = _length(shares, cosines)
    if length < _CANCELLED:
        raise ValueError("the weighted directions of its models cancel, so they have no mean; change a weight")
    return shares / length


def _mean(gram: Floats, weights: Floats, steps: int, tolerance: float) -> tuple[Floats, bool]:
    """Coefficients of the mean direction times the mean norm.

    A model without weight and a vector of zeros have no say in the direction; zeros count in the norm.
    """
    shares, norms = shares_of(weights), np.sqrt(np.diagonal(gram))
    length = float(weights @ norms) / float(weights.sum())
    kept = np.flatnonzero((shares > 0.0) & (norms > 0.0))
    if kept.size == 0:
        return shares, True
    cosines = _cosines(gram[np.ix_(kept, kept)], norms[kept])
    own = shares[kept] / shares[kept].sum()
    at, reached = _descend(_start(cosines, own), cosines, own, steps, tolerance, _pull)
    coefficients = np.zeros_like(shares)
    coefficients[kept] = at * (length / norms[kept])
    return coefficients, reached


def _multislerp(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    weights = np.asarray(p["weight"], np.float64)
    if p.compat:
        return _multislerp_compat(gram[0], weights, p)
    coefficients, reached = _mean(gram[0], weights, _STEPS, _TOLERANCE)
    if not reached:
        raise ValueError("the directions of its models are too far apart for one mean; use linear")
    return coefficients if p["normalize_weights"] else coefficients * float(weights.sum())


def _multislerp_compat(gram: Floats, weights: Floats, p: Resolved) -> Floats:
    """mergekit's method: its correction in the tangent space is always 0, which leaves a normalised sum."""
    models, eps = len(weights), float(p["eps"])
    if models == 1:
        return np.ones(1)
    if p["normalize_weights"]:
        if weights.sum() == 0.0:
            raise ValueError("its weights sum to 0, so they cannot be normalized; set normalize_weights: false")
        weights = weights / weights.sum()
    norms = np.sqrt(np.diagonal(gram))
    parts = weights / (norms + eps)
    length = float(np.sqrt(max(float(parts @ gram @ parts), 0.0)))
    if length < eps:
        if models == 2 or not norms.any():
            return weights
        raise ValueError("the weighted directions of its models cancel, so they have no mean; change a weight")
    coefficients: Floats = parts * (np.cos(eps) * float(weights @ norms) / length)
    return coefficients


def _karcher_line(p: Resolved) -> Floats:
    return shares_of(np.asarray(p["weight"], np.float64))


def _multislerp_line(p: Resolved) -> Floats:
    shares = _karcher_line(p)
    return shares if p["normalize_weights"] else shares * float(sum(p["weight"]))


def _karcher(gram: Floats | None, p: Resolved) -> Floats:
    assert gram is not None
    weights = np.asarray(p["weight"], np.float64)
    if p.compat:
        return _karcher_compat(gram[0], shares_of(weights), p)
    return _mean(gram[0], weights, int(p["max_iter"]), float(p["tol"]))[0]


def _karcher_compat(gram: Floats, shares: Floats, p: Resolved) -> Floats:
    """mergekit's iteration: vectors no longer than ``tol`` have no direction; cancelled ones start at the first."""
    norms, tolerance = np.sqrt(np.diagonal(gram)), float(p["tol"])
    if len(shares) == 1:
        return np.ones(1)
    coefficients = np.zeros_like(shares)
    kept = np.flatnonzero(norms > tolerance)
    if kept.size == 0:
        return coefficients
    cosines = _cosines(gram[np.ix_(kept, kept)], norms[kept])
    total = float(shares[kept].sum())
    own = shares[kept] / total if total > 0.0 else shares[kept]
    length = _length(own, cosines)
    start = own / length if length >= tolerance else np.eye(kept.size)[0]
    at, _ = _descend(start, cosines, own, int(p["max_iter"]), tolerance, _compat_pull(tolerance))
    coefficients[kept] = at * (float(shares @ norms) / norms[kept])
    return coefficients


_LAWS = frozenset({Law.IDEMPOTENT, Law.ORDER_FREE, Law.ENDPOINTS, Law.DETERMINISTIC})
_ZEROS = "A vector of zeros has no say in the direction and counts as 0 in the mean norm."
_UNDEFINED = (
    "Directions that cancel or are opposite have no mean on the sphere: an error, as in slerp. A tensor of a single "
    "element has no direction and gets the plain weighted mean."
)

MULTISLERP = Method(
    name="multislerp",
    summary="The mean of any number of directions on the sphere, as long as the models on average.",
    formula="argmin_u sum_i w_i angle(u, x_i)^2  *  sum_i w_i |x_i| / sum_i w_i,  with a base: of x_i - base",
    cites=_BUSS_2001,
    family=Span(_multislerp, gram=True, line=_multislerp_line),
    base=Base.OPTIONAL,
    on="either",
    parameters=(
        Parameter("weight", "share of each model, 0 or more", default=1.0, per_model=True),
        Parameter("normalize_weights", "divide the length by the sum of the weights", default=True, kind="bool"),
        Parameter(
            "eps",
            "under compat: added to norms, and below it a sum counts as 0; unused otherwise",
            default=1e-8,
            low=0.0,
            open_low=True,
        ),
        SCOPE,
    ),
    laws=_LAWS | {Law.ZERO_DELTA},
    notes=(
        _ZEROS,
        _UNDEFINED,
        "Of two models it is slerp's direction with t = w_2 / (w_1 + w_2).",
        "mergekit's method of this name is a normalised weighted sum of unit vectors, not the mean on the sphere: "
        "for two vectors at 90° with weights 0.9 and 0.1 it turns by 6.34° instead of 9°. "
        "compat: mergekit computes that sum, with weights of any sign.",
    ),
)

KARCHER = Method(
    name="karcher",
    summary="The mean of the models' directions on the sphere in at most max_iter steps, as long as they on average.",
    formula="argmin_u sum_i w_i angle(u, x_i)^2  *  sum_i w_i |x_i| / sum_i w_i",
    cites=_BUSS_2001,
    family=Span(_karcher, gram=True, line=_karcher_line),
    base=Base.NONE,
    on="either",
    parameters=(
        Parameter("weight", "share of each model, 0 or more", default=1.0, per_model=True),
        Parameter("max_iter", "most steps", default=10, kind="int", low=0.0),
        Parameter("tol", "angle in radians below which a step ends the iteration", default=1e-5, low=0.0),
        SCOPE,
    ),
    laws=_LAWS,
    notes=(
        "multislerp is the same mean, always iterated until it stands still, and takes a base.",
        _ZEROS,
        _UNDEFINED,
        "Under compat: mergekit vectors no longer than tol have no direction, and directions that cancel start at "
        "the first model. Weights are an addition: mergekit's are equal.",
    ),
)

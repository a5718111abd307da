"""A small router: multinomial logistic regression without a bias, trained the same way every time."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Floats

__all__ = ["trained_rows"]

_STEPS = 500
_DECAY = 1e-4


def trained_rows(states: Floats, targets: Floats, weights: Floats) -> Floats:
    """Rows W (experts, hidden) that minimise Σᵢ wᵢ · cross-entropy(softmax(W xᵢ), tᵢ) + λ/2 · ‖W‖²·s².

    The states are scaled by their root mean squared length s, so that λ means the same for every model. The descent
    (Nesterov's, of a fixed number of steps) goes on W itself, or, where rows are few, on A with W = A X/s: what it
    meets then is X Xᵀ alone.

    Args:
        states: X, (rows, hidden).
        targets: (rows, experts), each row a distribution.
        weights: (rows,), of each row; they are brought to sum 1.
    """
    size = float(np.sqrt((states * states).sum(axis=1).mean())) or 1.0
    scaled = states / size
    few = len(scaled) <= scaled.shape[1]
    products = scaled @ scaled.T if few else scaled.T @ scaled
    shares = (weights / weights.sum())[:, None]
    steepest = 0.5 * float(np.linalg.eigvalsh(products)[-1]) * float(shares.max())
    found = _descended(products if few else scaled, targets, shares, 1.0 / (steepest + _DECAY), few)
    rows: Floats = (found @ scaled if few else found) / size
    return rows


def _descended(seen: Floats, targets: Floats, shares: Floats, step: float, few: bool) -> Floats:
    """The coefficients C whose scores seen · Cᵀ fit ``targets``; of rows where ``few``, else of units."""
    coefficients = np.zeros((targets.shape[1], seen.shape[1]))
    ahead, pace = coefficients, 1.0
    for _ in range(_STEPS):
        scores = seen @ ahead.T
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        wrong = (shares * (likely / likely.sum(axis=1, keepdims=True) - targets)).T
        found = ahead - step * ((wrong if few else wrong @ seen) + _DECAY * ahead)
        faster = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * pace * pace))
        ahead = found + (pace - 1.0) / faster * (found - coefficients)
        coefficients, pace = found, faster
    return coefficients

"""A small router: multinomial logistic regression without a bias, trained the same way every time."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Floats

__all__ = ["trained_rows"]

_STEPS = 1000
_DECAY = 1e-4


def trained_rows(states: Floats, targets: Floats, weights: Floats) -> Floats:
    """Rows W (experts, hidden) that minimise Σᵢ wᵢ · cross-entropy(softmax(W xᵢ), tᵢ) + λ/2 · ‖W‖²·s².

    The states are scaled by their root mean squared length s, so that λ means the same for every model. W lies in the
    span of the states, W = (A X)/s, so that the descent (Nesterov's, of a fixed number of steps) goes on A, with X Xᵀ
    alone.

    Args:
        states: X, (rows, hidden).
        targets: (rows, experts), each row a distribution.
        weights: (rows,), of each row; they are brought to sum 1.
    """
    size = float(np.sqrt((states * states).sum(axis=1).mean())) or 1.0
    scaled = states / size
    products = scaled @ scaled.T
    shares = (weights / weights.sum())[:, None]
    reach = float(np.linalg.eigvalsh(products)[-1])
    step = 1.0 / (0.5 * reach * float(shares.max()) + _DECAY)
    coefficients = np.zeros((targets.shape[1], len(states)))
    ahead, pace = coefficients, 1.0
    for _ in range(_STEPS):
        scores = (ahead @ products).T
        scores = scores - scores.max(axis=1, keepdims=True)
        likely = np.exp(scores)
        likely = likely / likely.sum(axis=1, keepdims=True)
        slope = (shares * (likely - targets)).T + _DECAY * ahead
        found = ahead - step * slope
        faster = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * pace * pace))
        ahead = found + (pace - 1.0) / faster * (found - coefficients)
        coefficients, pace = found, faster
    rows: Floats = (coefficients @ scaled) / size
    return rows

"""Shares of models as softmax of logits, what gradients of shares are for logits, and the optimiser of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Adam", "for_logits", "softmax"]

Floats = npt.NDArray[np.float64]

_MEAN, _SQUARE, _SMALL = 0.9, 0.999, 1e-8
"""Adam's constants, as in the paper and in torch."""


def softmax(logits: Floats) -> Floats:
    """Shares along the last axis; they sum to 1.

    >>> softmax(np.array([1000.0, 1000.0]))
    array([0.5, 0.5])
    """
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def for_logits(shares: Floats, gradient: Floats) -> Floats:
    """dL/da of ``shares`` = softmax(a) along the last axis, from ``gradient`` = dL/dshares: w (g - w · g)."""
    mean = (shares * gradient).sum(axis=-1, keepdims=True)
    found: Floats = shares * (gradient - mean)
    return found


@dataclass
class Adam:
    """Kingma and Ba's Adam (2015, algorithm 1), which AdamW without weight decay is.

    Args:
        rate: Length of a step.
    """

    rate: float
    _mean: Floats | float = 0.0
    _square: Floats | float = 0.0
    _steps: int = 0

    def step(self, values: Floats, gradient: Floats) -> Floats:
        """``values`` after one step."""
        self._steps += 1
        self._mean = _MEAN * self._mean + (1 - _MEAN) * gradient
        self._square = _SQUARE * self._square + (1 - _SQUARE) * gradient**2
        mean = self._mean / (1 - _MEAN**self._steps)
        square = self._square / (1 - _SQUARE**self._steps)
        found: Floats = values - self.rate * mean / (np.sqrt(square) + _SMALL)
        return found

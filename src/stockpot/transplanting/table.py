"""Rows of a matrix by number, and sparse combinations of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["TILE", "ArrayRows", "Combinations", "Floats", "Ints", "Rows", "Singles", "lengths"]

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

TILE = 2048
"""Rows that are looked at together. A product's last bits may depend on its shape, so this never changes with memory
or threads."""


class Rows(Protocol):
    """A matrix of which rows can be had by number; from any thread."""

    @property
    def width(self) -> int:
        """Length of a row."""

    def take(self, numbers: Ints) -> Floats:
        """These rows in float64, (len(numbers), width); the caller may change them."""

    def singles(self, numbers: Ints) -> Singles:
        """These rows rounded to float32."""


@dataclass(frozen=True)
class ArrayRows:
    """A matrix in memory.

    >>> ArrayRows(np.eye(3)).take(np.array([2]))
    array([[0., 0., 1.]])
    """

    matrix: npt.NDArray[Any]

    @property
    def width(self) -> int:
        """Length of a row."""
        return int(self.matrix.shape[1])

    def take(self, numbers: Ints) -> Floats:
        """These rows in float64."""
        return self.matrix[numbers].astype(np.float64)

    def singles(self, numbers: Ints) -> Singles:
        """These rows in float32."""
        return self.matrix[numbers].astype(np.float32, copy=False)


@dataclass(frozen=True)
class Combinations:
    """Rows that are sums of coefficient × row of a matrix.

    Args:
        numbers: Of the rows that are summed, (rows, at most k); -1 where there are fewer.
        values: Their coefficients, 0 where there are fewer.
        residuals: What the sums leave of what they were to approximate, relative to its length; NaN where nothing
            was approximated.
    """

    numbers: Ints
    values: Floats
    residuals: Floats

    def __len__(self) -> int:
        return len(self.numbers)

    def applied(self, table: Rows) -> Floats:
        """The sums over the rows of ``table``, each added up in order, (rows, width)."""
        out = np.zeros((len(self), table.width))
        for place in range(self.numbers.shape[1]):
            here = np.flatnonzero(self.numbers[:, place] >= 0)
            if here.size:
                out[here] += self.values[here, place, None] * table.take(self.numbers[here, place])
        return out


def lengths(table: Rows, numbers: Ints) -> Floats:
    """Euclidean length of each of these rows."""
    parts = [np.linalg.norm(table.take(numbers[i : i + TILE]), axis=1) for i in range(0, len(numbers), TILE)]
    return np.concatenate(parts) if parts else np.empty(0)

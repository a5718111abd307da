"""Forms of adapters whose change is made of several small matrices: LoHa, LoKr, and LoRA with a core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from stockpot.planning.forms import Form

__all__ = ["Factors", "Hadamard", "Kronecker"]

_PRODUCTS = 6e9
_CALL = 1e-5
"""Products that a thread adds up in a second, and seconds of a call for one piece of a block (measured)."""


@dataclass(frozen=True, slots=True)
class Factors:
    """A matrix of ``rows`` rows, stored whole or as a product.

    The operands are the whole of it, or left and right, or left, right and core.

    Args:
        rows, columns: Its dimensions; a kernel's dimensions count as columns.
        rank: Inner dimension; 0 where it is stored whole.
        inner: Of a core, the dimension next to the right factor; 0 where there is none.
        kernel: Of a core, elements of its kernel.
        crossed: Whether the left factor is stored transposed.
    """

    rows: int
    columns: int
    rank: int = 0
    inner: int = 0
    kernel: int = 1
    crossed: bool = False

    @property
    def count(self) -> int:
        """How many operands it is made of."""
        return (1 if self.rank == 0 else 2) + (self.inner > 0)

    def elements(self, rows: int) -> int:
        """Numbers that are held to make ``rows`` rows of it, as float64 and as stored; those rows are left out."""
        if self.rank == 0:
            return self.columns * rows
        left = self.rank * ((2 * self.rows if self.crossed else rows) + rows)
        right = self.rank * self.columns
        if not self.inner:
            return left + 2 * right
        core = self.rank * self.inner * self.kernel
        return left + 3 * right + 2 * core + 2 * self.inner * (self.columns // max(1, self.kernel))


@dataclass(frozen=True, slots=True)
class Hadamard(Form):
    """A weight to which the elementwise product of one or two matrices, times ``scale``, is added (LoHa).

    The operand is the weight, if any; companions are what the matrices are made of.
    """

    name: ClassVar[str] = "adapter"

    parts: tuple[Factors, ...]
    scale: float

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """A block of the weight, as it is stored and in float64; whole rows of each matrix; its factors."""
        del shape, widths
        one = self.parts[0]
        rows = min(one.rows, elements // max(1, one.columns) + 2)
        return 16 * elements + 8 * (len(self.parts) * rows * one.columns + sum(p.elements(rows) for p in self.parts))

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Rank products of each matrix for each element."""
        return sum(max(1, p.rank) for p in self.parts) * prod(shape) / _PRODUCTS


@dataclass(frozen=True, slots=True)
class Kronecker(Form):
    """A weight to which the Kronecker product of two matrices, times ``scale``, is added (LoKr).

    The operand is the weight, if any; companions are what the matrices are made of. Rows are made one row of the
    left matrix after the other: row i·(rows of right) + j is the product of row i of the left and row j of the right.
    """

    name: ClassVar[str] = "adapter"

    left: Factors
    right: Factors
    scale: float

    @property
    def parts(self) -> tuple[Factors, Factors]:
        """Both matrices."""
        return (self.left, self.right)

    @property
    def rows(self) -> int:
        """Of the product."""
        return self.left.rows * self.right.rows

    @property
    def columns(self) -> int:
        """Of the product."""
        return self.left.columns * self.right.columns

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """A block of the weight, as it is stored and in float64; whole rows of the product and of each matrix."""
        del shape, widths
        rows = min(self.rows, elements // max(1, self.columns) + 2)
        above, below = min(self.left.rows, rows // max(1, self.right.rows) + 2), min(self.right.rows, rows)
        held = above * self.left.columns + below * self.right.columns
        held += self.left.elements(above) + self.right.elements(below)
        return 16 * elements + 8 * (rows * self.columns + held)

    def seconds(self, shape: tuple[int, ...]) -> float:
        """A product for each element, and a call for each row of the left matrix."""
        rank = max(1, self.left.rank // max(1, self.right.rows), self.right.rank // max(1, self.left.columns))
        return (1 + rank) * prod(shape) / _PRODUCTS + _CALL * self.left.rows

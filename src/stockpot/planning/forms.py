"""Ways of their own in which a tensor is made of others, beside methods: adapters, rows, parts, scaled blocks.

A form is data. It says what it needs (passes, whole rows, memory, time) and nothing of how it is computed: that is
the business of the evaluator that ``execute/evaluators`` lists for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

__all__ = ["Form", "LowRank", "Noise", "Pieces"]

_PRODUCTS = 6e9
"""Products of an adapter's factors that one thread adds up in a second (measured)."""

_NORMALS = 2e7
"""Normal numbers that one thread draws in a second, roughly."""


@dataclass(frozen=True, slots=True)
class Form(ABC):
    """How a tensor is made of its operands. Kinds are frozen and final; their ``repr`` tells all that decides bytes."""

    name: ClassVar[str]
    """What people read in a plan."""

    moves: ClassVar[bool] = False
    """Whether elements stand elsewhere than in the operands, which are then cut into blocks of their own."""

    @property
    def passes(self) -> int:
        """Passes over the operands before the one that writes."""
        return 0

    @property
    def held(self) -> tuple[object, int]:
        """What the plan itself holds for it: a key, by which it is counted once, and its bytes."""
        return None, 0

    def unit(self, shape: tuple[int, ...]) -> int:
        """Elements that a block must hold whole multiples of."""
        del shape
        return 1

    @property
    def reduced(self) -> tuple[int, int] | None:
        """Where the result is smaller than the operand: (elements of the operand, elements that they become).

        The second is 0 where all of the operand becomes the result. None where the blocks of both are the same.
        """
        return None

    @abstractmethod
    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """Bytes that a worker holds for a block of ``elements`` of the result, or of the operand where it is reduced.

        Args:
            shape: Of the result.
            widths: Bytes of an element of each operand: inputs, companions, base.
        """

    def shared_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes kept of the tensor while it is worked on."""
        del shape
        return 0

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Rough time of arithmetic in one pass, on one thread, where it is not as fast as reading."""
        del shape
        return 0.0

    def taken(self, operand: int, elements: int) -> tuple[int, int]:
        """(first element, number of elements) that are read of an operand that has ``elements``."""
        del operand
        return 0, elements


@dataclass(frozen=True, slots=True)
class LowRank(Form):
    """An adapter's part in a tensor of ``rows`` rows: left × right, of inner dimension ``rank``, times ``scale``.

    The operand is the weight, or none where only the change is wanted; companions are the factors left and right, and
    lengths where it is weighed.

    Args:
        rank, rows, columns: Dimensions; a kernel's dimensions count as columns.
        scale: Factor of the product.
        crossed: Whether both factors are stored transposed: left as (rank, rows), right as (columns, rank).
        weighed: Whether the sum's rows, or columns where crossed, get the lengths that a third companion has (DoRA).
    """

    name: ClassVar[str] = "adapter"

    rank: int
    rows: int
    columns: int
    scale: float
    crossed: bool = False
    weighed: bool = False

    @property
    def passes(self) -> int:
        """One for the lengths of rows or columns, where they are needed."""
        return int(self.weighed)

    def unit(self, shape: tuple[int, ...]) -> int:
        """Whole rows, where lengths are needed."""
        del shape
        return max(1, self.columns) if self.weighed else 1

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """A block of the weight, as it is stored and in float64, the rows of the left factor, all of the right."""
        del shape
        rows = min(self.rows, elements // max(1, self.columns) + 2)
        stored = max(widths)
        left, right = self.rank * rows, self.rank * self.columns + (2 * self.columns if self.weighed else 0)
        return 16 * elements + 8 * (left + rows + right * (2 if self.crossed else 1)) + stored * max(left, right)

    def shared_bytes(self, shape: tuple[int, ...]) -> int:
        """The lengths of rows or columns, and what waits to be added to them."""
        del shape
        if not self.weighed:
            return 0
        return 8 * (16 * self.columns if self.crossed else 4 * self.rows)

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Rank products for each element."""
        return self.rank * prod(shape) / _PRODUCTS


@dataclass(frozen=True, slots=True)
class Pieces(Form):
    """Ranges of elements of the operands, one after another, in row-major order.

    Args:
        ranges: (first element, number of elements) of each operand.
    """

    name: ClassVar[str] = "pieces"
    moves: ClassVar[bool] = True

    ranges: tuple[tuple[int, int], ...]

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """Bytes as they are stored and in float64, where dtypes differ; a block of an operand that is computed."""
        del shape
        return (max(widths) + 8 + 8) * elements

    def taken(self, operand: int, elements: int) -> tuple[int, int]:
        """The range."""
        del elements
        return self.ranges[operand]


@dataclass(frozen=True, slots=True)
class Noise(Form):
    """A tensor with normal numbers added, and the sum times a factor.

    The numbers are keyed by the node's key and its label, and counted by the index of the element.

    Args:
        deviation: Standard deviation of what is added.
        factor: Of the sum.
    """

    name: ClassVar[str] = "noise"

    deviation: float
    factor: float = 1.0

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """The block as it is stored, in float64, and the numbers with what they are made of."""
        del shape
        return (max(widths) + 8 + 32) * (elements + 4096)

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Logarithm, root and cosine for each element."""
        return prod(shape) / _NORMALS

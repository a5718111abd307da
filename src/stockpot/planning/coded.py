"""Forms of tensors that are not stored as plain numbers: their values, and such tensors made of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from stockpot.planning.forms import Form

__all__ = ["PIECE", "Decoded", "Requantised"]

PIECE = 1 << 15
"""Elements of a packed format that are unpacked at once: what the gguf package makes on the way is larger."""

_UNPACKED = 32
"""Bytes that it makes of each on the way (measured: 13 to 21, by format)."""

_PACKAGE = 8 << 20
"""Bytes of that package itself (measured: 6 MiB)."""

_UNPACKING = 3e7
"""Elements that it unpacks in a second, on one thread (measured: 2 · 10^7 to 4 · 10^8, by format)."""


@dataclass(frozen=True, slots=True)
class Decoded(Form):
    """The values of a tensor that is not stored as plain numbers; see :class:`~stockpot.checkpoint.model.Coding`.

    The operand is what is stored; a companion, where there are scales, is the tensor of scales.

    Args:
        columns: Elements of a row.
        packing: Name of a packed format of GGUF; empty for floats.
        group: Elements and bytes of a group of that format.
        rows: Rows of a matrix.
        block: Rows and columns that share a scale; (0, 0) without scales.
        head: Rows of a head whose halves are interleaved; 0 without.
        shift: Added to each value.
    """

    name: ClassVar[str] = "dequantised"

    columns: int
    packing: str = ""
    group: tuple[int, int] = (1, 1)
    rows: int = 1
    block: tuple[int, int] = (0, 0)
    head: int = 0
    shift: float = 0.0

    @property
    def scaled(self) -> bool:
        """Whether there are scales."""
        return self.block != (0, 0)

    @property
    def aligned(self) -> int:
        """Elements that are read together: a head's, or a group's."""
        return max(1, self.head * self.columns, self.group[0])

    def unit(self, shape: tuple[int, ...]) -> int:
        """Whole heads, or groups: what lies beside them would be read twice."""
        return self.aligned if prod(shape) else 1

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """The block as float64, twice where rows change places, what is stored of it, its scales."""
        del shape
        whole = elements + 2 * self.aligned
        own = (16 if self.head else 8) * whole + (0 if self.packing else widths[0] * whole)
        if self.packing:
            own += min(whole, PIECE + self.group[0]) * (_UNPACKED + 2)
        if self.scaled:
            down, across = self.block
            lines = elements // max(1, self.columns) // down + 3
            own += 16 * lines * -(-self.columns // across)
        return own

    def shared_bytes(self, shape: tuple[int, ...]) -> int:
        """The package that unpacks."""
        del shape
        return _PACKAGE if self.packing else 0

    def seconds(self, shape: tuple[int, ...]) -> float:
        """Unpacking takes longer than reading."""
        return prod(shape) / _UNPACKING if self.packing else 0.0


@dataclass(frozen=True, slots=True)
class Requantised(Form):
    """Values as 8-bit floats with scales: the weights, or, where ``scales``, the scales.

    A scale is the largest magnitude of its block over the largest number of the format, rounded to the scales' dtype;
    of a block of zeros it is 1. A weight is the value over its scale, rounded to nearest even, never beyond the
    largest. The operand is the tensor of values.

    Args:
        scales: Whether the result is the scales, not the weights.
        rows, columns: Of a matrix of the values; a tensor of three dimensions holds several.
        count: Matrices; of several, ``rows`` is a multiple of the block's.
        block: Rows and columns that share a scale.
        largest: Largest number of the 8-bit format.
        dtype: Code of the scales' dtype.
        power: Whether scales are powers of two, rounded up.
    """

    name: ClassVar[str] = "requantised"

    scales: bool
    rows: int
    columns: int
    count: int
    block: tuple[int, int]
    largest: float
    dtype: str
    power: bool = False

    @property
    def whole(self) -> bool:
        """Whether one scale holds for the whole tensor, so that all of it must be seen first."""
        return self.count == 1 and self.block[0] >= self.rows and self.block[1] >= self.columns

    @property
    def passes(self) -> int:
        """One for the largest magnitude of a whole tensor."""
        return int(self.whole)

    @property
    def stripe(self) -> int:
        """Elements of the rows that share scales; of one row where all do."""
        return self.columns if self.whole else min(self.block[0], self.rows) * self.columns

    @property
    def across(self) -> int:
        """Scales of a stripe."""
        return -(-self.columns // self.block[1])

    @property
    def reduced(self) -> tuple[int, int] | None:
        """Of the scales: those of a stripe; all at once where there is one."""
        return (self.stripe, 0 if self.whole else self.across) if self.scales else None

    def unit(self, shape: tuple[int, ...]) -> int:
        """Whole stripes."""
        del shape
        return self.stripe if not self.scales else 1 if self.whole else self.across

    def block_bytes(self, shape: tuple[int, ...], widths: Sequence[int], elements: int) -> int:
        """The values of a block of the operand, as they are stored and in float64, and their scales."""
        del shape
        return (8 + widths[0]) * elements + 32 * (elements // self.stripe + 1) * self.across

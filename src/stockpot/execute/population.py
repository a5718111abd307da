"""The blocks of one tensor, or of all tensors of a model, as one numbered row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from stockpot.execute.evaluate import Evaluator, NotFiniteError

__all__ = ["Population"]

E = TypeVar("E", bound=Evaluator)

_PIECES = 64
_PIECE = 1024
_FEWEST = 16
_SPACED = 1 << 15
"""Of a single tensor, a sample is a few longer pieces; each costs a read of all inputs, so one in so many elements."""

_SMALL_PIECES = 6144
_SMALL_PIECE = 256
"""Of a model, whose tensors differ, it is many short ones."""

_TOGETHER = 64
"""Pieces that are read at a time: fewer elements than a block has."""


class Population(Generic[E]):
    """What a statistic is taken over.

    Args:
        members: The evaluators of its tensors, in order.
    """

    def __init__(self, members: Sequence[E]) -> None:
        self.members = members
        self._first = [0, *accumulate(m.grid.count for m in members)]
        self._places = [0, *accumulate(m.grid.elements for m in members)]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self._first[-1]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return self._places[-1]

    def first_block(self, member: int) -> int:
        """Number of the first block of a member."""
        return self._first[member]

    def at(self, block: int) -> tuple[int, E, int, int]:
        """(number of the member, member, first element in it, number of elements) of a block."""
        place = bisect_right(self._first, block) - 1
        member = self.members[place]
        return (place, member, *member.grid.block(block - self._first[place]))

    def part(self, member: E, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``sums`` over a block of a member, as they are added up: in a whole model, masks are left out."""
        return sums if len(self.members) == 1 else member.shared(sums)

    def settled(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``sums`` over all members, finite.

        Raises:
            NotFiniteError: when an input holds a NaN, or an infinity that not all have.
        """
        if len(self.members) == 1:
            return self.members[0].settled(sums)
        if not np.all(np.isfinite(sums)):
            raise NotFiniteError
        return sums

    def sample(self, *, whole_blocks: bool) -> Iterator[tuple[E, tuple[int, ...], int]]:
        """(member, where ranges begin, their length), over all elements; whole blocks where inputs are computed."""
        if whole_blocks:
            for block in sorted({self.blocks // 3, 2 * self.blocks // 3}):
                _place, member, start, n = self.at(block)
                yield member, (start,), n
            return
        single = len(self.members) == 1
        spaced = min(_PIECES, max(_FEWEST, self.elements // _SPACED))
        pieces, length = (spaced, _PIECE) if single else (_SMALL_PIECES, _SMALL_PIECE)
        pieces = min(pieces, max(1, self.elements // length))
        elements = [self.elements * piece // pieces for piece in range(pieces)]
        for place, own in groupby(elements, lambda element: bisect_right(self._places, element) - 1):
            member = self.members[place]
            last = max(0, member.grid.elements - length)
            starts = tuple(min(element - self._places[place], last) for element in own)
            for i in range(0, len(starts), _TOGETHER):
                yield member, starts[i : i + _TOGETHER], min(length, member.grid.elements)

"""The exact k-th largest magnitude of a tensor that is never in memory.

A sample brackets the k-th value. One pass counts the entries above, at and inside the bracket and
keeps the few inside, which settles it; if the sample misled, the bracket moves and the pass repeats.
The outcome does not depend on the sample, only the number of passes does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import numpy.typing as npt

__all__ = ["Cut", "Selection"]

LARGEST = 0x7FFFFFFF
"""Key of the largest pattern; finite magnitudes have smaller keys."""

_GUESSES = 4
"""Passes that trust samples; later ones halve the bracket, which ends after 31 more at the most."""

Keys = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Cut:
    """Keep every key above ``threshold`` and, of those equal to it, the first ``ties``.

    ``ties_until[i]`` counts the ties in the blocks before block i.
    """

    threshold: int
    ties: int
    ties_until: npt.NDArray[np.int64]

    def kept_ties(self, block: int, elements: int) -> int:
        """How many ties block number ``block`` keeps; ``elements`` when it keeps all of them."""
        return elements if self.ties >= self.ties_until[block + 1] else max(self.ties - int(self.ties_until[block]), 0)


@dataclass
class Selection:
    """The search for the ``keep``-th largest of ``elements`` keys in ``blocks`` blocks.

    Args:
        capacity: Keys inside the bracket that are kept, 4 bytes each; beyond it the bracket is narrowed instead.
        ceiling: The largest key there may be.
        exact: Whether the key of rank ``keep`` is wanted even where all are kept.
    """

    keep: int
    elements: int
    blocks: int
    capacity: int = 1 << 21
    ceiling: int = LARGEST
    exact: bool = False
    low: int = 0
    passes: int = 0
    cut: Cut | None = None
    high: int = field(init=False)
    _floor: int = 0
    _ceiling: int = field(init=False)
    _kept: int = 0
    _lock: Lock = field(default_factory=Lock)
    _counts: npt.NDArray[np.int64] = field(init=False)
    _inside: list[Keys] = field(init=False)

    def __post_init__(self) -> None:
        self.high = self._ceiling = self.ceiling
        self._reset()
        if self.exact and self.keep > 0 and self.elements:
            return
        if self.keep >= self.elements:
            self.cut = Cut(0, 0, np.zeros(self.blocks + 1, np.int64))
        elif self.keep <= 0:
            self.cut = Cut(LARGEST, 0, np.arange(self.blocks + 1))

    @property
    def open(self) -> bool:
        """Whether it is not settled yet."""
        return self.cut is None

    def guess(self, sample: Keys) -> None:
        """Bracket the answer by a sample of the keys, widely enough to miss it about once in 10^5 tensors."""
        if len(sample) < self.elements:
            self._bracket(sample, 1.0 - self.keep / self.elements)

    @property
    def quota(self) -> int:
        """Keys inside the bracket that a block may hand in when there are more than can be kept."""
        return max(1, self.capacity // self.blocks)

    def add(self, block: int, counts: npt.NDArray[np.int64], inside: Keys) -> None:
        """Take a block's counts (above, at high, inside, at low) and its keys inside the bracket.

        Blocks may come in any order and from any thread.
        """
        self._counts[block] = counts
        with self._lock:
            fits = self._kept + len(inside) <= self.capacity
            own = inside if fits else inside[: self.quota]
            self._kept += len(own)
        self._inside[block] = own.copy()

    def settle(self) -> None:
        """After all blocks: either ``cut`` is known, or the bracket is a better one."""
        self.passes += 1
        above, at_high, inside, at_low = (int(c) for c in self._counts.sum(axis=0))
        if self.keep <= above:
            self._move(self.high + 1, self._ceiling)
        elif self.keep <= above + at_high:
            self._finish(self.high, above, self._counts[:, 1])
        elif self.keep <= above + at_high + inside:
            self._inside_bracket(self.keep - above - at_high, inside, above + at_high)
        elif self.keep <= above + at_high + inside + at_low:
            self._finish(self.low, above + at_high + inside, self._counts[:, 3])
        else:
            below = self.elements - above - at_high - inside - at_low
            self._move(self._floor, self.low - 1)
            if self.passes >= _GUESSES and below > self.quota:
                self._halve()

    def _inside_bracket(self, rank: int, inside: int, above: int) -> None:
        """The answer is the ``rank``-th largest of the keys strictly inside."""
        collected = np.concatenate(self._inside)
        if len(collected) < inside:
            self._move(self.low + 1, self.high - 1)
            if self.passes < _GUESSES:
                self._bracket(collected, 1.0 - rank / inside)
            else:
                self._halve()
            return
        threshold = _ranked(collected, len(collected) - rank)
        larger = int(np.count_nonzero(collected > threshold))
        ties = np.array([np.count_nonzero(keys == threshold) for keys in self._inside], np.int64)
        self._finish(threshold, above + larger, ties)

    def _bracket(self, sample: Keys, quantile: float) -> None:
        """Bracket ``quantile`` by order statistics four and a half standard deviations to each side."""
        count = len(sample)
        spread = 4.5 * np.sqrt(max(quantile * (1.0 - quantile), 1.0 / count) / count) * count + 2.0
        first, last = int(quantile * count - spread), int(quantile * count + spread)
        self.low = max(_ranked(sample, first), self._floor) if first >= 0 else self._floor
        self.high = min(_ranked(sample, last), self._ceiling) if last < count else self._ceiling

    def _move(self, floor: int, ceiling: int) -> None:
        """The answer is known to lie in [floor, ceiling]; look at all of that next."""
        self._floor, self._ceiling = floor, ceiling
        self.low, self.high = floor, ceiling
        self._reset()

    def _halve(self) -> None:
        """Look at the upper half of what is left."""
        self.low = (self._floor + self._ceiling + 1) // 2

    def _finish(self, threshold: int, above: int, ties: npt.NDArray[np.int64]) -> None:
        self.cut = Cut(threshold, self.keep - above, np.concatenate([[0], np.cumsum(ties)]))
        self._inside = []

    def _reset(self) -> None:
        self._kept = 0
        self._counts = np.zeros((self.blocks, 4), np.int64)
        self._inside = [np.empty(0, np.uint32)] * self.blocks


def _ranked(keys: Keys, place: int) -> int:
    """The key at ``place`` in ascending order; NumPy is many times faster with one place than with two."""
    return int(np.partition(keys, place)[place])

"""Computing one tensor block by block: the passes that a method needs, then its values.

An evaluator mirrors a :class:`~stockpot.planning.model.Compute`. Its ``phases`` are the passes over all
blocks that settle what the values depend on (angles, thresholds, norms), those of its inputs first;
after them ``compute`` gives any block. Nothing larger than a block is ever held, but by methods that
work on whole matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.diagnose import alike
from stockpot.execute.workspace import Workspace
from stockpot.kernels.convert import WIDTHS
from stockpot.methods.declare import axis_of
from stockpot.planning.blocks import Grid, row_length
from stockpot.planning.model import Compute, Read

__all__ = ["Bytes", "Evaluator", "NotFiniteError", "OrderedSum", "Phase", "Settled", "Tick"]

Bytes = npt.NDArray[np.uint8]

Tick = Callable[[float], None]
"""Told of the share of a phase's job that is done, while it runs."""


@dataclass(frozen=True)
class Phase:
    """One pass over the blocks: ``run`` for each of ``count`` in any order, then ``finish`` once.

    A job that takes long calls ``tick`` with the share of it that it has done since it last did.
    """

    name: str
    count: int
    run: Callable[[int, Workspace, Tick], None]
    finish: Callable[[], None]


class NotFiniteError(Exception):
    """A pass met a NaN or an infinity; the caller finds out where."""


class Evaluator:
    """Shared part: reading the inputs of a block into rows of bytes.

    Args:
        node: What to compute.
        grid: Its blocks.
        reader: Of payloads.
        children: The evaluators of those operands that are computed, the stored others.
    """

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        self.node, self.grid, self._reader, self._children = node, grid, reader, children
        self.count = len(node.inputs)
        self.base = len(node.operands) - 1 if node.base is not None else -1
        self.codes = np.array([c.dtype.kernel if isinstance(c, Read) else _code(c.node) for c in children])
        self.height: int = 1 + max((c.height for c in children if isinstance(c, Evaluator)), default=0)
        self._width = max((WIDTHS[c] for c in self.codes), default=8)
        self.length = row_length(node.shape, axis_of(node.method, node.resolved))

    @property
    def flat(self) -> bool:
        """Whether all inputs are stored tensors, of which any range can be read."""
        return all(isinstance(c, Read) for c in self._children)

    def phases(self) -> Iterator[Phase]:
        """The passes needed before :meth:`compute`; each is made after the one before has finished."""
        yield from self.inner_phases()
        if not self.node.group:
            yield from type(self).settle((self,))

    def inner_phases(self) -> Iterator[Phase]:
        """The passes of the inputs."""
        for child in self._children:
            if isinstance(child, Evaluator):
                yield from child.phases()

    @classmethod
    def settle(cls, members: tuple[Self, ...]) -> Iterator[Phase]:
        """The passes that settle statistics over all ``members`` together: one tensor, or a whole model."""
        del members
        yield from ()

    def adopt(self, other: Evaluator) -> None:
        """Take what was settled for the same tensor by a survey of the whole model."""

    def told(self) -> Mapping[str, Any] | None:
        """What a report of the merge says of how the tensor was made, as JSON data; None for nothing."""
        return None

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """Elements start … start + n, rounded to dtype ``code``, into the bytes ``out``.

        Returns:
            Whether one of them is not finite.
        """
        raise NotImplementedError

    def settled(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``sums`` over the inputs, finite; those of a mask of infinities that all inputs share count as equal.

        Raises:
            NotFiniteError: when an input holds a NaN, or an infinity that not all have.
        """
        finite = np.isfinite(sums)
        if not np.all(finite) and not alike(self.node, self._reader):
            raise NotFiniteError
        return np.where(finite, sums, 1.0)

    def shared(self, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """``sums`` over some of the elements; a mask of infinities that all inputs share adds nothing."""
        finite = np.isfinite(sums)
        return sums if np.all(finite) or not alike(self.node, self._reader) else np.where(finite, sums, 0.0)

    def gather_pieces(self, starts: Sequence[int], n: int, space: Workspace) -> Bytes:
        """As :meth:`gather` of several ranges of ``n`` elements, one after the other; where the inputs are stored."""
        raw = space.take(("raw", self.height), (len(self._children), len(starts) * n * self._width), np.uint8)
        for row, child in zip(raw, self._children, strict=True):
            assert isinstance(child, Read)
            width = child.dtype.itemsize
            part = row[: len(starts) * n * width]
            self._reader.read_pieces(child.ref, [start * width for start in starts], part.data)
        return raw

    def gather(self, start: int, n: int, space: Workspace) -> Bytes:
        """The bytes of all inputs, then companions, then the base; one row each."""
        raw = space.take(("raw", self.height), (len(self._children), n * self._width), np.uint8)
        for row, child, code in zip(raw, self._children, self.codes, strict=True):
            part = row[: n * WIDTHS[code]]
            if isinstance(child, Read):
                self._reader.read(child.ref, start * child.dtype.itemsize, part.data)
            else:
                child.compute(start, n, space, part, int(code))
        return raw


Settled = Mapping[tuple[int, str], Evaluator]
"""Evaluators whose statistics of the whole model are known, by number of the survey and tensor name."""


def _code(node: Compute) -> int:
    return node.dtype.kernel if node.dtype is not None else 0


class OrderedSum:
    """A sum of arrays that is the same in whatever order they arrive: added up by number."""

    def __init__(self) -> None:
        self._waiting: dict[int, npt.NDArray[np.float64]] = {}
        self._next = 0
        self._lock = Lock()
        self.total: npt.NDArray[np.float64] = np.zeros(())

    def add(self, number: int, part: npt.NDArray[np.float64]) -> None:
        """Take part ``number``; parts are added as soon as all before them have come."""
        with self._lock:
            self._waiting[number] = part
            while self._next in self._waiting:
                self.total = self.total + self._waiting.pop(self._next)
                self._next += 1

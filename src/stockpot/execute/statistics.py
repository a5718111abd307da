"""The passes that an elementwise program needs before it can run: order statistics and sums."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import fsum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stockpot.execute.evaluate import Bytes, OrderedSum, Phase, Tick
from stockpot.execute.population import Population
from stockpot.execute.select import Cut, Selection
from stockpot.execute.workspace import Workspace
from stockpot.kernels import codes, select
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Floats
from stockpot.methods.elementwise.operation import Operation, Ranks, Sums
from stockpot.planning.blocks import Grid
from stockpot.planning.model import Compute

__all__ = ["settle_program"]

_SAMPLED = 1 << 16
"""Keys of a block that a sample looks at."""

_WORTH = 1 << 16
"""Elements of a tensor of one block from which on pieces of it are read twice, to tell which keys to keep."""

CAPACITY = 1 << 21
CAPACITY_OF_A_MODEL = 1 << 23
"""Keys inside a bracket that are kept of each input (8 MiB, 32 MiB); beyond it the bracket is narrowed instead."""


class _Member(Protocol):
    """What is needed of :class:`~stockpot.execute.rows.Rows`."""

    node: Compute
    grid: Grid
    count: int
    base: int
    codes: npt.NDArray[np.int64]
    operations: list[Operation]

    @property
    def flat(self) -> bool: ...

    def gather(self, start: int, n: int, space: Workspace) -> Bytes: ...

    def gather_pieces(self, starts: Sequence[int], n: int, space: Workspace) -> Bytes: ...

    def settled(self, sums: Floats) -> Floats: ...

    def shared(self, sums: Floats) -> Floats: ...

    def put(self, place: int, op: Operation) -> None: ...

    def cut(self, place: int, cuts: tuple[Cut, ...], first_block: int) -> None: ...

    def measure(self, start: int, n: int, space: Workspace, stop: int, *, counts: bool) -> Floats: ...

    def keys(self, start: int, n: int, space: Workspace, stop: int, kind: int) -> npt.NDArray[np.uint32]: ...


def settle_program(members: Sequence[_Member]) -> Iterator[Phase]:
    """The passes of all needs of a program, in order; after them every member knows its numbers and cuts."""
    population: Population[_Member] = Population(members)  # type: ignore[type-var]
    for place, op in enumerate(members[0].operations):
        for number, need in enumerate(op.needs):
            if isinstance(need, Sums):
                yield _sum_phase(population, place, number)
            else:
                yield from _Search(population, place, number).phases()


def _need(member: _Member, place: int, number: int) -> Ranks | Sums:
    return member.operations[place].needs[number]


def _sum_phase(population: Population[_Member], place: int, number: int) -> Phase:  # type: ignore[type-var]
    """One pass that adds up what the operations before ``place`` leave."""
    sums = OrderedSum()
    need = _need(population.members[0], place, number)
    assert isinstance(need, Sums)

    def run(block: int, space: Workspace, _: Tick) -> None:
        _place, member, start, n = population.at(block)
        part = population.part(member, member.measure(start, n, space, place, counts=need.counts))
        sums.add(block, part / member.grid.elements if need.means else part)

    def finish() -> None:
        total = population.settled(np.broadcast_to(sums.total, (population.members[0].count, codes.COLUMNS)))
        for member in population.members:
            own = _need(member, place, number)
            assert isinstance(own, Sums)
            member.put(place, own.then(member.operations[place], total, population.elements))

    return Phase("sums", population.blocks, run, finish)


class _Search:
    """Order statistics of the keys of one operation, over all members."""

    def __init__(self, population: Population[_Member], place: int, number: int) -> None:  # type: ignore[type-var]
        self._population, self._place, self._number = population, place, number
        first = population.members[0]
        need = self._need(first)
        self._kind, self._values = need.kind, need.then is not None
        self._stored = place == 0 and need.kind == codes.MAGNITUDES and not self._values
        needs = [self._need(member) for member in population.members]
        wanted = _wanted(needs, [member.grid.elements for member in population.members])
        self._sources = np.array([row for row, _ in need.wanted(first.grid.elements)], np.int64)
        capacity = CAPACITY if len(population.members) == 1 else CAPACITY_OF_A_MODEL
        elements = population.elements
        self._searches = [
            Selection(
                need.whole(s, share, elements),
                elements,
                population.blocks,
                capacity,
                ceiling=0xFFFFFFFF if need.kind == codes.SCORES else codes.NOTHING,
                exact=self._values,
            )
            for s, share in enumerate(wanted)
        ]

    def _need(self, member: _Member) -> Ranks:
        need = _need(member, self._place, self._number)
        assert isinstance(need, Ranks)
        return need

    def phases(self) -> Iterator[Phase]:
        """A look at a sample, then passes until every search is settled: nearly always one."""
        if self._sampled and any(s.open for s in self._searches):
            yield Phase("sample", 1, self._sample, _nothing)
        while any(s.open for s in self._searches):
            yield self._bracket_phase()
        self._finish()

    def _finish(self) -> None:
        cuts = tuple(s.cut for s in self._searches if s.cut is not None)
        for i, member in enumerate(self._population.members):
            need = self._need(member)
            if need.then is None:
                member.cut(self._place, cuts, self._population.first_block(i))
            else:
                values = _values(np.array([c.threshold for c in cuts], np.uint32), need.kind)
                member.put(self._place, need.then(member.operations[self._place], values))

    def _sample(self, _: int, space: Workspace, __: Tick) -> None:
        whole = not all(m.flat for m in self._population.members) or self._prepared
        found: list[npt.NDArray[np.uint32]] = []
        for member, starts, n in self._population.sample(whole_blocks=whole):
            if self._stored and not whole:
                found.append(
                    self._stored_keys(member, member.gather_pieces(starts, n, space), len(starts) * n, space).copy()
                )
                continue
            stride = max(1, n // _SAMPLED)
            found += [self._keys(member, start, n, space)[:, ::stride].copy() for start in starts]
        self._guess(np.concatenate(found, axis=1))

    def _guess(self, keys: npt.NDArray[np.uint32]) -> None:
        """Bracket what is sought by some of the keys, one row for each input."""
        for search, source in zip(self._searches, self._sources, strict=True):
            if search.open:
                search.guess(keys[source])

    @property
    def _sampled(self) -> bool:
        """Whether a look at a sample costs less than keeping all keys."""
        members = self._population.members
        worth = self._stored and self._population.elements >= _WORTH and all(m.flat for m in members)
        return worth or self._population.blocks > 1

    @property
    def _prepared(self) -> bool:
        return any(op.prepare is not None for op in self._population.members[0].operations)

    def _keys(self, member: _Member, start: int, n: int, space: Workspace) -> npt.NDArray[np.uint32]:
        """Keys of a range, one row for each input."""
        if not self._stored:
            return member.keys(start, n, space, self._place, self._kind)
        return self._stored_keys(member, member.gather(start, n, space), n, space)

    def _stored_keys(self, member: _Member, raw: Bytes, n: int, space: Workspace) -> npt.NDArray[np.uint32]:
        """Keys of what was read, one row for each input."""
        scratch = space.take(("scratch",), (3, ROW), np.float64)
        keys = space.take(("found",), (member.count, n), np.uint32)
        for k in range(member.count):
            select.keys_block(raw, member.codes, n, member.base, k, keys[k], scratch)
        return keys

    def _bracket_phase(self) -> Phase:
        searches = self._searches
        low = np.array([s.low if s.open else 1 for s in searches], np.uint32)
        high = np.array([s.high if s.open else 0 for s in searches], np.uint32)

        def run(block: int, space: Workspace, _: Tick) -> None:
            _place, member, start, n = self._population.at(block)
            counts = np.zeros((len(searches), 4), np.int64)
            found = space.take(("found",), (len(searches), n + 1), np.uint32)
            if self._stored:
                raw = member.gather(start, n, space)
                scratch = space.take(("scratch",), (3, ROW), np.float64)
                words = space.take(("words",), (ROW,), np.uint32)
                select.bracket_block(
                    raw, member.codes, n, member.base, self._sources, low, high, counts, found, scratch, words
                )
            else:
                keys = self._keys(member, start, n, space)
                select.bracket_keys(keys, n, self._sources, low, high, counts, found)
            for s, search in enumerate(searches):
                if search.open:
                    search.add(block, counts[s], found[s, : counts[s, 2]])

        def finish() -> None:
            for search in searches:
                if search.open:
                    search.settle()

        return Phase("select", self._population.blocks, run, finish)


def _wanted(needs: Sequence[Ranks], sizes: Sequence[int]) -> list[float]:
    """What each search wants of all tensors: of their elements together where they want alike, else added up."""
    together = {need.wanted(sum(sizes)) for need in needs}
    parts = list(together) if len(together) == 1 else [n.wanted(size) for n, size in zip(needs, sizes, strict=True)]
    return [fsum(share for _, share in column) for column in zip(*parts, strict=True)]


def _nothing() -> None:
    """A sample has no end."""


def _values(keys: npt.NDArray[np.uint32], kind: int) -> Floats:
    """The numbers that keys stand for."""
    if kind == codes.SCORES:
        positive = keys >= np.uint32(0x80000000)
        keys = np.where(positive, keys ^ np.uint32(0x80000000), ~keys).astype(np.uint32)
    return keys.view(np.float32).astype(np.float64)

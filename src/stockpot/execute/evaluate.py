"""Computing one tensor block by block: the passes that a method needs, then its values.

An evaluator mirrors a :class:`~stockpot.planning.model.Compute`. Its ``phases`` are the passes over all
blocks that settle what the values depend on (angles, thresholds, norms), those of its inputs first;
after them ``compute`` gives any block. Nothing larger than a block is ever held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, Problem
from stockpot.execute.diagnose import alike
from stockpot.execute.program import Program, assemble
from stockpot.execute.select import Cut, Selection
from stockpot.execute.workspace import Workspace
from stockpot.kernels import combine, gram, rows, select
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Elementwise, Span, axis_of
from stockpot.methods.registry import METHODS
from stockpot.planning.blocks import Grid, row_length
from stockpot.planning.model import Compute, Read

__all__ = ["Evaluator", "NotFiniteError", "Phase", "evaluator_of"]

Bytes = npt.NDArray[np.uint8]

_SAMPLE_PIECES = 32
_SAMPLE_ROWS = 2


@dataclass(frozen=True)
class Phase:
    """One pass over the blocks: ``run`` for each of ``count`` in any order, then ``finish`` once."""

    name: str
    count: int
    run: Callable[[int, Workspace], None]
    finish: Callable[[], None]


class Evaluator:
    """Shared part: reading the inputs of a block into rows of bytes."""

    def __init__(self, node: Compute, grid: Grid, reader: PayloadReader) -> None:
        self.node, self.grid, self._reader = node, grid, reader
        self._children: tuple[Evaluator | Read, ...] = tuple(
            child if isinstance(child, Read) else evaluator_of(child, grid, reader) for child in node.operands
        )
        self.count = len(node.inputs)
        self.base = self.count if node.base is not None else -1
        self.codes = np.array([c.dtype.kernel if isinstance(c, Read) else _code(c.node) for c in self._children])
        self.height: int = 1 + max((c.height for c in self._children if isinstance(c, Evaluator)), default=0)
        self._width = max((_WIDTHS[c] for c in self.codes), default=8)
        self.length = row_length(node.shape, axis_of(METHODS.get(node.method), node.resolved))

    @property
    def flat(self) -> bool:
        """Whether all inputs are stored tensors, of which any range can be read."""
        return all(isinstance(c, Read) for c in self._children)

    def phases(self) -> Iterator[Phase]:
        """The passes needed before :meth:`compute`; each is made after the one before has finished."""
        for child in self._children:
            if isinstance(child, Evaluator):
                yield from child.phases()

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

    def gather(self, start: int, n: int, space: Workspace) -> Bytes:
        """The bytes of all inputs, base last; one row each."""
        raw = space.take(("raw", self.height), (len(self._children), n * self._width), np.uint8)
        for row, child, code in zip(raw, self._children, self.codes, strict=True):
            part = row[: n * _WIDTHS[code]]
            if isinstance(child, Read):
                self._reader.read(child.ref, start * child.dtype.itemsize, part.data)
            else:
                child.compute(start, n, space, part, int(code))
        return raw


_WIDTHS = (8, 4, 2, 2, 1, 1)


def _code(node: Compute) -> int:
    return node.dtype.kernel if node.dtype is not None else 0


def evaluator_of(node: Compute, grid: Grid, reader: PayloadReader) -> Evaluator:
    """The evaluator for a node, by its method's family."""
    method = METHODS.get(node.method)
    if method is not None and isinstance(method.family, Elementwise):
        return _Rows(node, grid, reader, method.family)
    family = method.family if method is not None and isinstance(method.family, Span) else None
    return _Combination(node, grid, reader, family)


class _Combination(Evaluator):
    """A linear combination, by given factors or by those a span method finds."""

    def __init__(self, node: Compute, grid: Grid, reader: PayloadReader, family: Span | None) -> None:
        super().__init__(node, grid, reader)
        self._family = family
        self._axis = axis_of(METHODS.get(node.method), node.resolved)
        self._factors = np.array(node.factors, np.float64)
        self._divisor = 1.0
        if family is not None and node.resolved is not None:
            self._divisor = family.divisor(node.resolved)
        if family is not None and not family.gram:
            self._factors = self._solve(None)

    def phases(self) -> Iterator[Phase]:
        yield from super().phases()
        if self._family is not None and self._family.gram:
            yield self._gram_phase()

    def _solve(self, products: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        assert self._family is not None
        assert self.node.resolved is not None
        try:
            return np.ascontiguousarray(self._family.coefficients(products, self.node.resolved), np.float64)
        except ValueError as error:
            raise ExecutionError(
                Problem(f"{self.node.method}: {error}", tensor=self.node.key[0], line=self.node.line)
            ) from error

    def _gram_phase(self) -> Phase:
        parts: dict[int, npt.NDArray[np.float64]] = {}
        sums = _OrderedSum()

        def run(block: int, space: Workspace) -> None:
            start, n = self.grid.block(block)
            raw = self.gather(start, n, space)
            scratch = space.take(("scratch",), (self.count + 3, ROW), np.float64)
            if self._axis == "column":
                part = np.empty((self.count, self.count, self.length))
                gram.gram_columns(raw, self.codes, n // self.length, self.length, self.base, self.count, part, scratch)
                sums.add(block, part)
                return
            groups = n // self.length if self._axis == "row" else 1
            part = np.empty((groups, self.count, self.count))
            gram.gram_rows(raw, self.codes, groups, n // groups, self.base, self.count, part, scratch)
            if self._axis == "row":
                parts[block] = part
            else:
                sums.add(block, part)

        def finish() -> None:
            if self._axis == "row":
                total = np.concatenate([parts[block] for block in range(self.grid.count)])
            elif self._axis == "column":
                total = np.moveaxis(sums.total, -1, 0)
            else:
                total = sums.total
            upper = np.triu(np.ones((self.count, self.count)), 1) > 0
            total = np.where(upper.T, np.swapaxes(total, 1, 2), total)
            total = self.settled(total)
            factors = self._solve(total)
            if self._axis == "tensor":
                factors = factors.reshape(-1)
            self._factors = np.ascontiguousarray(factors.T) if self._axis == "column" else factors

        return Phase("angles", self.grid.count, run, finish)

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        raw = self.gather(start, n, space)
        node = self.node
        scratch = space.take(("scratch",), (4, ROW), np.float64)
        factors = self._factors
        if factors.ndim == 1:
            return bool(
                combine.combine_tensor(
                    raw, self.codes, n, self.base, node.anchored, node.scale, self._divisor, factors, out, code, scratch
                )
            )
        kernel = combine.combine_rows
        if self._axis == "column":
            kernel = combine.combine_columns
        else:
            first = start // self.length
            factors = factors[first : first + n // self.length]
        groups = n // self.length
        return bool(
            kernel(
                raw,
                self.codes,
                groups,
                self.length,
                self.base,
                node.anchored,
                node.scale,
                self._divisor,
                factors,
                out,
                code,
                scratch,
            )
        )


class NotFiniteError(Exception):
    """A pass met a NaN or an infinity; the caller finds out where."""


class _OrderedSum:
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


class _Rows(Evaluator):
    """An elementwise method: selections, norms, then its program."""

    def __init__(self, node: Compute, grid: Grid, reader: PayloadReader, family: Elementwise) -> None:
        super().__init__(node, grid, reader)
        assert node.resolved is not None
        self._program: Program = assemble(family.build(node.resolved), self.count)
        self._cuts: tuple[Cut, ...] = ()
        self._random = np.array([_random_key(*node.key, label) for label in node.labels], np.int64)

    def phases(self) -> Iterator[Phase]:
        yield from super().phases()
        if self._program.trim is not None:
            yield from self._selection_phases()
        if self._program.norms is not None:
            yield self._norms_phase(self._program.norms)

    def _selection_phases(self) -> Iterator[Phase]:
        trim, grid = self._program.trim, self.grid
        assert trim is not None
        searches = [Selection(trim.keep(k, grid.elements), grid.elements, grid.count) for k in range(self.count)]
        if grid.count > 1:
            yield self._sample_phase(searches)
        while any(s.cut is None for s in searches):
            yield self._bracket_phase(searches)
        self._cuts = tuple(s.cut for s in searches if s.cut is not None)

    def _sample_phase(self, searches: list[Selection]) -> Phase:
        def run(_: int, space: Workspace) -> None:
            found: list[list[npt.NDArray[np.uint32]]] = [[] for _ in searches]
            scratch = space.take(("scratch",), (3, ROW), np.float64)
            for start, n in self._sample_places():
                raw = self.gather(start, n, space)
                for k, keys in enumerate(found):
                    own = np.empty(n, np.uint32)
                    select.keys_block(raw, self.codes, n, self.base, k, own, scratch)
                    keys.append(own)
            for search, keys in zip(searches, found, strict=True):
                if search.cut is None:
                    search.guess(np.concatenate(keys))

        return Phase("sample", 1, run, lambda: None)

    def _sample_places(self) -> Iterator[tuple[int, int]]:
        """Ranges spread over the tensor; whole blocks where inputs are themselves computed."""
        if not self.flat:
            for block in sorted({0, self.grid.count // 2, self.grid.count - 1}):
                yield self.grid.block(block)
            return
        n = _SAMPLE_ROWS * ROW
        places = max(1, self.grid.elements - n)
        for piece in range(_SAMPLE_PIECES):
            yield places * piece // _SAMPLE_PIECES, n

    def _bracket_phase(self, searches: list[Selection]) -> Phase:
        low = np.array([s.low if s.cut is None else 1 for s in searches], np.uint32)
        high = np.array([s.high if s.cut is None else 0 for s in searches], np.uint32)

        def run(block: int, space: Workspace) -> None:
            start, n = self.grid.block(block)
            raw = self.gather(start, n, space)
            counts = np.zeros((self.count, 4), np.int64)
            found = space.take(("found",), (self.count, n + 1), np.uint32)
            scratch = space.take(("scratch",), (3, ROW), np.float64)
            words = space.take(("words",), (ROW,), np.uint32)
            select.bracket_block(raw, self.codes, n, self.base, low, high, counts, found, scratch, words)
            for k, search in enumerate(searches):
                if search.cut is None:
                    search.add(block, counts[k], found[k, : counts[k, 2]])

        def finish() -> None:
            for search in searches:
                if search.cut is None:
                    search.settle()

        return Phase("select", self.grid.count, run, finish)

    def _norms_phase(self, program: Program) -> Phase:
        sums = _OrderedSum()

        def run(block: int, space: Workspace) -> None:
            start, n = self.grid.block(block)
            norms = np.zeros((self.count, 2))
            self._run(program, start, n, space, norms, np.empty(0, np.uint8), 0)
            sums.add(block, norms)

        def finish() -> None:
            self._program = self._program.matched(self.settled(sums.total))

        return Phase("norms", self.grid.count, run, finish)

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        norms = space.take(("norms",), (self.count, 2), np.float64)
        return self._run(self._program, start, n, space, norms, out, code)

    def _run(
        self,
        program: Program,
        start: int,
        n: int,
        space: Workspace,
        norms: npt.NDArray[np.float64],
        out: Bytes,
        code: int,
    ) -> bool:
        raw = self.gather(start, n, space)
        block = start // self.grid.size
        thresholds = np.array([c.threshold for c in self._cuts] or [0] * self.count, np.uint32)
        ties = np.array([c.kept_ties(block, n) for c in self._cuts] or [n] * self.count, np.int64)
        scratch = space.take(("scratch",), (self.count + 5, ROW), np.float64)
        words = space.take(("words",), (ROW,), np.uint32)
        node = self.node
        return bool(
            rows.rows_block(
                raw,
                self.codes,
                n,
                self.base,
                node.anchored,
                node.scale * program.scale,
                self.count,
                program.operations,
                program.limits,
                program.factors,
                thresholds,
                ties,
                self._random,
                start,
                norms,
                out,
                code,
                scratch,
                words,
            )
        )


def _random_key(name: str, seed: int, label: str) -> tuple[int, int]:
    """Two words of a Philox key, from everything that a mask depends on but the element's index."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (str(seed), name, label):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    value = int.from_bytes(digest.digest(), "little")
    return value & 0xFFFFFFFF, value >> 32

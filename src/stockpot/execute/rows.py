"""Elementwise methods: the statistics that their program needs, then the program itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Bytes, Evaluator, Phase
from stockpot.execute.select import Cut
from stockpot.execute.statistics import settle_program
from stockpot.execute.workspace import Workspace
from stockpot.kernels import codes, prepare, rows
from stockpot.kernels.sizes import ROW
from stockpot.methods.declare import Elementwise, Floats
from stockpot.methods.elementwise.operation import NUMBERS, Operation
from stockpot.methods.elementwise.program import Program, program_of
from stockpot.planning.blocks import Grid
from stockpot.planning.model import Compute, Read

__all__ = ["Rows", "random_key"]

Keys = npt.NDArray[np.uint32]

_LONG = 64
"""Length from which numbers of whole rows are remembered from one pass to the next."""

_NO_NUMBERS = np.empty((0, 0))
_NO_BYTES = np.empty(0, np.uint8)
_NO_KEYS = np.empty((0, 0), np.uint32)


class Rows(Evaluator):
    """An elementwise method on one tensor."""

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert node.method is not None
        assert isinstance(node.method.family, Elementwise)
        assert node.resolved is not None
        program: Program = program_of(node.method.family, node.resolved, self.count)
        self._scale = program.scale
        self._minus = np.array(node.minus, np.bool_)
        self._random = np.array([random_key(*node.key, label) for label in node.labels], np.int64)
        self.operations: list[Operation] = list(program.operations)
        self.cuts: dict[int, tuple[Cut, ...]] = {}
        self.first_block = 0
        self._divergences: dict[int, Floats] = {}
        self._pack()

    def _pack(self) -> None:
        """The operations as the arrays that the kernels take."""
        count = len(self.operations)
        self._codes = np.array([op.code for op in self.operations], np.int64)
        self._numbers = np.array([op.numbers for op in self.operations], np.float64).reshape(count, NUMBERS, self.count)
        self._thresholds = np.zeros((count, 2, self.count), np.uint32)
        for place, cuts in self.cuts.items():
            for s, cut in enumerate(cuts):
                self._thresholds[place, s // self.count, s % self.count] = cut.threshold

    def put(self, place: int, op: Operation) -> None:
        """Replace an operation by one whose numbers are known."""
        self.operations[place] = op
        self._pack()

    def cut(self, place: int, cuts: tuple[Cut, ...], first_block: int) -> None:
        """Take the cuts of an operation; ``first_block`` is the number of this tensor's first block in them."""
        self.cuts[place] = cuts
        self.first_block = first_block
        self._pack()

    def adopt(self, other: Evaluator) -> None:
        """Take what was settled for the same tensor before."""
        assert isinstance(other, Rows)
        self.operations, self.cuts, self.first_block = other.operations, other.cuts, other.first_block
        self._pack()

    @classmethod
    def settle(cls, members: tuple[Rows, ...]) -> Iterator[Phase]:
        """The passes that the operations need, one need after the other."""
        yield from settle_program(members)

    def _ties(self, start: int, n: int) -> npt.NDArray[np.int64]:
        """How many entries at its cut each operation keeps in a block; n stands for all."""
        ties = np.full((len(self.operations), 2, self.count), n, np.int64)
        block = self.first_block + start // self.grid.size
        for place, cuts in self.cuts.items():
            for s, cut in enumerate(cuts):
                ties[place, s // self.count, s % self.count] = cut.kept_ties(block, n)
        return ties

    def _prepared(self, raw: Bytes, start: int, n: int, space: Workspace) -> Floats:
        """The numbers that an operation needs for each element of a block of whole rows."""
        op = next((op for op in self.operations if op.prepare is not None), None)
        if op is None:
            return _NO_NUMBERS
        scratch = space.take(("scratch",), (7, ROW), np.float64)
        length = max(1, min(self.length, n))
        numbers = np.array(op.numbers)
        out = space.take(("prepared",), (self.count, n), np.float64)
        if op.prepare == "divergence":
            found = self._divergences.get(start)
            if found is None:
                found = np.empty(n // length)
                floor = float(numbers[2, 0])
                prepare.divergence_rows(raw, self.codes, n // length, length, self.base, floor, found, scratch)
                if length >= _LONG:
                    self._divergences[start] = found
            out.reshape(-1, length)[:] = found[:, None]
            return out
        keys = space.take(("row keys",), (2, length), np.uint32)
        places = space.take(("row places",), (2, length), np.uint32)
        counts = space.take(("row counts",), (max(2048, min(length, 1 << 16) + 1),), np.uint32)
        prepare.chances_block(
            raw,
            self.codes,
            n // length,
            length,
            self.base,
            numbers[2],
            numbers[3],
            out,
            scratch,
            keys,
            places,
            counts,
        )
        return out

    def _run(
        self,
        mode: int,
        start: int,
        n: int,
        space: Workspace,
        *,
        stop: int = 0,
        out: Bytes = _NO_BYTES,
        code: int = 0,
        kind: int = 0,
        keys: Keys = _NO_KEYS,
        sums: Floats = _NO_NUMBERS,
    ) -> bool:
        """The kernel on a block, in one of its modes."""
        raw = self.gather(start, n, space)
        prepared = self._prepared(raw, start, n, space)
        node = self.node
        return bool(
            rows.rows_block(
                mode,
                raw,
                self.codes,
                n,
                self.base,
                node.anchored,
                node.scale * self._scale,
                self.count,
                self._minus,
                stop,
                self._codes,
                self._numbers,
                self._thresholds,
                self._ties(start, n),
                self._random,
                start,
                prepared,
                out,
                code,
                kind,
                keys,
                sums,
                space.take(("scratch",), (self.count + len(self._minus) + rows.SPARE, ROW), np.float64),
                space.take(("words",), (ROW,), np.uint32),
            )
        )

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """The program's result on a block."""
        return self._run(rows.RESULT, start, n, space, out=out, code=code)

    def measure(self, start: int, n: int, space: Workspace, stop: int, *, counts: bool) -> Floats:
        """Sums over a block of what the first ``stop`` operations leave: (inputs, COLUMNS)."""
        sums = np.zeros((self.count, codes.COLUMNS))
        self._run(rows.COUNTS if counts else rows.NORMS, start, n, space, stop=stop, sums=sums)
        return sums

    def keys(self, start: int, n: int, space: Workspace, stop: int, kind: int) -> Keys:
        """Keys of what the first ``stop`` operations leave of a block: (inputs, n); of variances only row 0."""
        found = space.take(("keys",), (self.count, n), np.uint32)
        self._run(rows.KEYS, start, n, space, stop=stop, kind=kind, keys=found)
        return found


def random_key(name: str, seed: int, label: str) -> tuple[int, int]:
    """Two words of a Philox key, from everything that a mask depends on but the element's index."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (str(seed), name, label):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    value = int.from_bytes(digest.digest(), "little")
    return value & 0xFFFFFFFF, value >> 32

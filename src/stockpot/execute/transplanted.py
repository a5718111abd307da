"""An embedding for another vocabulary: rows copied, and rows made of the model's by what the donor's say."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Bytes, Evaluator, NotFiniteError, Phase, Tick
from stockpot.execute.fetched import FetchedRows, KeptRows, kept_rows
from stockpot.execute.sparse import Gathered
from stockpot.execute.workspace import Workspace
from stockpot.kernels import convert
from stockpot.planning.blocks import Grid
from stockpot.planning.model import Compute, Read
from stockpot.planning.tokens.rows import MEAN, SparseRows, row_map
from stockpot.planning.tokens.transplanted import BATCH, KINDS, TOLD, Transplanted
from stockpot.transplanting.interpolation import interpolate
from stockpot.transplanting.linear import fitted, predicted
from stockpot.transplanting.nearest import Pool
from stockpot.transplanting.pursuit import pursue
from stockpot.transplanting.table import TILE, Combinations, Floats, Ints, Rows, lengths

__all__ = ["Transplant"]


class Transplant(Evaluator):
    """The model's matrix and the donor's.

    First what rows are made of is read, then some tokens that both have are made as if they were missing, then sums
    are looked for in batches, and a map of rows is written as any other. All sums are kept until the tensor is done.
    """

    def __init__(
        self, node: Compute, grid: Grid, reader: PayloadReader, children: tuple[Evaluator | Read, ...]
    ) -> None:
        super().__init__(node, grid, reader, children)
        assert isinstance(node.form, Transplanted)
        self._form, self._origins = node.form, node.form.origins
        self._kept: KeptRows | None = None
        self._lengths: Floats = np.empty(0)
        self._map: Floats = np.empty((0, 0))
        self._found: dict[int, Combinations] = {}
        self._seen: dict[str, Any] = {}
        self._writer: Gathered | None = None

    @classmethod
    def settle(cls, members: tuple[Transplant, ...]) -> Iterator[Phase]:
        """The passes for what rows are made of, for the tokens held out, and for the sums."""
        (member,) = members
        yield from member.solved()

    def solved(self) -> Iterator[Phase]:
        """These passes; then that of the rows' mean, where it is needed."""
        yield Phase("rows in common", 1, self._prepare, _nothing)
        yield Phase("held out", 2, self._hold, _nothing)
        if self._form.batches:
            yield Phase(self._form.method, self._form.batches, self._search, _nothing)
        self._writer = self._gathered()
        yield from self._writer.averaged()

    def compute(self, start: int, n: int, space: Workspace, out: Bytes, code: int) -> bool:
        """Whole rows of the result."""
        assert self._writer is not None
        bad = self._writer.compute(start, n, space, out, code)
        if self._form.method != "linear":
            return bad
        width = self._form.width
        rows = np.arange(start // width, (start + n) // width)
        made = rows[self._origins.kinds[rows] == KINDS.index("made")]
        if made.size:
            for row, values in zip(made, self._donor(space).take(made) @ self._map, strict=True):
                place = (int(row) * width - start) * convert.WIDTHS[code]
                part = out[place : place + width * convert.WIDTHS[code]]
                bad |= bool(convert.narrow_block(np.ascontiguousarray(values), width, part, code))
        return bad

    def told(self) -> Mapping[str, Any]:
        """How well it went on the tokens held out; of each row that is made, the rows of largest coefficient."""
        numbers, values, residuals = self._sums(TOLD)
        return {
            "held_out": {way: self._seen[way] for way in (self._form.method, "linear") if way in self._seen},
            "numbers": _packed(numbers.astype("<i4")),
            "values": _packed(values.astype("<f4")),
            "residuals": _packed(residuals.astype("<f4")),
        }

    def _ours(self, space: Workspace) -> FetchedRows:
        return FetchedRows(self._children[0], int(self.codes[0]), self._form.width, self._reader, space)

    def _donor(self, space: Workspace) -> FetchedRows:
        return FetchedRows(self._children[1], int(self.codes[1]), self._form.donor_width, self._reader, space)

    def _prepare(self, _block: int, space: Workspace, tick: Tick) -> None:
        """Lengths of the donor's rows in common, and the rows where they are few; the linear map."""
        common, donor = self._origins.common, self._donor(space)
        if self._form.method in ("omp", "interpolation"):
            if self._form.kept:
                self._kept = kept_rows(donor, common, TILE)
            self._lengths = lengths(self._table(space), common)
            if not np.isfinite(self._lengths).all():
                raise NotFiniteError
        if self._form.method == "linear":
            self._map = fitted(donor, self._ours(space), (common, self._origins.ours[common]), tick)
            if not np.isfinite(self._map).all():
                raise NotFiniteError

    def _table(self, space: Workspace) -> Rows:
        return self._kept if self._kept is not None else self._donor(space)

    def _hold(self, block: int, space: Workspace, tick: Tick) -> None:
        """Make the tokens held out as if they were missing: by the method, and by the linear map."""
        held, rest = self._origins.held, np.setdiff1d(self._origins.common, self._origins.held)
        if not held.size or not rest.size:
            return
        truth = self._ours(space).take(self._origins.ours[held])
        name = "linear" if block else self._form.method
        if block:
            pairs = (rest, self._origins.ours[rest])
            made = predicted(self._donor(space).take(held), self._donor(space), self._ours(space), pairs, tick)
        elif name == "linear":
            return
        else:
            made = self._trial(held, rest, space)
        self._seen[name] = _compared(made, truth)

    def _trial(self, held: Ints, rest: Ints, space: Workspace) -> Floats:
        """Rows for the tokens ``held``, made of those of ``rest`` alone."""
        if self._form.method == "zero":
            return np.zeros((len(held), self._form.width))
        if self._form.method == "mean":
            return np.broadcast_to(_mean(self._ours(space), self._origins.ours[rest]), (len(held), self._form.width))
        if self._form.method == "subword":
            found = _means(self._origins.held_starts, self._origins.held_pieces)
        else:
            found = self._ours_of(self._approximated(held, rest, space))
        return found.applied(self._ours(space))

    def _search(self, block: int, space: Workspace, _: Tick) -> None:
        """The sums of one batch."""
        first = block * BATCH
        rows = self._origins.made[first : first + BATCH]
        if self._form.method == "subword":
            starts = self._origins.starts
            here = [self._origins.pieces[starts[row] : starts[row + 1]] for row in rows]
            self._found[block] = _means(np.cumsum([0, *map(len, here)]), np.concatenate(here))
        else:
            self._found[block] = self._ours_of(self._approximated(rows, self._origins.common, space))

    def _approximated(self, rows: Ints, among: Ints, space: Workspace) -> Combinations:
        """The donor's ``rows`` as sums of its rows ``among``."""
        vectors = self._donor(space).take(rows)
        if not np.isfinite(vectors).all():
            raise NotFiniteError
        table, known = self._table(space), self._lengths
        if among is not self._origins.common:
            known = known[np.searchsorted(self._origins.common, among)]
        pool = Pool(table, among, known)
        if self._form.method == "omp":
            return pursue(vectors, pool, min(self._form.k, len(among)))
        return interpolate(vectors, pool, min(self._form.k, len(among)))

    def _ours_of(self, found: Combinations) -> Combinations:
        """The same sums over the model's rows of the same tokens."""
        used = found.numbers >= 0
        return replace(found, numbers=np.where(used, self._origins.ours[found.numbers], -1))

    def _sums(self, most: int) -> tuple[Ints, Floats, Floats]:
        """Numbers and coefficients, the largest ``most``, and residuals of all rows that were looked for."""
        parts = [_largest(self._found[block], most) for block in sorted(self._found)]
        if not parts:
            return np.empty((0, most), np.int64), np.empty((0, most)), np.empty(0)
        numbers, values = (np.concatenate(p) for p in zip(*((p.numbers, p.values) for p in parts), strict=True))
        return numbers, values, np.concatenate([p.residuals for p in parts])

    def _gathered(self) -> Gathered:
        """What writes the rows, once it is known what they are made of."""
        kinds, made = self._origins.kinds, self._origins.made
        counts = np.zeros(len(kinds), np.int64)
        counts[kinds != KINDS.index("made")] = 1
        used = [self._found[block].numbers >= 0 for block in sorted(self._found)]
        if used:
            counts[made] = np.concatenate([u.sum(axis=1) for u in used])
        elif self._form.method == "mean":
            counts[made] = 1
        starts = np.concatenate(([0], np.cumsum(counts)))
        rows, factors = np.full(starts[-1], MEAN, np.int64), np.ones(starts[-1])
        copied = np.flatnonzero(kinds == KINDS.index("copied"))
        rows[starts[copied]] = self._origins.ours[copied]
        if used:
            places = np.repeat(np.isin(np.arange(len(kinds)), made), counts)
            found = [self._found[block] for block in sorted(self._found)]
            rows[places] = np.concatenate([f.numbers[u] for f, u in zip(found, used, strict=True)])
            factors[places] = np.concatenate([f.values[u] for f, u in zip(found, used, strict=True)])
        read = self._children[0]
        height = prod(read.ref.shape if isinstance(read, Read) else read.node.shape) // self._form.width
        form = SparseRows(row_map(starts, np.zeros(len(rows), np.int16), rows, factors), self._form.width, height)
        node = replace(self.node, companions=(), minus=(), form=form)
        return Gathered(node, self.grid, self._reader, self._children[:1])


def _nothing() -> None:
    """A pass that leaves nothing to be done."""


def _means(starts: Ints, pieces: Ints) -> Combinations:
    """Means of rows ``pieces[starts[i] : starts[i + 1]]``."""
    counts = np.diff(starts)
    numbers = np.full((len(counts), max(1, int(counts.max(initial=0)))), -1, np.int64)
    inside = np.arange(numbers.shape[1]) < counts[:, None]
    numbers[inside] = pieces
    values = inside / np.maximum(counts, 1)[:, None]
    return Combinations(numbers, values, np.full(len(counts), np.nan))


def _largest(found: Combinations, most: int) -> Combinations:
    """The terms of largest coefficient, largest first; always ``most``, with -1 for none."""
    order = np.argsort(-np.abs(found.values), axis=1, kind="stable")[:, :most]
    numbers, values = np.take_along_axis(found.numbers, order, 1), np.take_along_axis(found.values, order, 1)
    short = ((0, 0), (0, most - order.shape[1]))
    return Combinations(np.pad(numbers, short, constant_values=-1), np.pad(values, short), found.residuals)


def _mean(rows: Rows, numbers: Ints) -> Floats:
    total = np.zeros(rows.width)
    for start in range(0, len(numbers), TILE):
        total += rows.take(numbers[start : start + TILE]).sum(axis=0)
    return total / len(numbers)


def _compared(made: Floats, truth: Floats) -> dict[str, float]:
    """Relative error of all rows together, and the mean of their cosines with the truth."""
    whole = float(np.linalg.norm(truth))
    if not np.isfinite(whole) or not np.isfinite(made).all():
        raise NotFiniteError
    products = np.linalg.norm(made, axis=1) * np.linalg.norm(truth, axis=1)
    cosines = np.divide((made * truth).sum(axis=1), products, out=np.zeros(len(truth)), where=products > 0)
    error = float(np.linalg.norm(made - truth)) / whole if whole else 0.0
    return {"error": round(error, 6), "cosine": round(float(cosines.mean()), 6)}


def _packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()

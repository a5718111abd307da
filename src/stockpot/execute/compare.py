"""Comparing two models tensor by tensor, streamed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from stockpot.checkpoint.model import Checkpoint, TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Phase, Tick
from stockpot.execute.schedule import run_all
from stockpot.execute.values import values_of
from stockpot.execute.workspace import Workspace
from stockpot.kernels import gram
from stockpot.kernels.sizes import ROW
from stockpot.planning.blocks import BLOCK, Grid

__all__ = ["Difference", "compare"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Difference:
    """How one tensor differs between models A and B.

    Args:
        name: Its name.
        a, b: Dtype and shape in each model, ``None`` where it is missing.
        identical: Same dtype, shape and bytes.
        distance: ‖a − b‖ / ‖a‖; None when they cannot be subtracted.
        cosine: ⟨a, b⟩ / (‖a‖ ‖b‖); None likewise, and for zero vectors.
    """

    name: str
    a: str | None
    b: str | None
    identical: bool
    distance: float | None = None
    cosine: float | None = None

    def __str__(self) -> str:
        if self.a is None or self.b is None:
            return f"{self.name}: only in {'A' if self.b is None else 'B'} ({self.a or self.b})"
        kind = self.a if self.a == self.b else f"{self.a} against {self.b}"
        if self.identical:
            return f"{self.name}: identical ({kind})"
        if self.distance is None:
            return f"{self.name}: different ({kind})"
        cosine = "" if self.cosine is None else f", cosine {self.cosine:.9f}"
        return f"{self.name}: relative distance {self.distance:.6g}{cosine} ({kind})"


def compare(a: Checkpoint, b: Checkpoint, *, progress: Progress | None = None) -> tuple[Difference, ...]:
    """Every tensor of either model, in A's order and then B's; the values of those that are quantised."""
    found: dict[str, Difference] = {}
    moved = [0]
    names = [*a.values, *(n for n in b.values if n not in a.values)]
    with PayloadReader() as reader:

        def runs() -> Iterator[Iterator[Phase]]:
            for name in names:
                if name in a.values and name in b.values and (name in a.codings or name in b.codings):
                    yield _decoded_phases(name, a, b, reader, found, moved)
                else:
                    yield _phases(name, _ref(a, name), _ref(b, name), reader, found, moved)

        total = a.nbytes
        poll = None if progress is None else lambda: progress(min(moved[0], total), total)
        run_all(runs(), os.cpu_count() or 1, poll)
    return tuple(found[name] for name in names)


def _phases(
    name: str,
    a: TensorRef | None,
    b: TensorRef | None,
    reader: PayloadReader,
    found: dict[str, Difference],
    moved: list[int],
) -> Iterator[Phase]:
    if a is None or b is None or a.shape != b.shape or a.dtype.is_float != b.dtype.is_float:
        found[name] = Difference(name, _kind(a), _kind(b), identical=False)
        return
    floats = a.dtype.is_float
    if not floats and a.dtype != b.dtype:
        found[name] = Difference(name, _kind(a), _kind(b), identical=False)
        return
    grid = Grid(a.elements, BLOCK) if floats else Grid(a.nbytes, BLOCK)
    parts = np.zeros((grid.count, 4))
    same = np.ones(grid.count, bool)

    def run(block: int, space: Workspace, _tick: Tick) -> None:
        start, n = grid.block(block)
        wide = max(a.dtype.itemsize, b.dtype.itemsize) if floats else 1
        raw = space.take(("pair",), (2, n * wide), np.uint8)
        views = []
        for row, ref in zip(raw, (a, b), strict=True):
            width = ref.dtype.itemsize if floats else 1
            views.append(row[: n * width])
            reader.read(ref, start * width, views[-1].data)
        same[block] = a.dtype == b.dtype and bool(np.array_equal(views[0], views[1]))
        if floats:
            parts[block] = _products(raw, a, b, n, space)
        moved[0] += len(views[0])

    def finish() -> None:
        identical = bool(same.all()) and a.dtype == b.dtype
        found[name] = _difference(name, a, b, identical, parts.sum(axis=0) if floats else None)

    yield Phase("compare", grid.count, run, finish)


def _ref(checkpoint: Checkpoint, name: str) -> TensorRef | None:
    return checkpoint.tensors[name] if name in checkpoint.values else None


def _decoded_phases(
    name: str, a: Checkpoint, b: Checkpoint, reader: PayloadReader, found: dict[str, Difference], moved: list[int]
) -> Iterator[Phase]:
    """Of tensors that are not stored as plain numbers: their values are compared."""
    kinds = (_kind(a.tensors[name]), _kind(b.tensors[name]))
    if a.tensors[name].shape != b.tensors[name].shape or not a.values[name][0].is_float & b.values[name][0].is_float:
        found[name] = Difference(name, kinds[0], kinds[1], identical=False)
        return
    sides = [values_of(c, name, reader) for c in (a, b)]
    grid = Grid(a.tensors[name].elements, BLOCK)
    parts, same = np.zeros((grid.count, 4)), np.ones(grid.count, bool)

    def run(block: int, space: Workspace, _tick: Tick) -> None:
        x, y = (values(*grid.block(block), space) for values in sides)
        same[block] = np.array_equal(x, y)
        parts[block] = [np.dot(x, x), np.dot(x, y), np.dot(y, y), np.dot(y - x, y - x)]
        moved[0] += a.tensors[name].nbytes // grid.count

    def finish() -> None:
        identical = bool(same.all()) and kinds[0] == kinds[1]
        found[name] = _difference(name, a.tensors[name], b.tensors[name], identical, parts.sum(axis=0))

    yield Phase("compare", grid.count, run, finish)


def _products(raw: np.ndarray, a: TensorRef, b: TensorRef, n: int, space: Workspace) -> list[float]:
    """⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩ and ‖b − a‖² over a block."""
    scratch = space.take(("scratch",), (5, ROW), np.float64)
    pair, one = np.empty((1, 2, 2)), np.empty((1, 1, 1))
    codes = np.array([a.dtype.kernel, b.dtype.kernel])
    gram.gram_rows(raw, codes, 1, n, -1, 2, pair, scratch)
    gram.gram_rows(raw[::-1].copy(), codes[::-1].copy(), 1, n, 1, 1, one, scratch)
    return [pair[0, 0, 0], pair[0, 0, 1], pair[0, 1, 1], one[0, 0, 0]]


def _difference(name: str, a: TensorRef, b: TensorRef, identical: bool, sums: np.ndarray | None) -> Difference:
    if sums is None:
        return Difference(name, _kind(a), _kind(b), identical)
    aa, ab, bb, apart = (float(s) for s in sums)
    distance = math.sqrt(apart / aa) if aa > 0 else (0.0 if apart == 0 else math.inf)
    cosine = min(max(ab / (math.sqrt(aa) * math.sqrt(bb)), -1.0), 1.0) if aa > 0 and bb > 0 else None
    return Difference(name, _kind(a), _kind(b), identical, distance, cosine)


def _kind(ref: TensorRef | None) -> str | None:
    return None if ref is None else f"{ref.dtype.code}{list(ref.shape)}"

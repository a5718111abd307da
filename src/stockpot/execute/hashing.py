"""Hashing stored tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from stockpot.checkpoint.model import TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.checkpoint.tensorhash import PIECE, TensorHash
from stockpot.execute.evaluate import Phase, Tick
from stockpot.execute.workspace import Workspace
from stockpot.planning.blocks import Grid

__all__ = ["hash_phases"]


def hash_phases(
    ref: TensorRef, reader: PayloadReader, moved: Callable[[int], None], finished: Callable[[str], None]
) -> Iterator[Phase]:
    """Read ``ref`` once; ``finished`` is called with its hash (:class:`TensorHash`)."""
    found = TensorHash(ref.nbytes)
    grid = Grid(ref.nbytes, 4 * PIECE)

    def run(block: int, space: Workspace, _: Tick) -> None:
        start, n = grid.block(block)
        data = space.take(("piece",), (n,), np.uint8)
        reader.read(ref, start, data.data)
        found.add(start, data.data)
        moved(n)

    def finish() -> None:
        finished(found.hexdigest())

    yield Phase("hash", grid.count, run, finish)

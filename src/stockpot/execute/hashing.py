"""Hashing stored tensors: one job a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import xxhash

from stockpot.checkpoint.model import TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.evaluate import Phase, Tick
from stockpot.execute.workspace import Workspace
from stockpot.planning.blocks import Grid

__all__ = ["hash_phases"]

_PIECE = 1 << 22


def hash_phases(
    ref: TensorRef, reader: PayloadReader, moved: Callable[[int], None], finished: Callable[[str], None]
) -> Iterator[Phase]:
    """Read ``ref`` once; ``finished`` is called with the hexadecimal xxh3-128 of its bytes."""

    def run(_: int, space: Workspace, _tick: Tick) -> None:
        digest = xxhash.xxh3_128()
        grid = Grid(ref.nbytes, _PIECE)
        for piece in range(grid.count):
            start, n = grid.block(piece)
            data = space.take(("piece",), (n,), np.uint8)
            reader.read(ref, start, data.data)
            digest.update(data.data)
            moved(n)
        finished(digest.hexdigest())

    yield Phase("hash", 1, run, lambda: None)

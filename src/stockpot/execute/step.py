"""One step of a plan as phases: the passes of its method, then a last one that writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Condition

import numpy as np
import numpy.typing as npt
import xxhash

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.diagnose import explain, mend
from stockpot.execute.evaluate import Bytes, Phase, Settled, Tick
from stockpot.execute.evaluators import evaluator_of
from stockpot.execute.survey import counted
from stockpot.execute.workspace import Workspace
from stockpot.planning.blocks import BLOCK, EARLY, Grid, grid_of
from stockpot.planning.model import Compute, Read, Step, reads

__all__ = ["Sink", "step_phases"]

Sink = Callable[[Step, int, npt.NDArray[np.uint8]], None]
"""Takes (step, first byte within the tensor, bytes)."""


def step_phases(
    step: Step,
    reader: PayloadReader,
    sink: Sink,
    finished: Callable[[Step, str], None],
    moved: Callable[[int], None],
    settled: Settled,
) -> Iterator[Phase]:
    """The passes of ``step``.

    Args:
        settled: Statistics of the whole model that are known.
        sink: Where result bytes go; called once per block, from any thread.
        finished: Called with the hash of the result once it is complete.
        moved: Called with numbers of bytes as they are read or written, for progress.
    """
    for read in reads(step.source):
        reader.prefetch(read.ref)
    source = step.source
    if isinstance(source, Compute):
        yield from _computed(step, source, reader, sink, finished, moved, settled)
    else:
        yield _copied(step, source, reader, sink, finished, moved)


def _computed(
    step: Step,
    source: Compute,
    reader: PayloadReader,
    sink: Sink,
    finished: Callable[[Step, str], None],
    moved: Callable[[int], None],
    settled: Settled,
) -> Iterator[Phase]:
    grid = grid_of(source, step.shape)
    evaluator = evaluator_of(source, grid, reader, settled)
    for phase in evaluator.phases() if step.elements else ():
        yield counted(phase, moved, source, reader)
    width = step.dtype.itemsize
    digest = _Digest()

    def write(block: int, space: Workspace) -> Bytes:
        start, n = grid.block(block)
        out = space.take(("out",), (n * width,), np.uint8)
        bad = evaluator.compute(start, n, space, out, step.dtype.kernel)
        if bad and not mend(step, out, reader, start, n):
            raise explain(source, reader, start, n, step=step)
        sink(step, start * width, out)
        return out

    def finish() -> None:
        finished(step, digest.hexdigest())

    yield counted(Phase("write", grid.count, _hashed(write, digest), finish), moved, source, reader)


def _copied(
    step: Step,
    source: Read,
    reader: PayloadReader,
    sink: Sink,
    finished: Callable[[Step, str], None],
    moved: Callable[[int], None],
) -> Phase:
    grid = Grid(step.nbytes, BLOCK * max(1, step.dtype.itemsize))
    digest = _Digest()

    def copy(block: int, space: Workspace) -> Bytes:
        start, n = grid.block(block)
        out = space.take(("out",), (n,), np.uint8)
        reader.read(source.ref, start, out.data)
        sink(step, start, out)
        return out

    def finish() -> None:
        finished(step, digest.hexdigest())

    nbytes = source.ref.nbytes
    return counted(Phase("copy", grid.count, _hashed(copy, digest), finish), moved, source, reader, nbytes=nbytes)


class _Digest:
    """xxh3-128 of a tensor's bytes, whose blocks may arrive a little out of order.

    A block that comes too early waits with the thread that made it: blocks are begun in order, so the thread
    that has the first one missing is at work, and tells of its failure by :meth:`abandon`.
    """

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self._waiting: dict[int, bytes] = {}
        self._next = 0
        self._held = 0
        self._moved = Condition()
        self._abandoned = False

    def add(self, block: int, data: npt.NDArray[np.uint8]) -> None:
        """Take the bytes of block number ``block``; few are kept until those before it have come."""
        with self._moved:
            while block != self._next and self._held + data.nbytes > EARLY and not self._abandoned:
                self._moved.wait()
            if block != self._next:
                self._waiting[block] = data.tobytes()
                self._held += data.nbytes
                return
            self._hash.update(data.data)
            self._next += 1
            while self._next in self._waiting:
                early = self._waiting.pop(self._next)
                self._hash.update(early)
                self._held -= len(early)
                self._next += 1
            self._moved.notify_all()

    def abandon(self) -> None:
        """A block will never come: let go of those who wait for it."""
        with self._moved:
            self._abandoned = True
            self._moved.notify_all()

    def hexdigest(self) -> str:
        """The hash, once every block has come."""
        return self._hash.hexdigest()


def _hashed(make: Callable[[int, Workspace], Bytes], digest: _Digest) -> Callable[[int, Workspace, Tick], None]:
    """The job of a block whose bytes ``make`` makes and puts where they belong; ``digest`` takes them."""

    def run(block: int, space: Workspace, _: Tick) -> None:
        try:
            digest.add(block, make(block, space))
        except BaseException:
            digest.abandon()
            raise

    return run

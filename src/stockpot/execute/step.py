"""One step of a plan as phases: the passes of its method, then a last one that writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.reader import PayloadReader
from stockpot.checkpoint.tensorhash import TensorHash
from stockpot.execute.diagnose import explain, mend
from stockpot.execute.evaluate import Phase, Settled, Tick
from stockpot.execute.evaluators import evaluator_of
from stockpot.execute.survey import counted
from stockpot.execute.workspace import Workspace
from stockpot.planning.blocks import BLOCK, Grid, grid_of
from stockpot.planning.model import Compute, Read, Step, ranges

__all__ = ["Made", "Sink", "step_phases"]

Sink = Callable[[Step, int, npt.NDArray[np.uint8]], None]
"""Takes (step, first byte within the tensor, bytes)."""

Made = Callable[[Step, str, Mapping[str, Any] | None], None]
"""Takes (step, hash of the result, what a report says of it)."""


def step_phases(
    step: Step,
    reader: PayloadReader,
    sink: Sink,
    finished: Made,
    moved: Callable[[int], None],
    settled: Settled,
) -> Iterator[Phase]:
    """The passes of ``step``.

    Args:
        settled: Statistics of the whole model that are known.
        sink: Where result bytes go; called once per block, from any thread.
        finished: Called once the result is complete.
        moved: Called with numbers of bytes as they are read or written, for progress.
    """
    for read, first, nbytes in ranges(step.source):
        reader.prefetch(read.ref, first, nbytes)
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
    finished: Made,
    moved: Callable[[int], None],
    settled: Settled,
) -> Iterator[Phase]:
    grid = grid_of(source, step.shape)
    evaluator = evaluator_of(source, grid, reader, settled)
    for phase in evaluator.phases() if step.elements else ():
        yield counted(phase, moved, source, reader)
    width = step.dtype.itemsize
    found = TensorHash(step.nbytes)

    def write(block: int, space: Workspace, _: Tick) -> None:
        start, n = grid.block(block)
        out = space.take(("out",), (n * width,), np.uint8)
        bad = evaluator.compute(start, n, space, out, step.dtype.kernel)
        if bad and not mend(step, out, reader, start, n):
            raise explain(source, reader, start, n, step=step)
        sink(step, start * width, out)
        found.add(start * width, out.data)

    def finish() -> None:
        finished(step, found.hexdigest(), evaluator.told())

    yield counted(Phase("write", grid.count, write, finish), moved, source, reader)


def _copied(
    step: Step,
    source: Read,
    reader: PayloadReader,
    sink: Sink,
    finished: Made,
    moved: Callable[[int], None],
) -> Phase:
    grid = Grid(step.nbytes, BLOCK * max(1, step.dtype.itemsize))
    found = TensorHash(step.nbytes)

    def run(block: int, space: Workspace, _: Tick) -> None:
        start, n = grid.block(block)
        out = space.take(("out",), (n,), np.uint8)
        reader.read(source.ref, start, out.data)
        sink(step, start, out)
        found.add(start, out.data)

    def finish() -> None:
        finished(step, found.hexdigest(), None)

    nbytes = source.ref.nbytes
    return counted(Phase("copy", grid.count, run, finish), moved, source, reader, nbytes=nbytes)

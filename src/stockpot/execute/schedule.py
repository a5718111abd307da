"""Running many small jobs of many tensors on a few threads.

Work is taken tensor by tensor, in order; the blocks of one pass go to whichever thread is free. When
a pass has no blocks left to hand out, the next tensor is begun, so that no thread waits for another.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator

from stockpot.execute.evaluate import Phase
from stockpot.execute.workspace import Workspace

__all__ = ["run_all"]

PATIENCE = 0.5
"""Seconds for which a stopped run waits for jobs under way; a decomposition that takes longer is left to itself."""


def _untold(_: float) -> None:
    """Progress within a job, of interest to no one."""


class _Run:
    """One tensor on its way through its phases."""

    def __init__(self, phases: Iterator[Phase]) -> None:
        self.phases = phases
        self.phase: Phase | None = None
        self.left = 0


class _Schedule:
    """Hands out blocks; all state is guarded by one lock."""

    def __init__(self, runs: Iterator[Iterator[Phase]], threads: int) -> None:
        self._runs, self._working = runs, threads
        self._ready: deque[tuple[_Run, Phase, int]] = deque()
        self._changed = threading.Condition()
        self._open = 0
        self._more = True
        self.error: BaseException | None = None
        self.ended = threading.Event()
        """No thread is at work any more. A join that a signal interrupts may take a thread that works for one
        that has ended; an event is never wrong."""

    def stop(self, error: BaseException) -> None:
        """End the work: nothing further is handed out."""
        with self._changed:
            self.error = self.error or error
            self._ready.clear()
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what a worker raised."""
        if self.error is not None:
            raise self.error

    def work(self) -> None:
        """A thread's life: take blocks until there are none."""
        space = Workspace()
        try:
            while (job := self._take()) is not None:
                run, phase, block = job
                phase.run(block, space, _untold)
                self._done(run, phase)
        except BaseException as error:  # noqa: BLE001 - it is re-raised in the calling thread
            self.stop(error)
        finally:
            with self._changed:
                self._working -= 1
                if not self._working:
                    self.ended.set()

    def _take(self) -> tuple[_Run, Phase, int] | None:
        while True:
            with self._changed:
                if self.error is not None:
                    return None
                if self._ready:
                    return self._ready.popleft()
                if not self._more:
                    if self._open == 0:
                        self._changed.notify_all()
                        return None
                    self._changed.wait()
                    continue
                phases = next(self._runs, None)
                if phases is None:
                    self._more = False
                    continue
                self._open += 1
            self._advance(_Run(phases))

    def _done(self, run: _Run, phase: Phase) -> None:
        with self._changed:
            run.left -= 1
            if run.left > 0:
                return
        phase.finish()
        self._advance(run)

    def _advance(self, run: _Run) -> None:
        """Begin the next phase of a tensor, ahead of tensors begun later."""
        phase = next(run.phases, None)
        while phase is not None and phase.count == 0:
            phase.finish()
            phase = next(run.phases, None)
        with self._changed:
            if phase is None:
                self._open -= 1
            elif self.error is None:
                run.phase, run.left = phase, phase.count
                self._ready.extendleft((run, phase, block) for block in reversed(range(phase.count)))
            self._changed.notify_all()


def _outlive(ended: threading.Event) -> None:
    """Wait at the end of the program: tearing it down under a thread in linear algebra would crash or hang it."""
    try:
        ended.wait()
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)


def run_all(runs: Iterator[Iterator[Phase]], threads: int, poll: Callable[[], None] | None = None) -> None:
    """Run the phases of every tensor, each tensor's in order, on ``threads`` threads.

    Args:
        runs: One iterator of phases per tensor; consumed lazily, by the worker threads.
        threads: Number of worker threads.
        poll: Called in the calling thread about ten times a second while it waits.

    Raises:
        BaseException: the first one that any worker raised, or that ``poll`` raised (which stops all; a
            job under way may outlive that, but none is begun any more).
    """
    schedule = _Schedule(runs, threads)
    workers = [threading.Thread(target=schedule.work, name=f"stockpot-{i}", daemon=True) for i in range(threads)]
    try:
        for worker in workers:
            worker.start()
        ended = False
        while not ended:
            ended = schedule.ended.wait(0.1)
            if poll is not None:
                poll()
            schedule.check()
    except BaseException as error:
        schedule.stop(error)
        if not schedule.ended.wait(PATIENCE):
            atexit.register(_outlive, schedule.ended)
        raise

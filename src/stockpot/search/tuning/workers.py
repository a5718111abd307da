"""Trials side by side in processes of their own: what dies there, as for want of memory, is one trial, not the search."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from stockpot.errors import ExecutionError, Problem, RecipeError
from stockpot.evaluate.run import told
from stockpot.search.tuning.trials import Figures, Outcome, State, Trial

if TYPE_CHECKING:
    from stockpot.search.tuning.space import Value

__all__ = ["Desk", "Evaluator", "Setup", "attempt", "in_process", "in_processes"]


class Evaluator(Protocol):
    """Measures values of the dimensions."""

    def values(self, values: Mapping[str, Value]) -> Iterator[Figures]:
        """The figures after each rung of data; may raise anything."""


Setup: TypeAlias = Callable[[], contextlib.AbstractContextManager[Evaluator]]
"""Makes what evaluates, once in each process; for other processes it must be picklable."""


class Desk(Protocol):
    """Where trials come from and go to; one process has it."""

    def next(self) -> Trial | None:
        """Another trial; None when there are no more."""

    def goes_on(self, trial: Trial, rungs: tuple[Figures, ...]) -> bool:
        """Whether a trial goes on to the next rung; true after the last."""

    def done(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has ended."""


def attempt(
    evaluator: Evaluator, values: Mapping[str, Value], goes_on: Callable[[tuple[Figures, ...]], bool]
) -> Outcome:
    """Evaluate ``values``; whatever goes wrong is the outcome.

    Args:
        goes_on: Asked after each rung whether to go on; it says so after the last.
    """
    started = time.perf_counter()
    rungs: list[Figures] = []
    state: State = "complete"
    error = None
    try:
        for figures in evaluator.values(values):
            if not all(map(math.isfinite, figures)):
                raise ExecutionError(Problem(f"figures are {figures}, not finite numbers"))  # noqa: TRY301 - one way out
            rungs.append(tuple(map(float, figures)))
            if not goes_on(tuple(rungs)):
                state = "stopped"
                break
    except (Exception, SystemExit) as caught:  # noqa: BLE001 - whatever it is, it is this trial's
        state, error = "failed", told(caught)
    return Outcome(state, tuple(rungs), error, time.perf_counter() - started)


def in_process(setup: Setup, desk: Desk) -> None:
    """All trials, one after another, in this process."""
    with setup() as evaluator:
        while (trial := desk.next()) is not None:
            desk.done(trial, attempt(evaluator, trial.values, lambda rungs, own=trial: desk.goes_on(own, rungs)))


def in_processes(setup: Setup, desk: Desk, jobs: int, threads: int) -> None:
    """All trials, ``jobs`` at a time. A trial whose process dies is begun once more; then it has failed.

    Args:
        threads: Of each process.

    Raises:
        RecipeError: when the setup cannot be sent to a process.
        ExecutionError: when a process cannot begin.
    """
    try:
        packed = pickle.dumps(setup)
    except Exception as error:
        fix = "jobs=0, or code that lies in modules"
        raise RecipeError(Problem(f"the search cannot be sent to a process: {told(error)}", fix=fix)) from error
    workers: list[_Worker] = []
    try:
        _Foreman(packed, desk, jobs, threads, workers).run()
    finally:
        for worker in workers:
            worker.end()


@dataclass(eq=False)
class _Worker:
    """A process and what it is doing."""

    process: Any
    line: Connection
    ready: bool = False
    trial: Trial | None = None
    rungs: tuple[Figures, ...] = ()
    again: bool = field(default=False)

    @classmethod
    def begun(cls, packed: bytes, threads: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(packed, there, threads, os.getpid()), daemon=True)
        with _environment(threads):
            process.start()
        there.close()
        return cls(process, here)

    def end(self) -> None:
        """The process ends now."""
        self.line.close()
        self.process.kill()
        self.process.join()


class _Foreman:
    """Hands trials to processes and listens to them."""

    def __init__(self, packed: bytes, desk: Desk, jobs: int, threads: int, workers: list[_Worker]) -> None:
        self._packed, self._desk, self._jobs, self._threads, self._workers = packed, desk, jobs, threads, workers
        self._left: list[tuple[Trial, bool]] = []
        self._over = False

    def run(self) -> None:
        """Until no trial is left."""
        while True:
            self._staff()
            busy = [worker for worker in self._workers if worker.trial is not None or not worker.ready]
            if not any(worker.trial is not None for worker in self._workers) and not self._more():
                return
            for line in wait([worker.line for worker in busy]):
                self._hear(next(worker for worker in self._workers if worker.line is line))

    def _more(self) -> bool:
        """Whether a trial waits, one that is asked for now if need be."""
        if not self._left and not self._over:
            trial = self._desk.next()
            self._over = trial is None
            self._left += [] if trial is None else [(trial, False)]
        return bool(self._left)

    def _staff(self) -> None:
        """Trials for those that are idle; more processes as long as there are trials for them."""
        for worker in self._workers:
            if worker.ready and worker.trial is None and self._more():
                worker.trial, worker.again = self._left.pop(0)
                worker.rungs = ()
                with contextlib.suppress(OSError):  # a dead process is heard of
                    worker.line.send(dict(worker.trial.values))
        starting = sum(not worker.ready for worker in self._workers)
        while len(self._workers) < self._jobs and self._more() and starting < max(1, self._jobs):
            self._workers.append(_Worker.begun(self._packed, self._threads))
            starting += 1

    def _hear(self, worker: _Worker) -> None:
        try:
            what, content = worker.line.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        if what == "broken":
            raise ExecutionError(Problem(f"a worker process cannot begin: {content}"))
        if what == "ready":
            worker.ready = True
        elif what == "rung":
            assert worker.trial is not None
            with contextlib.suppress(OSError):
                worker.line.send(self._desk.goes_on(worker.trial, content))
        else:
            trial, worker.trial = worker.trial, None
            assert trial is not None
            self._desk.done(trial, content)

    def _lost(self, worker: _Worker) -> None:
        """A process died: another takes its place, its trial is begun once more."""
        self._workers.remove(worker)
        worker.process.join()
        code, trial = worker.process.exitcode, worker.trial
        worker.end()
        how = f"killed by signal {-code}, such as by the system when memory is short" if code < 0 else f"code {code}"
        if not worker.ready:
            fix = "fewer --jobs, or --jobs 0 to search within one process"
            raise ExecutionError(Problem(f"a worker process cannot begin ({how})", fix=fix))
        if trial is not None and not worker.again:
            self._left.insert(0, (trial, True))
        elif trial is not None:
            self._desk.done(trial, Outcome("failed", error=f"the process died twice ({how})"))


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """While a process is started: how many threads libraries take that read it when they are loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: own if (own := before[name]) and own.isdigit() and int(own) < threads else str(threads) for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(packed: bytes, line: Connection, threads: int, parent: int) -> None:
    """What a process does: values in, rungs and outcome out, until the line closes."""
    import signal

    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells all; the search ends its processes
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    with threadpool_limits(threads), contextlib.suppress(EOFError, OSError), contextlib.ExitStack() as stack:
        try:
            evaluator = stack.enter_context(pickle.loads(packed)())  # noqa: S301 - what the parent sent
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the parent tells it
            line.send(("broken", told(error)))
            return
        line.send(("ready", None))
        while True:
            values = line.recv()

            def goes_on(rungs: tuple[Figures, ...]) -> bool:
                line.send(("rung", rungs))
                return bool(line.recv())

            line.send(("done", attempt(evaluator, values, goes_on)))


def _watch(parent: int) -> None:
    """A process whose parent is gone has nobody to work for."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

"""Trials in processes of their own: what dies there, as for want of memory, is one trial, not the search."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from stockpot.errors import ExecutionError, Problem, RecipeError, StockpotError
from stockpot.evaluate.run import told
from stockpot.search.spaces.dimensions import Value
from stockpot.search.tuning.rungs import temporary_folder
from stockpot.search.tuning.trials import Figures, Outcome, State, Trial

__all__ = ["Crew", "Desk", "Evaluator", "Setup", "attempt", "crew_of"]


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


class Crew(Protocol):
    """Evaluates the trials of one desk after another; what it needs for that stays ready."""

    def run(self, desk: Desk) -> None:
        """All trials of a desk."""


@contextlib.contextmanager
def crew_of(setup: Setup, jobs: int, threads: int, seconds: float | None = None) -> Iterator[Crew]:
    """``jobs`` processes, or this one where that is 0. A trial whose process dies is begun once more; then it failed.

    Temporary files of processes lie in a folder that is removed in the end, since they may die at any time.

    Args:
        setup: Makes what evaluates.
        jobs: Processes beside this one.
        threads: Of each process.
        seconds: A trial that takes longer has failed, and its process ends; None waits. Only for processes.

    Raises:
        RecipeError: when the setup cannot be sent to a process.
        ExecutionError: when a process cannot begin.
        StorageError: when there is no room for temporary files.
    """
    if not jobs:
        with contextlib.ExitStack() as stack:
            yield _Here(setup, stack)
        return
    try:
        packed = pickle.dumps(setup)
    except Exception as error:
        fix = "--jobs 0 (in Python: jobs=0), or code that lies in modules"
        raise RecipeError(Problem(f"the search cannot be sent to a process: {told(error)}", fix=fix)) from error
    scratch = temporary_folder()
    foreman = _Foreman(packed, jobs, threads, seconds, scratch)
    try:
        yield foreman
    finally:
        foreman.end()
        shutil.rmtree(scratch, ignore_errors=True)


class _Here:
    """This process."""

    def __init__(self, setup: Setup, stack: contextlib.ExitStack) -> None:
        self._setup, self._stack = setup, stack
        self._evaluator: Evaluator | None = None

    def run(self, desk: Desk) -> None:
        while (trial := desk.next()) is not None:
            if self._evaluator is None:
                self._evaluator = self._stack.enter_context(self._setup())
            desk.done(trial, attempt(self._evaluator, trial.values, partial(desk.goes_on, trial)))


@dataclass(eq=False)
class _Worker:
    """A process and what it is doing."""

    process: Any
    line: Connection
    ready: bool = False
    trial: Trial | None = None
    again: bool = False
    since: float = 0.0

    @classmethod
    def begun(cls, packed: bytes, threads: int, scratch: Path) -> _Worker:
        """A process that is starting."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        # no daemon: those may not start processes of their own, as tasks do that run vLLM
        process = context.Process(target=_work, args=(packed, there, threads, os.getpid()), daemon=False)
        with _environment(threads, scratch):
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

    def __init__(self, packed: bytes, jobs: int, threads: int, seconds: float | None, scratch: Path) -> None:
        self._packed, self._jobs, self._threads = packed, jobs, threads
        self._seconds, self._scratch = seconds, scratch
        self._workers: list[_Worker] = []
        self._left: list[tuple[Trial, bool]] = []
        self._desk: Desk | None = None

    def run(self, desk: Desk) -> None:
        self._desk, self._left = desk, []
        while True:
            self._staff()
            if not any(worker.trial is not None for worker in self._workers) and not self._more():
                return
            for line in wait([worker.line for worker in self._workers], self._patience()):
                self._hear(next(worker for worker in self._workers if worker.line is line))
            self._end_late()

    def end(self) -> None:
        """All processes end now."""
        for worker in self._workers:
            worker.end()

    def _patience(self) -> float | None:
        """Seconds until the first trial has taken too long; None without a limit, or a trial under way."""
        begun = [worker.since for worker in self._workers if worker.trial is not None]
        return max(0.0, min(begun) + self._seconds - time.monotonic()) if begun and self._seconds is not None else None

    def _end_late(self) -> None:
        """Trials that take too long have failed; other processes take the place of theirs."""
        for worker in list(self._workers):
            taken = time.monotonic() - worker.since
            if worker.trial is None or self._seconds is None or taken < self._seconds or worker.line.poll():
                continue
            self._workers.remove(worker)
            worker.end()
            told_of = f"stopped: it took longer than {self._seconds:g} seconds"
            self._at.done(worker.trial, Outcome("failed", error=told_of, seconds=taken))

    @property
    def _at(self) -> Desk:
        assert self._desk is not None
        return self._desk

    def _more(self) -> bool:
        """Whether a trial waits, one that is asked for now if need be."""
        if not self._left and (trial := self._at.next()) is not None:
            self._left.append((trial, False))
        return bool(self._left)

    def _staff(self) -> None:
        """Trials for those that are idle; another process as long as a trial waits for it."""
        for worker in self._workers:
            if worker.ready and worker.trial is None and self._more():
                worker.trial, worker.again = self._left.pop(0)
                worker.since = time.monotonic()
                with contextlib.suppress(OSError):  # a dead process is heard of
                    worker.line.send(dict(worker.trial.values))
        while len(self._workers) < self._jobs and self._more():
            self._workers.append(_Worker.begun(self._packed, self._threads, self._scratch))

    def _hear(self, worker: _Worker) -> None:
        try:
            what, content = worker.line.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        if what == "broken":
            kind, problems = content
            raise kind(*problems)
        if what == "ready":
            worker.ready = True
        elif what == "rung":
            assert worker.trial is not None
            with contextlib.suppress(OSError):
                worker.line.send(self._at.goes_on(worker.trial, content))
        else:
            trial, worker.trial = worker.trial, None
            assert trial is not None
            self._at.done(trial, content)

    def _lost(self, worker: _Worker) -> None:
        """A process died: another takes its place, its trial is begun once more."""
        self._workers.remove(worker)
        worker.process.join()
        code, trial = worker.process.exitcode, worker.trial
        worker.line.close()
        how = f"killed by signal {-code}, such as by the system when memory is short" if code < 0 else f"code {code}"
        if not worker.ready:
            fix = "fewer --jobs, or --jobs 0 to search within one process"
            raise ExecutionError(Problem(f"a process cannot begin ({how})", fix=fix))
        if trial is not None and not worker.again:
            self._left.insert(0, (trial, True))
        elif trial is not None:
            self._at.done(trial, Outcome("failed", error=f"the process died twice ({how})"))


@contextlib.contextmanager
def _environment(threads: int, scratch: Path) -> Iterator[None]:
    """While a process is started: how many threads libraries take, and where temporary files are put."""
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    places = ("TMPDIR", "TEMP", "TMP")
    before = {name: os.environ.get(name) for name in (*limits, *places)}
    for name in limits:
        own = before[name]
        os.environ[name] = own if own and own.isdigit() and int(own) < threads else str(threads)
    os.environ.update(dict.fromkeys(places, str(scratch)))
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
        except StockpotError as error:
            line.send(("broken", (type(error), error.problems)))
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the parent tells it
            line.send(("broken", (ExecutionError, (Problem(f"a process cannot begin: {told(error)}"),))))
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

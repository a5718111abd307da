"""Candidates measured on growing shares of the data: what is bad on a little of it need not see the rest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Self

from stockpot.checkpoint.storage import cannot_write
from stockpot.errors import ExecutionError, Problem, RecipeError
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate
from stockpot.evaluate.identity import model_hash
from stockpot.evaluate.metrics import figure_of, values_of
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.portions import checked_shares, joined, portions
from stockpot.evaluate.protocol import Predictions
from stockpot.evaluate.run import naming, task_hash
from stockpot.evaluate.suite import Suite, SuiteTask
from stockpot.search.objective import Objective

__all__ = ["Rungs", "temporary_folder"]


class Rungs:
    """Evaluates candidates on growing shares of one role's data; use it as a context, or :meth:`close` it.

    A candidate is merged into memory once, each piece of the data is predicted once, and figures are of the rows of all
    pieces so far. After the last rung they are those of all data, up to rounding (sums in another order, other
    batches); texts that are cut lose context where they are (:class:`stockpot.evaluate.portions.Spans`). A task that
    cannot be cut, such as one of a user's own, is measured whole on the first rung.

    Pieces lie in a temporary folder, about as large as the data; with one share files are used where they lie. A
    process that was forked off may use them as long as the first keeps them.

    Args:
        suite: The tasks that objectives name must have data for ``role``.
        role: ``tune`` or ``select``.
        objectives: At least one.
        shares: Cumulative shares of the examples, rising to 1.
        seed: Tells which examples come first.
        cache: Where predictions are kept, by model and content of the piece; None keeps none.
        device: Where torch runs models; None takes a GPU where there is one.
        choosing: What the figures choose, for people: the data is noted in the cache as used for that.

    Raises:
        RecipeError: for shares that do not rise to 1, a task without such data, or several shares of tasks of which
            none can be cut.
        CheckpointError: when data cannot be read.
        StorageError: when a piece cannot be written.
    """

    def __init__(
        self,
        suite: Suite,
        role: str,
        objectives: Sequence[Objective],
        shares: Sequence[float] = (1.0,),
        *,
        seed: int = 0,
        cache: Cache | None = None,
        device: str | None = None,
        choosing: str | None = None,
    ) -> None:
        self.shares, self.objectives = checked_shares(shares), tuple(objectives)
        self._cache, self._device, self._owner = cache, device, os.getpid()
        tasks = _needed(suite, role, self.objectives)
        if len(self.shares) > 1 and all(task.cut is None for task in tasks):
            names = ", ".join(task.name for task in tasks)
            message = f"the data of {names} cannot be cut: only the task knows what an example is"
            raise RecipeError(Problem(message, fix="take one rung: all data at once"))
        if cache is not None and choosing is not None:
            for task in tasks:
                cache.choose(task.content(role), choosing)
        self._folder: Path | None = None
        try:
            pieces = [(task, self._pieces(task, role, seed)) for task in tasks]
        except BaseException:
            self.close()
            raise
        self._rungs = tuple(
            tuple(_Piece(task, own[i], role) for task, own in pieces if own[i].data[role])
            for i in range(len(self.shares))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """The pieces are removed, by the process that made them."""
        if self._folder is not None and self._owner == os.getpid():
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def values(self, one: Candidate) -> Iterator[tuple[float, ...]]:
        """After each rung the value of each objective; what comes after is not computed until it is asked for.

        Raises:
            StockpotError: when the candidate cannot be merged or measured, whatever goes wrong, code of users included.
        """
        with closing(_Model(one, self._cache, self._device)) as model:
            yield from self._rung_values(model)

    def _rung_values(self, model: _Model) -> Iterator[tuple[float, ...]]:
        parts: dict[str, list[Predictions]] = {}
        figures: dict[tuple[str, str], float] = {}
        for share, pieces in zip(self.shares, self._rungs, strict=True):
            for piece in pieces:
                where = piece.task.name if share == 1 else f"{piece.task.name}, {share:.3g} of the data"
                with naming(where):
                    parts.setdefault(piece.task.name, []).append(model.predictions(piece))
                    figures |= self._figures(piece.task, joined(parts[piece.task.name]))
            yield tuple(self._value(objective, figures) for objective in self.objectives)

    def _pieces(self, task: SuiteTask, role: str, seed: int) -> list[SuiteTask]:
        """``task`` with each piece of its data in turn."""
        folder = Path()
        if task.cut is not None and len(self.shares) > 1:
            self._folder = self._folder or temporary_folder()
            folder = Path(mkdtemp(dir=self._folder))
        files = portions(task.cut, task.data[role], self.shares, seed, folder)
        return [replace(task, data={role: own}) for own in files]

    def _figures(self, task: SuiteTask, predictions: Predictions) -> dict[tuple[str, str], float]:
        """Those that objectives need."""
        wanted = {metric for objective in self.objectives for name, metric in objective.parts if name == task.name}
        own = [metric for metric in task.task.metrics if metric.name in wanted]
        return {(task.name, metric.name): figure_of(metric, values_of(metric, predictions)) for metric in own}

    def _value(self, objective: Objective, figures: dict[tuple[str, str], float]) -> float:
        found = objective.mean(figures)
        if found is None:
            raise ExecutionError(Problem(f"there is no figure {objective}"))
        return found


class _Piece:
    """A task on one piece of its data."""

    def __init__(self, task: SuiteTask, own: SuiteTask, role: str) -> None:
        self.task, self.files = task, own.data[role]
        self.hash = task_hash(own, role)


class _Model:
    """A candidate that is opened once, when something of it is not known."""

    def __init__(self, one: Candidate, cache: Cache | None, device: str | None) -> None:
        self._one, self._cache, self._device = one, cache, device

    @cached_property
    def _hash(self) -> str:
        assert self._cache is not None
        return model_hash(self._one.plan, self._cache)

    @cached_property
    def _opened(self) -> Opened:
        return self._one.opened(self._device)

    def close(self) -> None:
        """What tasks left open ends."""
        if "_opened" in self.__dict__:
            self._opened.release()

    def predictions(self, piece: _Piece) -> Predictions:
        if self._cache is None:
            return piece.task.task.predict(self._opened, piece.files)
        found = self._cache.predictions(self._hash, piece.hash)
        if found is None:
            found = piece.task.task.predict(self._opened, piece.files)
            self._cache.keep(self._hash, piece.hash, found)
        return found


def _needed(suite: Suite, role: str, objectives: Sequence[Objective]) -> tuple[SuiteTask, ...]:
    """The tasks that objectives name, in the order of the suite."""
    names = {task for objective in objectives for task, _ in objective.parts}
    tasks = tuple(task for task in suite.tasks if task.name in names and role in task.data)
    missing = sorted(names - {task.name for task in tasks})
    if missing or not names:
        told_of = f"no data to {role} with for {', '.join(missing)}" if missing else "there is nothing to measure"
        raise RecipeError(Problem(told_of, fix=f"split: {{{role}: FILE}}"))
    return tasks


def temporary_folder() -> Path:
    """A new one, for whoever removes it.

    Raises:
        StorageError: when there is no room for it.
    """
    try:
        return Path(mkdtemp(prefix="stockpot-"))
    except OSError as error:
        raise cannot_write("a temporary folder", error) from error

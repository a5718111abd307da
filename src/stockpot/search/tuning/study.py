"""A study: trials in an SQLite file in Optuna's form, sampled in memory, each written in one piece.

Asking and telling happens in one process, in memory; the file is written before a trial begins and when it has ended. A
process that is killed at any moment leaves trials that have ended, and trials that were running with all their values.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from stockpot.errors import PlanError, Problem, StorageError
from stockpot.execute.lock import Lock
from stockpot.search.objective import Objective
from stockpot.search.spaces.dimensions import Dimension, Value
from stockpot.search.tuning.samplers import Keyed, check_optuna, distributions, quiet
from stockpot.search.tuning.trials import Outcome, State, Trial

__all__ = ["Shelf", "Study"]

_FACTS, _VALUES, _OUTCOME = "stockpot:facts", "stockpot:values", "stockpot:outcome"
_MAXIMIZE, _MINIMIZE = "MAXIMIZE", "MINIMIZE"
_WAIT_SECONDS = 30
_FIXES = {
    "locked": "end what holds it, such as another program that looks at it; then the same command continues",
    "full": "make room; then the same command continues",
    "disk I/O": "make room, or check the disk; then the same command continues",
    "readonly": "make it writable, or name another file: --study FILE",
    "": "name another file: --study FILE, or remove it when it is damaged",
}
"""What SQLite says → what helps; the last one whatever it says."""


class Shelf:
    """The file that holds studies, locked while it is open; None keeps them in memory.

    Raises:
        PlanError: when another process searches with the file.
        StorageError: when it cannot be read or written.
        UnsupportedError: without Optuna.
    """

    def __init__(self, path: Path | None) -> None:
        check_optuna()
        self.path = path
        self._lock: Lock | None = None
        self._file: os.stat_result | None = None
        self.storage: Any = None
        if path is not None:
            self._lock = self._locked(path)
            try:
                self.storage = _storage(path)
                self._file = path.stat()
            except BaseException:
                self._lock.release()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            with contextlib.suppress(Exception):
                self.storage.remove_session()
                self.storage.engine.dispose()
            self._lock.release()

    def check(self) -> None:
        """Make sure that the file is still there: what is written to one that was removed is lost without an error.

        Raises:
            StorageError: when it was removed or replaced.
        """
        if self.path is None or self._file is None:
            return
        try:
            same = os.path.samestat(self.path.stat(), self._file)
        except OSError:
            same = False
        if not same:
            message = "the study was removed, or replaced, while it was searched with"
            raise StorageError(Problem(message, file=str(self.path), fix="put it back, or begin again"))

    def _locked(self, path: Path) -> Lock:
        try:
            return Lock(path.with_name(f"{path.name}.lock"), path).take()
        except PlanError as error:
            who = error.problems[0].message.replace("is writing this output", "searches with this study")
            fix = "wait for it, or name another file: --study FILE"
            raise PlanError(Problem(who, file=str(path), fix=fix)) from error
        except OSError as error:
            fix = "name a file that can be written: --study FILE"
            raise StorageError(Problem(f"the study cannot be kept: {error}", file=str(path), fix=fix)) from error

    def study(
        self,
        name: str,
        dimensions: Sequence[Dimension],
        sampler: Keyed | Sequence[Mapping[str, Value]],
        objectives: Sequence[Objective],
        facts: Mapping[str, Any],
        first: Mapping[str, Value] | None = None,
    ) -> Study:
        """The study called ``name``, begun or continued; see :class:`Study`.

        Raises:
            PlanError: when the file's study of that name was made of other facts.
            StorageError: when it cannot be read or written, or is damaged.
        """
        with _trouble(self.path):
            return Study(self, name, dimensions, sampler, objectives, facts, first)


class Study:
    """Trials of one sampler.

    Args:
        shelf: Where they are kept.
        name: Of the study in its file.
        dimensions: What is searched.
        sampler: Where to look next, or all places in order.
        objectives: What figures are, in their order.
        facts: JSON data: what figures depend on.
        first: The values of the first trial, for samplers.
    """

    def __init__(
        self,
        shelf: Shelf,
        name: str,
        dimensions: Sequence[Dimension],
        sampler: Keyed | Sequence[Mapping[str, Value]],
        objectives: Sequence[Objective],
        facts: Mapping[str, Any],
        first: Mapping[str, Value] | None,
    ) -> None:
        import optuna

        self.name, self._shelf, self._objectives, self._first = name, shelf, tuple(objectives), first
        self._space = distributions(dimensions)
        self._listed = None if isinstance(sampler, Keyed) else list(sampler)
        memory = optuna.storages.InMemoryStorage()
        own: Any = sampler if isinstance(sampler, Keyed) else optuna.samplers.RandomSampler(seed=0)
        ways = [_MAXIMIZE if one.better == "higher" else _MINIMIZE for one in objectives]
        directions = [optuna.study.StudyDirection[way] for way in ways]
        self._study = optuna.create_study(storage=memory, study_name=name, sampler=own, directions=directions)
        self._memory = _Kept(memory, memory.get_study_id_from_name(name))
        self._disk = None
        if shelf.storage is not None:
            with _damage(shelf.path):
                self._disk = _opened(shelf.storage, name, directions, facts, shelf.path)
                for one in self._left(self._disk):
                    self._memory.add(one)

    def _left(self, disk: _Kept) -> list[Any]:
        """What earlier runs have left in the file; a ValueError when something in it is no trial of this search."""
        found = [disk.mended(one, self._space) for one in disk.all()]
        for trial in map(_trial, found):
            if trial.values.keys() != self._space.keys() or (trial.state == "complete" and not trial.outcome.rungs):
                raise ValueError(f"trial {trial.number} lacks values")
        return found

    @property
    def most(self) -> float:
        """How many trials there can be."""
        return math.inf if self._listed is None else len(self._listed)

    @property
    def trials(self) -> list[Trial]:
        """All that were begun, in order."""
        return [_trial(one) for one in self._memory.all()]

    def ask(self) -> Trial:
        """Begin another trial."""
        self._shelf.check()
        with _trouble(self._shelf.path), quiet():
            number = len(self._memory.all())
            fixed = self._listed[number] if self._listed is not None else self._first if number == 0 else None
            if fixed is not None:
                self._study.enqueue_trial(dict(fixed))
            begun = self._study.ask(fixed_distributions=self._space)
            frozen = self._memory.all()[begun.number]
            if self._disk is not None:
                self._disk.begin(frozen)
            return _trial(frozen)

    def tell(self, number: int, outcome: Outcome) -> Trial:
        """End a trial."""
        self._shelf.check()
        with _trouble(self._shelf.path):
            for kept in [self._memory] if self._disk is None else [self._disk, self._memory]:
                kept.end(number, outcome, steps=len(self._objectives) == 1)
            return _trial(self._memory.all()[number])


@dataclass(frozen=True)
class _Kept:
    """A study in one of Optuna's storages."""

    storage: Any
    id: int

    def all(self) -> list[Any]:
        """Its trials by number."""
        found: list[Any] = self.storage.get_all_trials(self.id, deepcopy=False)
        return found

    def add(self, frozen: Any) -> int:
        """A trial as it is."""
        return int(self.storage.create_new_trial(self.id, template_trial=frozen))

    def begin(self, frozen: Any) -> None:
        """A trial with all its values in one piece, then as parameters, for Optuna's own tools.

        Optuna's storage asks several questions of the file for each parameter: a millisecond for each of a hundred.
        """
        bare = copy.copy(frozen)
        bare.params, bare.distributions = {}, {}
        bare.user_attrs = {**frozen.user_attrs, _VALUES: frozen.params}
        self._parameters(self.add(bare), frozen)

    def mended(self, one: Any, space: Mapping[str, Any]) -> Any:
        """A trial of the file, whose parameters are written where the process died before that."""
        values = one.user_attrs.get(_VALUES)
        if not one.params and values is not None:
            one = copy.copy(one)
            one.params, one.distributions = values, dict(space)
            self._parameters(one._trial_id, one)  # noqa: SLF001 - a frozen trial tells only its number
        return one

    def _parameters(self, trial: int, frozen: Any) -> None:
        from optuna.distributions import distribution_to_json
        from sqlalchemy import text

        rows = [
            {"trial": trial, "name": n, "value": d.to_internal_repr(frozen.params[n]), "told": distribution_to_json(d)}
            for n, d in frozen.distributions.items()
        ]
        columns = "trial_id, param_name, param_value, distribution_json"
        with self.storage.engine.begin() as connection:
            told = text(f"INSERT INTO trial_params ({columns}) VALUES (:trial, :name, :value, :told)")  # noqa: S608
            connection.execute(told, rows)

    def end(self, number: int, outcome: Outcome, *, steps: bool) -> None:
        """Note what came of a trial; its state, which counts, last.

        Args:
            steps: Whether rungs are Optuna's intermediate values, of which there is one a step.
        """
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
        trial = self.storage.get_trial_id_from_study_id_trial_number(self.id, number)
        told = {"error": outcome.error, "seconds": round(outcome.seconds, 3), "rungs": outcome.rungs}
        self.storage.set_trial_user_attr(trial, _OUTCOME, json.dumps(told))
        if len(outcome.rungs) > 1 and steps:
            for step, figures in enumerate(outcome.rungs):
                self.storage.set_trial_intermediate_value(trial, step, figures[0])
        values = list(outcome.rungs[-1]) if outcome.state != "failed" else None
        self.storage.set_trial_state_values(trial, states[outcome.state], values)


def _opened(storage: Any, name: str, directions: Sequence[Any], facts: Mapping[str, Any], path: Path | None) -> _Kept:
    """The study of that name, begun or as it was left; refused where it was made of other facts."""
    own = json.loads(json.dumps(facts))
    if name not in {study.study_name for study in storage.get_all_studies()}:
        storage.create_new_study(directions, name)
    kept = _Kept(storage, storage.get_study_id_from_name(name))
    had = storage.get_study_user_attrs(kept.id).get(_FACTS)
    if had is None and not kept.all():
        storage.set_study_user_attr(kept.id, _FACTS, own)
        return kept
    had = had or {}
    differ = [key for key in {**own, **had} if own.get(key) != had.get(key)]
    if differ:
        told = ", ".join(_told(key, had.get(key), own.get(key)) for key in differ)
        fix = "name another file: --study FILE; or remove this one, which begins anew"
        raise PlanError(Problem(f"the study was made of something else: {told}", file=str(path), fix=fix))
    return kept


def _trial(one: Any) -> Trial:
    """One of Optuna's frozen trials as ours.

    Raises:
        ValueError: when it is none, as other exceptions tell.
    """
    names: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}
    state = names.get(one.state.name, "running")
    told = json.loads(one.user_attrs.get(_OUTCOME, "{}")) if state != "running" else {}
    rungs = tuple(tuple(map(float, figures)) for figures in told.get("rungs", ()))
    if state in ("complete", "stopped") and not rungs:
        raise ValueError(f"trial {one.number} has no figures")
    return Trial(one.number, dict(one.params), Outcome(state, rungs, told.get("error"), told.get("seconds", 0.0)))


def _told(key: str, had: Any, own: Any) -> str:
    """A fact that differs, with what it was where that is short; of a mapping, as of versions, what differs in it."""
    if isinstance(had, dict) and isinstance(own, dict):
        differ = [name for name in {**had, **own} if had.get(name) != own.get(name)]
        return f"{key} of {', '.join(_told(name, had.get(name), own.get(name)) for name in differ)}"
    short = all(isinstance(value, str | int | float | list) and len(str(value)) <= 30 for value in (had, own))
    return f"{key} (was {had}, is {own})" if short else key


def _storage(path: Path) -> Any:
    """Optuna's storage in an SQLite file that loses nothing when the process dies."""
    import optuna
    from sqlalchemy import event
    from sqlalchemy.engine import URL

    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    with _trouble(path):
        url = URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _WAIT_SECONDS}})
        event.listen(storage.engine, "connect", prepare)
        storage.engine.dispose()  # what is connected from now on is prepared
        return storage


@contextlib.contextmanager
def _damage(path: Path | None) -> Iterator[None]:
    """What is read meanwhile is text of a file: whatever it may hold, nothing is run, and what is wrong is told."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        told = f"the study is damaged, or was not written by stockpot search: {type(error).__name__}: {error}"
        fix = "remove it, or name another file: --study FILE"
        raise StorageError(Problem(told, file=str(path), fix=fix)) from error


@contextlib.contextmanager
def _trouble(path: Path | None) -> Iterator[None]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        told = str(error.__cause__ or error).splitlines()[0]
        fix = next((fix for word, fix in _FIXES.items() if word in told), _FIXES[""])
        raise StorageError(Problem(f"the study fails: {told}", file=str(path), fix=fix)) from error

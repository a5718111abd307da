"""A study: trials in an SQLite file in Optuna's form, sampled in memory, each written in one piece.

Asking and telling happens in one process, in memory; the file is written before a trial begins and when it has ended. A
process that is killed at any moment leaves trials that have ended, and trials that were running with all their values.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stockpot.errors import PlanError, Problem, StorageError
from stockpot.execute.lock import Lock
from stockpot.search.objective import Objective
from stockpot.search.tuning.samplers import Keyed, check_optuna, distributions, quiet
from stockpot.search.tuning.trials import Outcome, State, Trial

if TYPE_CHECKING:
    from stockpot.search.tuning.space import Dimension, Value

__all__ = ["Shelf", "Study"]

_FACTS, _OUTCOME = "stockpot:facts", "stockpot:outcome"
_WAIT_SECONDS = 30


class Shelf:
    """The file that holds studies, locked while it is open; None keeps them in memory.

    Raises:
        PlanError: when another process searches with the file.
        StorageError: when it cannot be read or written.
        UnsupportedError: without Optuna.
    """

    def __init__(self, path: Path | None) -> None:
        check_optuna()
        self.path, self._lock, self.storage = path, None, None
        if path is not None:
            self._lock = self._locked(path)
            try:
                self.storage = _storage(path)
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

    def _locked(self, path: Path) -> Lock:
        try:
            return Lock(path.with_name(f"{path.name}.lock"), path).take()
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
        self._space, self._names = distributions(dimensions), tuple(one.name for one in dimensions)
        self._listed = None if isinstance(sampler, Keyed) else list(sampler)
        directions = ["maximize" if one.better == "higher" else "minimize" for one in objectives]
        own: Any = sampler if isinstance(sampler, Keyed) else optuna.samplers.RandomSampler(seed=0)
        self._memory = optuna.create_study(sampler=own, directions=directions, pruner=optuna.pruners.NopPruner())
        self._disk = None
        if shelf.storage is not None:
            self._disk = optuna.create_study(
                study_name=name, storage=shelf.storage, directions=directions, load_if_exists=True
            )
            _check_facts(self._disk, facts, shelf.path)
            self._load()

    @property
    def most(self) -> float:
        """How many trials there can be."""
        return math.inf if self._listed is None else len(self._listed)

    @property
    def trials(self) -> list[Trial]:
        """All that were begun, in order."""
        with _trouble(self._shelf.path):
            return [_trial(one) for one in self._memory.get_trials(deepcopy=False)]

    def ask(self) -> Trial:
        """Begin another trial."""
        with _trouble(self._shelf.path), quiet():
            number = len(self._memory.get_trials(deepcopy=False))
            fixed = self._listed[number] if self._listed is not None else self._first if number == 0 else None
            if fixed is not None:
                self._memory.enqueue_trial(dict(fixed))
            begun = self._memory.ask(fixed_distributions=self._space)
            frozen = self._memory.get_trials(deepcopy=False)[begun.number]
            if self._disk is not None:
                self._disk._storage.create_new_trial(self._disk._study_id, template_trial=frozen)
            return _trial(frozen)

    def tell(self, number: int, outcome: Outcome) -> Trial:
        """End a trial."""
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
        told = json.dumps({"error": outcome.error, "seconds": round(outcome.seconds, 3), "rungs": outcome.rungs})
        values = list(outcome.rungs[-1]) if outcome.state != "failed" else None
        targets = [self._memory] if self._disk is None else [self._disk, self._memory]
        with _trouble(self._shelf.path):
            for study in targets:
                storage = study._storage
                trial = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
                storage.set_trial_user_attr(trial, _OUTCOME, told)
                if len(outcome.rungs) > 1 and len(self._objectives) == 1:
                    for step, (value,) in enumerate(outcome.rungs):
                        storage.set_trial_intermediate_value(trial, step, value)
                storage.set_trial_state_values(trial, states[outcome.state], values)
            return _trial(self._memory.get_trials(deepcopy=False)[number])

    def _load(self) -> None:
        """Take the file's trials into memory, numbered as they are there."""
        assert self._disk is not None
        for one in self._disk.get_trials(deepcopy=False):
            self._memory._storage.create_new_trial(self._memory._study_id, template_trial=one)


def _trial(one: Any) -> Trial:
    """One of Optuna's frozen trials as ours."""
    names: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "stopped", "FAIL": "failed"}
    state = names.get(one.state.name, "running")
    told = json.loads(one.user_attrs.get(_OUTCOME, "{}")) if state != "running" else {}
    rungs = tuple(tuple(figures) for figures in told.get("rungs", ()))
    return Trial(one.number, dict(one.params), Outcome(state, rungs, told.get("error"), told.get("seconds", 0.0)))


def _check_facts(study: Any, facts: Mapping[str, Any], path: Path | None) -> None:
    """Note what a new study is made of; refuse one that was made of something else."""
    own = json.loads(json.dumps(facts))
    had = study.user_attrs.get(_FACTS)
    if had is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(_FACTS, own)
        return
    differ = [key for key in {**own, **(had or {})} if own.get(key) != (had or {}).get(key)]
    if differ:
        told = ", ".join(_told(key, (had or {}).get(key), own.get(key)) for key in differ)
        fix = "name another file: --study FILE; or remove this one, which begins anew"
        raise PlanError(Problem(f"the study was made of something else: {told}", file=str(path), fix=fix))


def _told(key: str, had: Any, own: Any) -> str:
    """A fact that differs, with what it was where that is short."""
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
def _trouble(path: Path | None) -> Iterator[None]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        fix = "name another file: --study FILE, or remove it when it is damaged"
        told = str(error.__cause__ or error).splitlines()[0]
        raise StorageError(Problem(f"the study fails: {told}", file=str(path), fix=fix)) from error

"""Evaluating models over a suite: each model is opened once, each prediction is made once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import extract_tb

import numpy as np
import numpy.typing as npt

from stockpot.errors import ExecutionError, Problem, RecipeError, StockpotError
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate, named
from stockpot.evaluate.code import place_of
from stockpot.evaluate.ensemble import Ensemble, ensembled
from stockpot.evaluate.examples import digest
from stockpot.evaluate.figures import Bootstrap
from stockpot.evaluate.identity import model_hash
from stockpot.evaluate.kinds import ROLES
from stockpot.evaluate.metrics import figure_of, values_of
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import Metric, Predictions
from stockpot.evaluate.results import Cell, Figure, ModelRow, Result
from stockpot.evaluate.suite import Suite, SuiteTask
from stockpot.evaluate.why import compare_all, same_examples
from stockpot.execute.versions import versions_of
from stockpot.printable import printable, redacted

__all__ = ["evaluate", "naming", "task_hash", "told"]

Tell = Callable[[Cell], None]


def evaluate(
    models: Sequence[Candidate],
    suite: Suite,
    *,
    split: str = "report",
    cache: Cache | None = None,
    reference: str | None = None,
    device: str | None = None,
    choosing: str | None = None,
    ensembles: Sequence[Ensemble] = (),
    tell: Tell | None = None,
) -> Result:
    """Every model on every task of ``suite`` that has data for ``split``. Differences are to the first model.

    Whatever goes wrong with a model or a task is the error of its cells; the others go on.

    Args:
        models: At least one; their names are made to differ.
        split: ``tune``, ``select`` or ``report``.
        cache: Where predictions are kept; None keeps none.
        reference: Name of the model that retention is relative to; None takes the best of each task.
        device: Where torch runs models; None takes a GPU where there is one.
        choosing: What the figures choose, by a name for people: the data is noted as used for choosing, and figures
            that are reported on it later, with this cache, are marked.
        ensembles: Rows after the models' own, of their mean outputs; empty cells on tasks without probabilities.
        tell: Called with each cell as it is done, before differences and retention are known.

    Raises:
        RecipeError: when no task has such data, or ``reference`` or a member of an ensemble is not among the models.
    """
    if split not in ROLES:
        raise RecipeError(Problem(f"unknown split {split!r}", fix=f"one of {', '.join(ROLES)}"))
    tasks, given = suite.having(split), named(models)
    names = [c.name for c in given]
    reference = _meant(reference, given)
    _check_members(ensembles, names)
    with nullcontext(cache) if cache is not None else Cache(None) as kept:
        marks = _marks(tasks, split, kept, choosing)
        work = _Work(kept, split, device, Bootstrap(suite.seed, suite.resamples), tell)
        hashes = [task_hash(task, split) for task in tasks]
        made = [work.model(one, tasks, hashes) for one in given]
        made += [work.ensemble(one, tasks) for one in ensembles]
    rows, done = [row for row, _ in made], [cell for _, own in made for cell in own]
    cells = [_compared(cell, work, names[0]) for cell in done]
    cells = _retained(cells, reference)
    triples = tuple(t for task in tasks for t in compare_all(task.name, work.known(task.name), names))
    return Result(
        suite=suite.name,
        split=split,
        models=tuple(_summed(row, cells) for row in rows),
        cells=tuple(cells),
        reference=reference,
        marks=marks,
        triples=triples,
        skipped=tuple(task.name for task in suite.tasks if split not in task.data),
        level=work.bootstrap.level,
        resamples=suite.resamples,
        seed=suite.seed,
    )


def task_hash(task: SuiteTask, role: str) -> str:
    """A hash of all that predictions depend on beside the model: settings, code, versions, the bytes of the data."""
    facts = {**task.task.facts, **versions_of("stockpot")}
    return digest(json.dumps(facts, sort_keys=True), task.content(role)).hex()


@dataclass(frozen=True)
class _Measured:
    """A metric's rows and resampled figures."""

    metric: Metric
    value: float
    draws: npt.NDArray[np.float64]


class _Work:
    """Predictions and figures by model and task, as they are made."""

    def __init__(self, cache: Cache, split: str, device: str | None, bootstrap: Bootstrap, tell: Tell | None) -> None:
        self._cache, self._split, self._device, self._tell = cache, split, device, tell
        self.bootstrap = bootstrap
        self._predictions: dict[tuple[str, str], Predictions] = {}
        self._measured: dict[tuple[str, str], tuple[_Measured, ...]] = {}

    def model(self, one: Candidate, tasks: Sequence[SuiteTask], hashes: Sequence[str]) -> tuple[ModelRow, list[Cell]]:
        """A model on all tasks, whose hashes are given."""
        row = ModelRow(one.name, one.reference, one.recipe)
        try:
            key = model_hash(one.plan, self._cache)
            known = [self._cache.predictions(key, own) for own in hashes]
            opened, seconds = self._opened(one) if None in known else (None, None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is this model's
            return row, [self._done(Cell(one.name, task.name, error=told(error))) for task in tasks]
        row = replace(row, hash=key, seconds=seconds)
        made = zip(tasks, hashes, known, strict=True)
        try:
            return row, [self._done(self._cell(one.name, task, (key, own), had, opened)) for task, own, had in made]
        finally:
            if opened is not None:
                opened.release()

    def ensemble(self, one: Ensemble, tasks: Sequence[SuiteTask]) -> tuple[ModelRow, list[Cell]]:
        """The mean outputs of models that are done, on all tasks."""
        made_of = f"mean {one.of} of {', '.join(one.members)}"
        return ModelRow(one.name, made_of), [self._done(self._together(one, task)) for task in tasks]

    def _together(self, one: Ensemble, task: SuiteTask) -> Cell:
        known = self.known(task.name)
        missing = [name for name in one.members if name not in known]
        if missing:
            return Cell(one.name, task.name, error=f"a member failed: {', '.join(missing)}")
        try:
            predictions = ensembled(one.of, [known[name] for name in one.members])
            if predictions is None:
                return Cell(one.name, task.name)
            return self._sound(one.name, task, predictions)
        except Exception as error:  # noqa: BLE001 - a metric may be anyone's code
            return Cell(one.name, task.name, error=told(error))

    def known(self, task: str) -> Mapping[str, Predictions]:
        """Model → predictions on a task."""
        return {model: found for (model, name), found in self._predictions.items() if name == task}

    def compared(self, cell: Cell, first: str, number: int) -> Figure:
        """A figure with its difference to that of the model ``first``, where the examples are the same."""
        figure = cell.figures[number]
        own, base = ((model, cell.task) for model in (cell.model, first))
        if base not in self._measured or not same_examples(self._predictions[own], self._predictions[base]):
            return figure
        mine, theirs = self._measured[own][number], self._measured[base][number]
        low, high = self.bootstrap.interval(mine.draws - theirs.draws)
        return replace(figure, difference=mine.value - theirs.value, difference_low=low, difference_high=high)

    def _opened(self, one: Candidate) -> tuple[Opened, float]:
        started = time.perf_counter()
        opened = one.opened(self._device)
        _ = opened.tensors
        return opened, time.perf_counter() - started

    def _cell(
        self, model: str, task: SuiteTask, key: tuple[str, str], known: Predictions | None, opened: Opened | None
    ) -> Cell:
        started = time.perf_counter()
        try:
            if known is None:
                assert opened is not None
                predictions = task.task.predict(opened, task.data[self._split])
                self._cache.keep(*key, predictions)
            else:
                predictions = known
            seconds = 0.0 if known is not None else time.perf_counter() - started
            return replace(self._sound(model, task, predictions), seconds=seconds, known=known is not None)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a task may be anyone's code
            return Cell(model, task.name, error=told(error))

    def _sound(self, model: str, task: SuiteTask, predictions: Predictions) -> Cell:
        """The cell of ``predictions``, measured."""
        measured = tuple(self._measure(metric, predictions) for metric in task.task.metrics)
        self._predictions[model, task.name], self._measured[model, task.name] = predictions, measured
        return Cell(model, task.name, tuple(map(self._figure, measured)), len(next(iter(predictions.values()))))

    def _measure(self, metric: Metric, predictions: Predictions) -> _Measured:
        values = values_of(metric, predictions)
        return _Measured(metric, figure_of(metric, values), self.bootstrap.figures(values, metric.figure))

    def _figure(self, measured: _Measured) -> Figure:
        low, high = self.bootstrap.interval(measured.draws)
        metric = measured.metric
        return Figure(metric.name, metric.better, measured.value, low, high, part=metric.part)

    def _done(self, cell: Cell) -> Cell:
        if self._tell is not None:
            self._tell(cell)
        return cell


def _meant(reference: str | None, given: Sequence[Candidate]) -> str | None:
    """The name of the model that is called ``reference``, as in tables or as it was written."""
    if reference is None:
        return None
    found = [c.name for c in given if reference in (c.name, c.reference)]
    if not found:
        fix = f"one of {', '.join(c.name for c in given)}"
        raise RecipeError(Problem(f"the reference {reference!r} is not among the models", fix=fix))
    return found[0]


def _check_members(ensembles: Sequence[Ensemble], names: Sequence[str]) -> None:
    for one in ensembles:
        unknown = [name for name in one.members if name not in names]
        if unknown or not one.members or one.name in names:
            wrong = f"has no model {', '.join(unknown)}" if unknown else "needs members, and a name of its own"
            raise RecipeError(Problem(f"the ensemble {one.name!r} {wrong}", fix=f"models: {', '.join(names)}"))


def _marks(tasks: Sequence[SuiteTask], split: str, cache: Cache, choosing: str | None) -> dict[str, str]:
    """Task → why its figures are not those of untouched data."""
    found = {}
    for task in tasks:
        content = task.content(split)
        if choosing is not None:
            cache.choose(content, choosing)
        if split != "report":
            found[task.name] = f"{split} data, which is there to choose with"
        elif split in task.reused:
            found[task.name] = "this data has another role too"
        elif (what := cache.chosen(content)) is not None:
            found[task.name] = f"this data was used to choose: {what}"
    return found


def _compared(cell: Cell, work: _Work, first: str) -> Cell:
    """``cell`` with differences to the first model."""
    if cell.model == first or not cell.figures:
        return cell
    return replace(cell, figures=tuple(work.compared(cell, first, i) for i in range(len(cell.figures))))


def _retained(cells: Sequence[Cell], reference: str | None) -> list[Cell]:
    """``cells`` with the share of the reference that each figure keeps."""
    best: dict[tuple[str, str], float] = {}
    for cell in cells:
        for figure in cell.figures if reference in (None, cell.model) else ():
            key = (cell.task, figure.metric)
            better = max if figure.better == "higher" else min
            best[key] = better(best.get(key, figure.value), figure.value)
    return [
        replace(c, figures=tuple(replace(f, retention=_share(f, best.get((c.task, f.metric)))) for f in c.figures))
        for c in cells
    ]


def _share(figure: Figure, reference: float | None) -> float | None:
    if reference is None or reference <= 0 or figure.value < 0:
        return None
    if figure.better == "higher":
        return figure.value / reference
    return reference / figure.value if figure.value else None


def _summed(row: ModelRow, cells: Sequence[Cell]) -> ModelRow:
    """``row`` with mean and worst retention over tasks."""
    own = [c for c in cells if c.model == row.name]
    shares = {c.task: c.figures[0].retention for c in own if c.figures}
    known = {task: share for task, share in shares.items() if share is not None}
    if not known:
        return row
    worst = min(known.items(), key=lambda item: item[1])
    whole = len(known) == len(own)
    return replace(row, worst=worst, retention=sum(known.values()) / len(known) if whole else None)


def told(error: BaseException) -> str:
    """An error in a few words, on one line; with the place in a user's code, or in any where it has no words."""
    if isinstance(error, StockpotError):
        text = "; ".join(str(p).replace("\n  fix: ", " – ") for p in error.problems[:3])
    else:
        words, place = str(error).strip(), place_of(error)
        text = f"{type(error).__name__}: {words or _raised_at(error)}"
        text = f"{text} ({place})" if words and place else text
    return printable(redacted(" ".join(text.split())))[:500]


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Whatever goes wrong meanwhile, in code of users too, is an error of ours that begins with ``where``."""
    try:
        yield
    except StockpotError as error:
        raise type(error)(*(replace(p, message=f"{where}: {p.message}") for p in error.problems)) from error
    except (Exception, SystemExit) as error:
        raise ExecutionError(Problem(f"{where}: {told(error)}")) from error


def _raised_at(error: BaseException) -> str:
    """``task.py, line 12: assert rows``; empty without a traceback."""
    frames = extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
